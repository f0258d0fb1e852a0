"""The named recipes, against what the paper says; and where a job's settings come from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dna_ray.config import Job, job_from_tree
from dna_ray.data.schedule import schedule
from dna_ray.data.splits import CLASS_RATINGS
from dna_ray.errors import UserError
from dna_ray.network.model import TimmSpec, TrainedModel
from dna_ray.planning.cache import sizes
from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.placement import plan_ranks
from dna_ray.planning.stand_in import made_pictures
from dna_ray.planning.work import cut_by_shape
from dna_ray.space import ZOO, Architecture, load_space, network_costs, network_spec
from dna_ray.teacher import Cut
from dna_ray_cli.job import given_job, recipes
from dna_ray_cli.plan import command
from dna_ray_cli.values import amount

SPEC = TimmSpec(name="tf_efficientnet_b7", classes=1000, mean=(0.5,) * 3, std=(0.5,) * 3)


def job_of(*settings: str, config: str = "imagenet", **options: Any) -> Job:
    limits = options.pop("limits", ())
    return job_from_tree(given_job(config, settings, limits, options))


@pytest.fixture(scope="module")
def recipe() -> Job:
    return job_of()


# ImageNet


def test_every_recipe_is_a_job() -> None:
    assert "imagenet" in recipes()
    for name in recipes():
        assert job_of(config=name).space


def test_the_imagenet_recipe_is_the_papers(recipe: Job) -> None:
    assert (recipe.space, recipe.resolution) == ("mbconv6", 224)
    assert recipe.teacher == SPEC.name
    distill = recipe.distill
    assert (distill.epochs, distill.batch, distill.sampling) == (20, 512, "uniform")
    assert (distill.learning_rate_first, distill.learning_rate) == (0.002, 0.005)
    assert (distill.decay, distill.weight_decay) == (0.9, 1e-4)
    assert distill.paths_per_minibatch == 1
    features = recipe.features
    assert (features.jitter, features.erasing, features.fresh) == (0.4, 0.5, True)
    assert recipe.retrain.label_weight == 1  # trained from scratch, without the teacher


def test_its_limits_are_what_dna_c_costs(recipe: Job) -> None:
    space = load_space(recipe.space)
    spec = network_spec(space, Architecture.parse(ZOO["dna-c"]), 1000)
    total = network_costs(spec, recipe.resolution).total
    assert recipe.limits == {"params": total.params, "macs": total.macs}


def test_all_of_imagenet_teaches_but_50_pictures_of_each_class_that_are_held_out(
    recipe: Job,
) -> None:
    assert recipe.features.images == 1_281_167 - 1000 * CLASS_RATINGS == 1_231_167
    fiftieth = made_pictures(25_623, 1000, 20)
    sizes = {name: len(members) for name, members in fiftieth.splits.items()}
    assert sizes == {"train": 24_623, "rating": 1000, "test": 1000}
    features = replace(recipe.features, images=24_623)
    windows = schedule(fiftieth, replace(recipe, features=features))
    assert windows.views == recipe.features.views == 1
    assert sum(map(len, windows.first("train", 24_623))) == 24_623
    assert recipe.rate.images + recipe.rate.recalibration <= 1000 * CLASS_RATINGS
    # Windows hold whole minibatches, but for the last.
    assert recipe.features.window % recipe.distill.batch == 0
    assert recipe.features.window % recipe.retrain.batch == 0


def test_sixteen_ranks_can_share_its_heaviest_cell(recipe: Job) -> None:
    work = dict.fromkeys(load_space(recipe.space).cells, 1.0)
    assert len(work) == 16
    plan = plan_ranks(work, 16 * len(work), recipe.distill.shards)
    assert {len(ranks) for ranks in plan.ranks_of.values()} == {16}


@pytest.fixture(scope="module")
def cut(recipe: Job) -> Cut:
    return cut_by_shape(SPEC, load_space(recipe.space).reductions, recipe.resolution)


def test_its_teacher_is_cut_into_the_papers_six_blocks(cut: Cut) -> None:
    assert cut == Cut(
        modules=tuple(f"model.blocks.{k}" for k in range(1, 7)),
        widths=(48, 80, 160, 224, 384, 640),  # Table 1
        sizes=(56, 28, 14, 14, 7, 7),
    )


def test_what_it_says_of_its_size_is_what_a_plan_counts(recipe: Job, cut: Cut) -> None:
    macs = cell_macs(load_space(recipe.space), cut, recipe.resolution)
    windows = schedule(made_pictures(500, 0, 0), recipe)
    weightless = TrainedModel(SPEC, {})
    window = sizes(recipe, windows, weightless, cut, 1000, recipe.resolution).window
    told = " ".join(line.removeprefix("#").strip() for line in recipes()["imagenet"].splitlines())
    assert f"{amount(window)}B of features a window" in told
    assert f"{amount(sum(macs.values()))} of one path of each cell" in told
    assert f"{amount(recipe.limits['macs'])} of the found network" in told


# Where settings come from


def test_options_go_before_settings_and_settings_before_the_recipe(recipe: Job) -> None:
    job = job_of("distill.epochs=2", "seed=3", seed=4, limits=("macs=400M",))
    assert job.distill.epochs == 2
    assert job.distill.batch == recipe.distill.batch
    assert job.seed == 4
    assert job.limits == {"macs": 400e6}


def test_a_file_may_be_called_like_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "imagenet.toml"
    file.write_text("seed = 9\n")
    assert job_of(config=str(file)) == Job(seed=9)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("imagnet", "did you mean 'imagenet'?"),
        ("nowhere/imagenet.toml", "configuration file must be readable"),
        ("nothing.toml", "configuration file must be readable"),
    ],
)
def test_what_is_no_recipe_and_no_file_is_an_error(config: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        job_of(config=config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "5"], "--pictures"),
        (["--tests", "5"], "--pictures"),
        (["--data", "solar", "--pictures", "500"], "leave one of them out"),
        (["--pictures", "3"], "give more pictures"),
        (["--pictures", "500", "--classes", "200"], "4 pictures or more"),
        (["--pictures", "500", "--max", "macs=1K"], "smallest that can be met"),
        (["--pictures", "500", "--teacher", "lite1"], "'lite1' is none"),
        (["--pictures", "500", "--space", "demoo"], "did you mean 'demo'?"),
    ],
)
def test_a_plan_refuses_what_a_search_would_before_ray_starts(words: list[str], said: str) -> None:
    outcome = CliRunner().invoke(command, words)
    assert isinstance(outcome.exception, UserError)
    assert said in str(outcome.exception)

"""Does a rating agree with itself, and with paths trained alone? Kendall's tau in each block.

Between two seeds (windows, weights, paths and rating pictures all drawn anew; the mean over the
pairs of three), and there of pairs of paths that differ in kernels alone and of all other pairs,
between two halves of the held-out pictures with the same cells, and against paths
that are trained alone, `ALONE` of each block with weights of their own, `TRAININGS` times each, by
the default recipe (or that of `--alone`) at the same resolution: these are the same for all
recipes, and each other, multiply-adds and parameters are held against them too. Recipes are given
as `KEY=VALUE,...`; each is measured under the same adapted teacher. Two processes, one thread each,
and what one of them has found is kept: after a change of the engine, remove the folder.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from dna_ray.config import job_from_tree, put, setting
from dna_ray.data import load_pictures
from dna_ray.network.model import TrainedModel, load_model
from dna_ray.randomness import generator
from dna_ray.ranking import shrunk
from dna_ray.space import Space, cost_table, load_space
from dna_ray.teacher import cut_teacher
from tests import plain
from tests.benchmarks.report import publish, table

SEEDS = (0, 1, 2)
KEEP = "rate.interactions="  # changes nothing of what is kept
ALONE = 20
TRAININGS = 2


def _job(recipe: str, seed: int) -> Any:
    tree: dict[str, Any] = {"seed": seed}
    for text in filter(None, recipe.split(",")):
        put(tree, *setting(text))
    return job_from_tree(tree)


def _teacher(resolution: int, folder: Path) -> TrainedModel:
    """lite0 fitted to the labels as `dna-ray search` does it with seed 0, kept in `folder`."""
    file = folder / f"teacher-{resolution}.safetensors"
    if not file.exists():
        plain.put_adapted(file, resolution)
    return load_model(file)


def _features(recipe: str, seed: int, folder: Path) -> tuple[list[Any], list[Any]]:
    job = _job(recipe, seed)
    space = load_space(job.space)
    resolution = job.resolution or space.resolution
    teacher = _teacher(resolution, folder)
    cut = cut_teacher(teacher, space.reductions, resolution)
    windows = plain.make_windows(load_pictures("solar"), job, resolution)
    return plain.teach_cells(teacher, cut, windows, job)


_cache: dict[tuple[str, int], Any] = {}


def _measure(task: tuple[str, int, tuple[int, int], str]) -> dict[str, Any]:
    """Train and rate one cell of one recipe and seed, and keep in a file what is found."""
    recipe, seed, where, folder = task
    trained = ",".join(part for part in recipe.split(",") if not part.startswith(KEEP))
    file = Path(folder) / f"rated-{trained}-seed-{seed}-{where[0]}-{where[1]}.json"
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        return kept
    job = _job(recipe, seed)
    space = load_space(job.space)
    resolution = job.resolution or space.resolution
    teacher = _teacher(resolution, Path(folder))
    cut = cut_teacher(teacher, space.reductions, resolution)
    if (recipe, seed) not in _cache:
        _cache.clear()
        _cache[recipe, seed] = _features(recipe, seed, Path(folder))
    windows, held_out = _cache[recipe, seed]
    pixels = (teacher.spec.mean, teacher.spec.std)
    start = time.process_time()
    weights = plain.weights(space, cut, pixels, windows, job, where)
    trained_at = time.process_time()
    first, images = job.rate.recalibration, job.rate.images
    losses = []
    for rows in (
        slice(first, first + images),
        slice(first, first + images // 2),
        slice(first + images // 2, first + images),
    ):
        data = plain.rating_set(held_out, where[0], first, rows)
        losses.append(plain.rate(space, cut, pixels, where, weights, data, 1))
        if len(losses) == 1:
            rated_at = time.process_time()
    found = {"losses": losses, "distill": trained_at - start, "rate": rated_at - trained_at}
    file.write_text(json.dumps(found))
    return found


def _alone(task: tuple[str, int, str]) -> tuple[list[int], list[list[float]]]:
    """The rows of some paths of a block, and their losses in each training alone by a recipe.

    They are kept in a file, for other recipes at this resolution.
    """
    recipe, block, folder = task
    file = Path(folder) / f"alone-{recipe}-{block}.json"
    if file.exists():
        rows, losses = json.loads(file.read_text())
        return rows, losses
    job = _job(recipe, 0)
    space = load_space(job.space)
    resolution = job.resolution or space.resolution
    teacher = _teacher(resolution, Path(folder))
    cut = cut_teacher(teacher, space.reductions, resolution)
    windows, held_out = _features(recipe, 0, Path(folder))
    first, images = job.rate.recalibration, job.rate.images
    data = plain.rating_set(held_out, block, first, slice(first, first + images))
    paths = [
        (cell, path)
        for cell in range(len(space.blocks[block].cells))
        for path in space.blocks[block].paths(cell)
    ]
    rows = generator(0, "alone", block).permutation(len(paths))[:ALONE].tolist()
    losses = [
        [
            plain.rated_alone(
                space,
                cut,
                (teacher.spec.mean, teacher.spec.std),
                windows,
                job,
                (block, paths[row][0]),
                paths[row][1],
                (training, "alone"),
                data,
            )
            for row in rows
        ]
        for training in range(TRAININGS)
    ]
    file.write_text(json.dumps([rows, losses]))
    return rows, losses


def main() -> None:
    """Measure the recipes named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=[""], help="KEY=VALUE,... each")
    default = Path(tempfile.gettempdir()) / "dna-ray-agreement"
    parser.add_argument("--folder", type=Path, default=default)
    parser.add_argument("--alone", default="", help="the recipe of paths trained alone")
    parser.add_argument("--blocks", type=int, nargs="*", help="only these, 1-based")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    plain.one_thread()
    for recipe in arguments.recipes:
        job = _job(recipe, 0)
        _teacher(job.resolution or load_space(job.space).resolution, arguments.folder)
    rows = []
    with multiprocessing.get_context("spawn").Pool(2, plain.one_thread) as pool:
        for recipe in arguments.recipes:
            space = load_space(_job(recipe, 0).space)
            chosen = arguments.blocks or range(1, 1 + len(space.blocks))
            where = [w for w in plain.cells(space) if w[0] + 1 in chosen]
            tasks = [(recipe, seed, w, str(arguments.folder)) for seed in SEEDS for w in where]
            results = pool.map(_measure, tasks, chunksize=-(-len(where) // 2))
            resolution = _job(recipe, 0).resolution or space.resolution
            truth = f"{arguments.alone},resolution={resolution}".removeprefix(",")
            blocks = sorted({block for block, _ in where})
            alone = pool.map(_alone, [(truth, block, str(arguments.folder)) for block in blocks], 1)
            rows += _rows(
                recipe,
                dict(zip([t[1:3] for t in tasks], results, strict=True)),
                dict(zip(blocks, alone, strict=True)),
            )
            print("\n".join(" | ".join(row) for row in rows[-len(blocks) :]), flush=True)
    publish(
        "agreement",
        "Agreement of the rating with itself",
        table(HEADER, rows),
        write=arguments.write,
    )


HEADER = (
    "recipe", "block", "two seeds", "of paths that differ in kernels alone", "of all others",
    "two held-out halves", "against paths alone",
    "these against each other", "multiply-adds", "parameters", "rating with multiply-adds",
    "distill, core s", "rate, core s",
)  # fmt: skip


def _alike(space: Space, block: int, cell: int) -> np.ndarray:
    """A number for every path of a cell: the same for those that differ in kernels alone."""
    kinds: dict[tuple[int, ...], int] = {}
    expansions = (tuple(op.expansion for op in path) for path in space.blocks[block].paths(cell))
    return 10_000 * cell + np.array([kinds.setdefault(kind, len(kinds)) for kind in expansions])


def _pairs(one: np.ndarray, other: np.ndarray, alike: np.ndarray) -> tuple[float, float]:
    """Kendall's tau over the pairs of paths that are alike, and over all others."""
    i, j = np.triu_indices(len(one), 1)
    agree = np.sign(one[i] - one[j]) * np.sign(other[i] - other[j])
    same = alike[i] == alike[j]
    return agree[same].mean(), agree[~same].mean()


def _rows(
    recipe: str,
    results: dict[tuple[int, tuple[int, int]], Any],
    alone: dict[int, tuple[list[int], list[list[float]]]],
) -> list[list[str]]:
    space = load_space(_job(recipe, 0).space)
    costs = cost_table(space, _job(recipe, 0).resolution or space.resolution, 2)
    keep = _job(recipe, 0).rate.interactions
    rows = []
    for b, block in enumerate(space.blocks):
        if (0, (b, 0)) not in results:
            continue
        cells = range(len(block.cells))

        def joined(seed: int, part: int, b: int = b, cells: range = cells) -> np.ndarray:
            return np.concatenate(
                [
                    shrunk(
                        np.array(results[seed, (b, c)]["losses"][part]),
                        space.blocks[b].cells[c].layers,
                        keep,
                    )
                    for c in cells
                ]
            )

        params, macs = np.concatenate([costs.paths[b][c][0] for c in cells]).T
        paths, trainings = alone[b]
        losses = np.mean(trainings, axis=0)
        alike = np.concatenate([_alike(space, b, c) for c in cells])
        pairs = [_pairs(joined(s, 0), joined(t, 0), alike) for s, t in combinations(SEEDS, 2)]
        taus = (
            np.mean([kendalltau(joined(s, 0), joined(t, 0))[0] for s, t in combinations(SEEDS, 2)]),
            *np.mean(pairs, axis=0),
            np.mean([kendalltau(joined(s, 1), joined(s, 2))[0] for s in SEEDS]),
            np.mean([kendalltau(joined(s, 0)[paths], losses)[0] for s in SEEDS]),
            kendalltau(*trainings)[0],
            kendalltau(-macs[paths], losses)[0],
            kendalltau(-params[paths], losses)[0],
            np.mean([kendalltau(-joined(s, 0), macs)[0] for s in SEEDS]),
        )
        seconds = [
            np.mean([sum(results[s, (b, c)][stage] for c in cells) for s in SEEDS])
            for stage in ("distill", "rate")
        ]
        rows.append(
            [recipe or "defaults", str(b + 1)]
            + [f"{tau:.2f}" for tau in taus]
            + [f"{value:.1f}" for value in seconds]
        )
    return rows


if __name__ == "__main__":
    main()

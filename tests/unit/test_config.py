"""The configuration of a search, its TOML form, and the values of command-line options."""

import dataclasses
import typing
from fractions import Fraction
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from dna_ray.config import (
    Adapt,
    Distill,
    Features,
    Job,
    Rate,
    Retrain,
    Tune,
    job_from_tree,
    job_to_toml,
    parse_job,
    put,
    setting,
)
from dna_ray.errors import UserError
from dna_ray_cli.values import amount, parse_limits

few = settings(max_examples=30, deadline=None)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(2, 10**6)
shares = st.floats(0.01, 1)
rates = st.floats(1e-12, 10)
ranges = st.tuples(rates, rates).map(lambda pair: (min(pair), max(pair)))
jobs = st.builds(
    Job,
    data=words,
    space=words,
    teacher=words,
    adapt_teacher=st.none() | st.booleans(),
    generations=counts,
    seed=st.integers(0, 2**70),
    resolution=st.just(0) | st.integers(32, 1000),
    limits=st.dictionaries(words, st.floats(0, exclude_min=True), max_size=3),
    features=st.builds(
        Features, images=counts, views=counts, window=counts, crop=shares, jitter=shares
    ),
    distill=st.builds(
        Distill,
        epochs=counts,
        sampling=st.sampled_from(["fair", "uniform"]),
        learning_rate=rates,
        decay=shares,
    ),
    rate=st.builds(Rate, images=counts, recalibration=counts),
    adapt=st.builds(Adapt, passes=counts, learning_rate=rates),
    tune=st.builds(Tune, trials=counts, learning_rate=ranges, weight_decay=ranges),
    retrain=st.builds(Retrain, passes=counts, label_weight=shares, scale=st.integers(0, 7)),
)


def sections() -> dict[str, Any]:
    """The configuration's sections by name."""
    hints = typing.get_type_hints(Job)
    return {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}


def keys() -> dict[str, Any]:
    """Every key that holds a value, with dots, and its type."""
    found = {k: kind for k, kind in typing.get_type_hints(Job).items() if k not in sections()}
    for section, kind in sections().items():
        found |= {f"{section}.{key}": hint for key, hint in typing.get_type_hints(kind).items()}
    return found


def nested(name: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    put(tree, name.split("."), value)
    return tree


# TOML and trees


@few
@given(jobs)
def test_a_job_comes_back_from_its_toml(job: Job) -> None:
    assert job_from_tree(parse_job(job_to_toml(job), "config.toml")) == job


def test_the_toml_holds_every_key_that_has_a_value() -> None:
    tree = parse_job(job_to_toml(Job(adapt_teacher=False)), "config.toml")
    for name in keys():
        *section, key = name.split(".")
        assert key in (tree[section[0]] if section else tree), name


def test_an_empty_tree_is_the_default_job() -> None:
    assert job_from_tree({}) == Job()


def test_a_text_that_is_no_toml_is_told_its_source() -> None:
    with pytest.raises(UserError, match=r"'mine\.toml'.*line 1") as caught:
        parse_job("seed = x", "'mine.toml'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*keys(), *sections()])
def test_an_unknown_key_is_given_the_nearest_one(name: str) -> None:
    *section, key = name.split(".")
    wrong = f"{name}x"
    with pytest.raises(UserError, match=f"'{wrong}'; did you mean '{key}'"):
        job_from_tree(nested(wrong, 1))
    assert section == [] or section[0] in sections()


def test_a_key_like_no_other_lists_those_of_its_section() -> None:
    with pytest.raises(
        UserError, match=r"'rate\.zzz'; choose one of images, interactions, recalibration$"
    ):
        job_from_tree({"rate": {"zzz": 1}})


WRONG: dict[Any, list[Any]] = {
    int: ["1", 1.0, True, [1], {}],
    float: ["0.5", True, [0.5], {}],
    str: [1, True, ["a"], {}],
    bool: ["yes", 1, 0.0, [True]],
    bool | None: ["yes", 1, 0.0, [True]],
    tuple[float, float]: [0.01, "0.1", [], [0.01], [0.01, 0.1, 0.2], [0.01, "0.1"], [True, 1]],
    dict[str, float]: [5, "macs=5", [5], {"macs": "5"}, {"macs": True}, {"macs": {}}],
}


@pytest.mark.parametrize("name", keys())
def test_a_value_of_the_wrong_type_names_its_key(name: str) -> None:
    hint = keys()[name]
    wrong = WRONG.get(hint) or ["fare", 1, True, ["fair"]]
    for value in wrong:
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            job_from_tree(nested(name, value))


@pytest.mark.parametrize("section", sections())
@pytest.mark.parametrize("value", [1, "fair", [], True])
def test_a_section_must_be_a_table(section: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{section} must be of type"):
        job_from_tree({section: value})


def test_a_misspelt_choice_is_given_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"distill\.sampling.*did you mean 'uniform'"):
        job_from_tree({"distill": {"sampling": "uniforme"}})


def test_whole_numbers_do_for_numbers_and_lists_for_ranges() -> None:
    job = job_from_tree({"distill": {"decay": 1}, "tune": {"learning_rate": [1, 2]}})
    assert isinstance(job.distill.decay, float)
    assert job.tune.learning_rate == (1.0, 2.0)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("generations", [1], [0, -1]),
        ("seed", [0], [-1]),
        ("resolution", [0, 32], [31, 1, -32]),
        ("limits.macs", [1e-9, 1e15], [0, -1, float("nan")]),
        ("features.images", [1], [0]),
        ("features.views", [1], [0]),
        ("features.window", [2], [1]),
        ("features.crop", [0.01, 1], [0, 1.01, float("nan")]),
        ("features.jitter", [0, 1], [-0.1, 1.1]),
        ("features.erasing", [0, 1], [-0.1, 1.1]),
        ("distill.epochs", [1], [0]),
        ("distill.batch", [2], [1]),
        ("distill.paths_per_minibatch", [1], [0]),
        ("distill.learning_rate", [1e-6], [0, -1, float("nan")]),
        ("distill.learning_rate_first", [1e-6], [0]),
        ("distill.decay", [0.5, 1], [0, 1.1]),
        ("distill.weight_decay", [0], [-0.1, float("nan")]),
        ("rate.images", [2], [1]),
        ("distill.members", [0, 1, 3], [-1]),
        ("rate.recalibration", [2], [1]),
        ("adapt.passes", [1], [0]),
        ("adapt.learning_rate", [1e-6], [0]),
        ("adapt.weight_decay", [0], [-1]),
        ("tune.trials", [1], [0]),
        ("tune.images", [2], [1]),
        ("tune.passes", [1], [0]),
        ("tune.learning_rate", [[0.1, 0.1]], [[0, 0.1], [0.2, 0.1], [0.1, float("nan")]]),
        ("tune.weight_decay", [[0.1, 0.2]], [[-0.1, 0.1], [0.2, 0.1]]),
        ("retrain.passes", [1], [0]),
        ("retrain.scaled_passes", [1], [0]),
        ("retrain.batch", [4, 6], [0, 1, 2, 65]),
        ("retrain.shards", [1, 32], [0, -2, 3, 64]),
        ("retrain.label_weight", [0, 1], [-0.1, 1.1]),
        ("retrain.scale", [0, 7], [-1, 8]),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    name: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        job_from_tree(nested(name, value))
    for value in bad:
        with pytest.raises(UserError, match=name.removeprefix("limits.").replace(".", r"\.")):
            job_from_tree(nested(name, value))


# --set


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("seed=5", ["seed"], 5),
        ("rate.images=64", ["rate", "images"], 64),
        ("distill.decay=.5", ["distill", "decay"], ".5"),
        ("distill.decay=0.5", ["distill", "decay"], 0.5),
        ("data=photos", ["data"], "photos"),
        ("data='5'", ["data"], "5"),
        ("data=a=b", ["data"], "a=b"),
        ("data=my pictures", ["data"], "my pictures"),
        ("adapt_teacher=true", ["adapt_teacher"], True),
        ("tune.learning_rate=[0.1, 1.0]", ["tune", "learning_rate"], [0.1, 1.0]),
    ],
)
def test_a_setting_is_a_path_and_a_toml_value_or_a_word(
    text: str, path: list[str], value: Any
) -> None:
    found = setting(text)
    assert found == (path, value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["", "seed", "=5", "seed="])
def test_a_setting_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"KEY=VALUE.*'{text}' is given"):
        setting(text)


@few
@given(jobs)
def test_a_job_can_be_given_by_settings_alone(job: Job) -> None:
    tree: dict[str, Any] = {}
    plain = parse_job(job_to_toml(job), "config.toml")
    for name in keys():
        *section, key = name.split(".")
        values = plain[section[0]] if section else plain
        if name != "limits" and key in values:
            value = tomli_w.dumps({"value": values[key]}).removeprefix("value = ").strip()
            put(tree, *setting(f"{name}={value}"))
    assert job_from_tree(tree | {"limits": job.limits}) == job


def test_put_keeps_what_is_beside() -> None:
    tree: dict[str, Any] = {"rate": {"images": 5}, "seed": 1}
    put(tree, ["rate", "recalibration"], 6)
    put(tree, ["seed"], 2)
    put(tree, ["limits", "macs"], 3)
    assert tree == {"rate": {"images": 5, "recalibration": 6}, "seed": 2, "limits": {"macs": 3}}


def test_put_through_a_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"'seed\.x' is no configuration key: 'seed'"):
        put({"seed": 1}, ["seed", "x"], 2)


# Limits and amounts

POWERS = {"": 1, "K": 10**3, "k": 10**3, "M": 10**6, "m": 10**6, "G": 10**9, "g": 10**9}


@settings(max_examples=100, deadline=None)
@given(
    whole=st.integers(0, 10**6),
    decimals=st.none() | st.text("0123456789", max_size=4),
    letter=st.sampled_from([*POWERS]),
)
def test_a_limit_is_the_number_as_written(whole: int, decimals: str | None, letter: str) -> None:
    """Rounded once: a limit of 1.001M must let a network of 1,001,000 through."""
    number = str(whole) if decimals is None else f"{whole}.{decimals}"
    exact = Fraction(number.removesuffix(".")) * POWERS[letter]
    assert parse_limits((f"macs={number}{letter}",)) == {"macs": float(exact)}


@pytest.mark.parametrize("text", ["1.001M", "1.003M", "4.35K", "16.115M", "5.3M", ".5G", "400M"])
def test_limits_that_people_write_are_whole(text: str) -> None:
    (limit,) = parse_limits((f"macs={text}",)).values()
    assert limit == Fraction(text[:-1]) * POWERS[text[-1]]


def test_each_cost_has_its_own_limit() -> None:
    assert parse_limits(()) == {}
    assert parse_limits(("macs=15M", "params= 2K ")) == {"macs": 15e6, "params": 2e3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "macs",
        "=5M",
        "macs=",
        "macs=M",
        "macs=.",
        "macs=-5",
        "macs=5T",
        "macs=5MM",
        "macs=5 M",
        "macs=5,3M",
        "macs=nan",
        "macs=inf",
        "macs==5",
        "macs=0x10",
    ],
)
def test_a_wrong_limit_is_repeated(text: str) -> None:
    with pytest.raises(UserError, match=f"COST=VALUE.*'{text}' is given"):
        parse_limits((text,))


def test_a_second_limit_on_a_cost_is_refused() -> None:
    with pytest.raises(UserError, match="'macs' is given twice"):
        parse_limits(("macs=5", "params=5", "macs=6"))


@few
@given(st.floats(1e-3, 9e12))
def test_an_amount_says_four_figures_and_the_right_power(value: float) -> None:
    number, _, letter = amount(value).partition(" ")
    assert float(number) * POWERS[letter] == pytest.approx(value, rel=6e-4)
    assert float(number) >= 1 or not letter


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12, "12"), (1000, "1 K"), (818_200, "818.2 K"), (4.5e9, "4.5 G")]
)
def test_an_amount_reads_as_people_write(value: float, text: str) -> None:
    assert amount(value) == text

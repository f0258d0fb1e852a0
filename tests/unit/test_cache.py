"""What stays in the object store is decided from sizes, and what cannot fit is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dna_ray.config import Distill, Features, Job, Rate, Tune
from dna_ray.data.schedule import Rows, Schedule
from dna_ray.errors import UserError
from dna_ray.network.model import TimmSpec, TrainedModel
from dna_ray.planning.cache import Sizes, choose, describe, sizes
from dna_ray.teacher import Cut

CUT = Cut(modules=("a", "b"), widths=(8, 16), sizes=(4, 2))
PICTURE = 3 * 8 * 8
FEATURES = 4 * (8 * 16 + 16 * 4)
LOGITS = 4 * 5
TEACHER = TrainedModel(
    TimmSpec(name="x", classes=5, mean=(0.5,) * 3, std=(0.5,) * 3),
    {"a": torch.zeros(5, 2), "b": torch.zeros(1)},
)
NEED = Sizes(window=10**6, everything=10**9, kept=10**7)


def windows(count: int, size: int) -> tuple[Rows, ...]:
    return tuple(Rows(np.zeros(size, int), np.zeros(size, int)) for _ in range(count))


def test_sizes_are_those_of_all_arrays() -> None:
    plan = Schedule({"train": windows(5, 4), "rating": windows(2, 4), "test": windows(3, 4)}, 2)
    job = Job(features=Features(images=8, window=4), tune=Tune(images=4), rate=Rate(images=4))
    found = sizes(job, plan, TEACHER, CUT, 5, 8)
    assert found.window == 4 * (PICTURE + FEATURES + LOGITS)
    pictures = 20 + 8 + 12
    assert found.everything == 88 + pictures * (PICTURE + LOGITS) + (8 + 8) * FEATURES
    assert found.kept == 88 + 8 * (PICTURE + FEATURES + LOGITS) + 4 * (PICTURE + LOGITS)
    fresh = replace(job, features=replace(job.features, fresh=True), distill=Distill(epochs=3))
    more = sizes(fresh, plan, TEACHER, CUT, 5, 8).everything - found.everything
    assert more == 2 * 8 * (PICTURE + FEATURES)
    behind = replace(job, distill=Distill(strategy="progressive_b", beam=3))
    begun = sizes(behind, plan, TEACHER, CUT, 5, 8).everything - found.everything
    assert begun == 8 * 3 * 4 * 8 * 16  # of the teacher's boundaries but the last, the largest


def job(cache: str) -> Job:
    return Job(features=Features(cache=cache))  # type: ignore[arg-type]


@given(st.sampled_from(["auto", "all", "stream"]), st.integers(10**6, 10**10))
def test_what_is_chosen_fits(cache: str, store: int) -> None:
    try:
        chosen = choose(job(cache), NEED, store)
    except UserError:
        if cache == "all":
            assert NEED.everything > 0.7 * 0.7 * store - 2
        else:
            assert NEED.kept + 3 * NEED.window > 0.7 * 0.7 * store - 2
        return
    if chosen.mode == "all":
        assert cache != "stream"
        assert NEED.everything + chosen.drawing <= 0.7 * store
        assert chosen.drawing >= 0.3 * 0.7 * store - 2
    else:
        assert cache == "stream" or NEED.everything > 0.7 * 0.7 * store - 2
        assert 2 <= chosen.ahead <= 64
        assert NEED.kept + (chosen.ahead + 1) * NEED.window + chosen.drawing <= 0.7 * store


def test_a_store_of_what_a_refusal_asks_for_is_enough() -> None:
    for cache in ("all", "stream"):
        with pytest.raises(UserError, match=f"features.cache={cache}|to stream") as refused:
            choose(job(cache), NEED, 10**6)
        need = re.findall(r"([\d.]+) (MB|GB)", str(refused.value))[0]
        bytes_ = float(need[0]) * {"MB": 1e6, "GB": 1e9}[need[1]]
        assert choose(job(cache), NEED, int(1.01 * bytes_ / (0.7 * 0.7))).mode == cache


def test_windows_of_a_progressive_search_are_kept_or_refused() -> None:
    asked = Job(distill=Distill(strategy="progressive_a"))
    assert choose(asked, NEED, 3 * 10**9).mode == "all"
    with pytest.raises(UserError, match=r"with distill.strategy=progressive_a .*=concurrent"):
        choose(asked, NEED, 10**8)


def test_the_choice_is_said_with_need_and_store() -> None:
    for store, words in (
        (3 * 10**9, "all windows are kept"),
        (10**8, "windows are streamed, 38 of"),
    ):
        chosen = choose(job("auto"), NEED, store)
        line = describe(chosen, NEED, store)
        assert words in line
        assert "1 GB" in line

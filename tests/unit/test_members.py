"""Cells that are trained several times: one state of all members, and streams of their own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dna_ray.config import Distill, Strategy
from dna_ray.distill import member_stream
from dna_ray.network.members import apart, together

NAMES = st.sampled_from(["stem.weight", "layers.0.k3e1.weight", "project.norm.running_mean"])
STATES = st.dictionaries(NAMES, st.floats(-9, 9).map(torch.tensor), min_size=1)


@given(st.lists(STATES, min_size=1, max_size=12))
def test_members_come_apart_as_they_were_put_together(
    members: list[dict[str, torch.Tensor]],
) -> None:
    state = together(members)
    assert len(state) == sum(map(len, members))
    assert apart(state) == members
    assert {name: state[name] for name in members[0]} == members[0]


def test_members_draw_from_streams_of_their_own() -> None:
    streams = [member_stream((3, 1), member) for member in range(3)]
    assert streams[0] == (3, 1)  # as where there is one
    assert len(set(streams)) == 3


@pytest.mark.parametrize(
    ("members", "strategy", "trainings"),
    [(0, "concurrent", 5), (0, "progressive_b", 1), (1, "concurrent", 1), (2, "concurrent", 2)],
)
def test_how_often_a_cell_is_trained(members: int, strategy: Strategy, trainings: int) -> None:
    assert Distill(members=members, strategy=strategy).trainings == trainings

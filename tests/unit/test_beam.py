"""The beam of the progressive strategies against a search that writes every pair out."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dna_ray.errors import UserError
from dna_ray.randomness import generator
from dna_ray.search import Beam, Selection, losses_table, ratings_of, read_losses
from dna_ray.space import (
    Architecture,
    Beginning,
    BlockChoice,
    cost_table,
    network_costs,
    network_spec,
    parse_space,
)

Array = np.ndarray

SPACE = parse_space(
    """
name = "small"
resolution = 32
ops = ["k3e1", "k5e2"]
head = 16
stem = { width = 8, out = 8 }

[[blocks]]
stride = 2
cells = [{ layers = 1, width = 8 }, { layers = 2, width = 12 }]

[[blocks]]
stride = 2
cells = [{ layers = 1, width = 16 }, { layers = 1, width = 12 }]

[[blocks]]
stride = 1
cells = [{ layers = 2, width = 16 }, { layers = 1, width = 24 }]
""",
    "small",
)
TABLE = cost_table(SPACE, 32, 2)


def choices(block: int) -> list[tuple[int, tuple]]:
    shape = SPACE.blocks[block]
    return [(cell, path) for cell in range(len(shape.cells)) for path in shape.paths(cell)]


def text(whole: Beginning) -> str:
    blocks = [
        BlockChoice(SPACE.blocks[k].cells[cell].width, path) for k, (cell, path) in enumerate(whole)
    ]
    return str(Architecture(tuple(blocks)))


def costs(whole: Beginning) -> dict[str, int]:
    total = network_costs(network_spec(SPACE, Architecture.parse(text(whole)), 2), 32).total
    return {"params": total.params, "macs": total.macs}


ALL = {whole: costs(whole) for whole in product(*(choices(k) for k in range(3)))}


def loss(beginning: Beginning, seed: int) -> float:
    """Of its last path behind all before it: any number, without structure; ties occur."""
    return float(generator(seed, str(beginning)).integers(40)) / 40


def losses(beginnings: Sequence[Beginning], seed: int) -> list[list[Array]]:
    block = SPACE.blocks[len(beginnings[0])]
    return [
        [
            np.array([loss((*beginning, (cell, path)), seed) for path in block.paths(cell)])
            for cell in range(len(block.cells))
        ]
        for beginning in beginnings
    ]


def found(limits: dict[str, float], most: int, seed: int) -> Selection:
    """The whole search by the beam."""
    beam, kept, least = Beam(SPACE, TABLE, limits, most), ((),), []
    for _ in SPACE.blocks:
        beginnings, rated = kept, losses(kept, seed)
        grown = beam.grow(beginnings, rated)
        kept = beam.kept(beginnings, grown)
        least.append([np.minimum.reduce(cells) for cells in zip(*rated, strict=True)])
    return beam.selected(ratings_of(SPACE, TABLE, least, {}), beginnings, grown)


def naive(limits: dict[str, float], most: int, seed: int) -> tuple[list[Beginning], Beginning]:
    """The last block's pairs, and the best within the limits; what fits is seen by whole ends."""
    within = [w for w, own in ALL.items() if all(own[n] <= v for n, v in limits.items())]
    kept: list[Beginning] = [()]
    pairs: list[Beginning] = []
    for block in range(3):
        pairs = [(*beginning, choice) for beginning in kept for choice in choices(block)]
        begun = {whole[: block + 1] for whole in within}
        possible = [pair for pair in pairs if pair in begun]
        ranks = {p: (loss(p, seed), *(so_far(p)[name] for name in limits)) for p in possible}
        kept = sorted(possible, key=ranks.__getitem__)[:most]
    return pairs, kept[0]


def so_far(beginning: Beginning) -> dict[str, int]:
    """The costs of the blocks of a beginning, in the last block with stem and head."""
    whole = (*beginning, *(choices(k)[0] for k in range(len(beginning), 3)))
    spec = network_spec(SPACE, Architecture.parse(text(whole)), 2)
    counted = network_costs(spec, 32)
    parts = [*counted.blocks[: len(beginning)], *([counted.fixed] if len(beginning) == 3 else [])]
    return {name: sum(getattr(part, name) for part in parts) for name in ("params", "macs")}


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 10**6),
    st.integers(0, len(ALL) - 1),
    st.sampled_from([("macs",), ("params",), ("macs", "params")]),
)
def test_the_beam_is_that_of_all_pairs(
    most: int, seed: int, anchor: int, names: tuple[str, ...]
) -> None:
    """Within limits that some architecture just meets, of which some leave few others."""
    limits = {name: float(list(ALL.values())[anchor][name]) for name in names}
    selection = found(limits, most, seed)
    pairs, best = naive(limits, most, seed)
    assert selection.found.text == text(best)
    assert selection.found.loss == loss(best, seed)
    assert selection.found.costs == costs(best)
    assert not selection.certificate.proven_optimal
    assert selection.certificate.candidates == len(pairs)

    points = {(loss(p, seed), *(costs(p)[name] for name in names)) for p in pairs}
    on_front = {
        p
        for p in points
        if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points)
    }
    front, columns = selection.front, [("params", "macs").index(name) for name in names]
    drawn = zip(front.loss.tolist(), *front.costs[:, columns].T.tolist(), strict=True)
    assert set(drawn) == on_front
    rows = front.to_arrow()
    assert selection.found.text in rows["architecture"].to_pylist()
    for point, macs in zip(rows["architecture"].to_pylist(), rows["macs"].to_pylist(), strict=True):
        spec = network_spec(SPACE, Architecture.parse(point), 2)
        assert network_costs(spec, 32).total.macs == macs


def test_a_beam_that_keeps_all_finds_the_best_of_the_space() -> None:
    limits = {"macs": float(np.median([own["macs"] for own in ALL.values()]))}
    best = found(limits, len(ALL), 3).found
    within = [whole for whole, own in ALL.items() if own["macs"] <= limits["macs"]]
    assert best.loss == min(loss(whole, 3) for whole in within)


def test_cells_that_were_not_rated_are_passed_over() -> None:
    beam = Beam(SPACE, TABLE, {"macs": 1e9}, 3)
    rated = losses([()], 0)
    rated[0][1][:] = np.nan
    grown = beam.grow([()], rated)
    assert len(grown.loss) == 2
    assert {cell for ((cell, _),) in beam.kept([()], grown)} == {0}


def test_beginnings_that_nothing_completes_are_an_error() -> None:
    cheapest = min(own["macs"] for own in ALL.values())
    beam = Beam(SPACE, TABLE, {"macs": float(cheapest)}, 3)
    rated = losses([()], 0)
    whole = min(ALL, key=lambda whole: ALL[whole]["macs"])
    rated[0][whole[0][0]][:] = np.nan
    with pytest.raises(UserError, match=rf"within macs={cheapest}, but none that is rated in"):
        beam.kept([()], beam.grow([()], rated))


def test_losses_are_read_as_they_were_written() -> None:
    beginnings = [((0, path),) for path in SPACE.blocks[0].paths(0)]
    rated = losses(beginnings, 1)
    rated[1][0][:] = np.nan
    sink = pa.BufferOutputStream()
    pq.write_table(losses_table(SPACE, rated, 1), sink)
    again = read_losses(SPACE, pq.read_table(pa.BufferReader(sink.getvalue())), 1)
    for one, other in zip(rated, again, strict=True):
        for cell, same in zip(one, other, strict=True):
            assert np.array_equal(cell, same, equal_nan=True)

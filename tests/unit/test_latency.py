"""Latency by parts, with a clock that is made up, against networks taken apart as they run."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dna_ray import latency
from dna_ray.errors import UserError
from dna_ray.latency import Stopwatch, choose_networks, measure
from dna_ray.network.layers import MBConv
from dna_ray.network.standalone import Network
from dna_ray.progress import Silent
from dna_ray.randomness import generator
from dna_ray.space import Architecture, BlockChoice, Space, load_space, network_spec
from dna_ray.space.correction import Correction, HeldOut
from dna_ray.space.costs import Layer
from dna_ray.space.latency import (
    Conditions,
    LatencyTable,
    Sample,
    Subject,
    fingerprint,
    read_latencies,
)
from dna_ray.space.parts import Part, network_parts, reference_parts, space_parts


def conditions(
    space: Space, *, networks: int = 6, seed: int = 0, batch: int = 1, device: str = "cpu"
) -> Conditions:
    return Conditions(
        space=space.name,
        fingerprint=fingerprint(space),
        resolution=space.resolution,
        classes=10,
        batch=batch,
        threads=1,
        device=device,
        processor="a processor",
        torch="2",
        networks=networks,
        seed=seed,
    )


def architectures(space: Space) -> Iterator[Architecture]:
    """All of them."""
    blocks = [
        [BlockChoice(cell.width, path) for c, cell in enumerate(b.cells) for path in b.paths(c)]
        for b in space.blocks
    ]
    return (Architecture(choices) for choices in product(*blocks))


def part_ms(part: Part) -> float:
    """A time for every part that has nothing to do with its shape."""
    return float(generator(5, part.op, *part.layer).uniform(0.1, 1))


class Clock:
    """Made-up times: a network takes `offset` (ms) + `factor` x the sum of its parts.

    They, and those of the reference (1 ms), are longer by `slowness` of the number of the sample.
    It keeps what it is asked for, and is interrupted instead of the `stop`-th time.
    """

    def __init__(
        self,
        space: Space,
        offset: float = 0.2,
        factor: float = 1.5,
        stop: int | None = None,
        slowness: Callable[[int], float] = lambda _: 1.0,
    ) -> None:
        self.space, self.offset, self.factor = space, offset, factor
        self.stop, self.slowness = stop, slowness
        self.asked: list[Subject] = []

    def __call__(self, subject: Subject) -> Sample:
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append(subject)
        slowness = self.slowness(len(self.asked))
        return Sample(slowness * self.true(subject), slowness)

    def true(self, subject: Subject) -> float:
        if isinstance(subject, Part):
            return part_ms(subject)
        parts = network_parts(self.space, subject, self.space.resolution, 10)
        return self.offset + self.factor * sum(map(part_ms, parts))


def measured(
    space: Space, rounds: int = 1, clock: Clock | None = None, **options: int
) -> LatencyTable:
    table = LatencyTable(space, conditions(space, **options))
    measure(table, rounds, clock or Clock(space), Silent(), lambda: None)
    return table


# What is timed


def layers_as_they_run(network: Network, resolution: int) -> list[tuple[str, Layer]]:
    """Of every MBConv of the blocks: its op and its layer, by the tensors that go through it."""
    seen = []

    def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        (depthwise,) = [c for c in convs if c.groups > 1]
        (x,) = inputs
        op = f"k{depthwise.kernel_size[0]}e{depthwise.in_channels // x.shape[1]}"
        stride = -(-x.shape[2] // output.shape[2])
        seen.append((op, Layer(x.shape[1], output.shape[1], stride, x.shape[2])))

    for module in network.blocks.modules():
        if isinstance(module, MBConv):
            module.register_forward_hook(look)
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, resolution, resolution))
    return seen


@pytest.mark.parametrize("resolution", [16, 21])
def test_the_parts_of_a_network_are_what_it_runs(tiny: Space, resolution: int) -> None:
    for architecture in list(architectures(tiny))[::17]:
        network = Network(network_spec(tiny, architecture, 10))
        first, *layers, last = network_parts(tiny, architecture, resolution, 10)
        assert [(part.op, part.layer) for part in layers] == layers_as_they_run(network, resolution)
        assert first == Part("stem", Layer(3, 8, 2, resolution))
        width, size = architecture.blocks[-1].width, -(-resolution // 8)
        assert last == Part("head", Layer(width, 10, 1, size))


def test_the_parts_of_a_space_are_exactly_those_that_occur_in_its_networks(tiny: Space) -> None:
    parts = space_parts(tiny, 21, 10)
    assert len(set(parts)) == len(parts)
    assert set(parts) == {
        part for net in architectures(tiny) for part in network_parts(tiny, net, 21, 10)
    }


@pytest.mark.parametrize("name", ["demo", "mbconv4", "mbconv6"])
def test_the_reference_is_made_of_a_part_of_every_block(name: str) -> None:
    space = load_space(name)
    reference = reference_parts(space, space.resolution)
    assert len(reference) == len(space.blocks)
    assert set(reference) <= set(space_parts(space, space.resolution, 10))
    assert len({part.layer.size for part in reference}) == len(set(space.reductions))


# Rounds


def test_every_round_visits_everything_once_in_an_order_of_its_own(tiny: Space) -> None:
    clock = Clock(tiny)
    table = measured(tiny, 3, clock)
    everything = set(space_parts(tiny, 16, 10)) | set(table.networks)
    assert len(table.networks) == 6
    size = len(everything)
    rounds = [clock.asked[i : i + size] for i in range(0, 3 * size, size)]
    assert [set(visits) for visits in rounds] == [everything] * 3
    assert len(clock.asked) == 3 * size
    assert rounds[1] != rounds[2]
    assert {len(times) for times in table.samples.values()} == {3}


def test_the_same_seed_gives_the_same_order_and_another_seed_another(tiny: Space) -> None:
    first, again, other = Clock(tiny), Clock(tiny), Clock(tiny)
    measured(tiny, 2, first)
    measured(tiny, 2, again)
    measured(tiny, 2, other, seed=1)
    assert first.asked == again.asked
    assert first.asked != other.asked


@settings(deadline=None, max_examples=15)
@given(stops=st.lists(st.integers(0, 90), max_size=3))
def test_interrupted_anywhere_it_goes_on_and_measures_nothing_twice(
    tiny: Space, tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    path = tmp_path_factory.mktemp("latency") / "latency.parquet"
    where = conditions(tiny)
    asked: list[Subject] = []
    for stop in [*stops, None]:
        table = LatencyTable(tiny, where)
        if path.exists():
            table = read_latencies(path, tiny, where)
        clock = Clock(tiny, stop=stop)
        before = sum(map(len, table.samples.values()))
        assert before == len(asked)
        try:
            measure(table, 2, clock, Silent(), lambda t=table: pq.write_table(t.to_arrow(), path))
        except KeyboardInterrupt:
            assert stop is not None
        asked += clock.asked
    final = read_latencies(path, tiny, where)
    uninterrupted = measured(tiny, 2)
    assert Counter(asked) == dict.fromkeys(uninterrupted.samples, 2)
    assert final.samples == uninterrupted.samples


def test_samples_are_saved_as_time_goes_by(tiny: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_SAVE_SECONDS", 0.0)
    table, clock, saved = LatencyTable(tiny, conditions(tiny)), Clock(tiny), []

    def save() -> None:
        assert sum(map(len, table.samples.values())) == len(clock.asked)
        saved.append(len(clock.asked))

    measure(table, 1, clock, Silent(), save)
    assert saved == [*range(1, len(clock.asked) + 1), len(clock.asked)]


def test_more_rounds_are_added_to_those_that_are_there(tiny: Space) -> None:
    table, clock = measured(tiny, 1), Clock(tiny)
    measure(table, 3, clock, Silent(), lambda: None)
    assert Counter(clock.asked) == dict.fromkeys(table.samples, 2)


# Networks


def test_networks_spread_over_the_whole_range_of_their_sums(tiny: Space) -> None:
    table = measured(tiny, networks=12)
    every = table.sums(architectures(tiny))
    sums = table.sums(table.networks)
    assert len(set(table.networks)) == 12
    assert np.all(np.diff(sums) >= 0)
    step = np.ptp(every) / 11
    assert sums[0] - every.min() < step
    assert every.max() - sums[-1] < step
    assert np.diff(sums).max() < 2 * step


def test_networks_of_a_large_space_do_not_crowd_in_the_middle() -> None:
    space, rng = load_space("demo"), np.random.default_rng(0)
    chosen = measured(space, networks=40)
    uniform = [
        Architecture(
            tuple(
                BlockChoice(cell.width, tuple(b.ops[i] for i in rng.integers(4, size=cell.layers)))
                for b in space.blocks
                for cell in [b.cells[rng.integers(3)]]
            )
        )
        for _ in range(1000)
    ]
    wide, narrow = (np.ptp(chosen.sums(n)) for n in (chosen.networks, uniform[:40]))
    assert wide > 1.5 * narrow
    counts, _ = np.histogram(chosen.sums(chosen.networks), 5)
    assert counts.min() >= 6


def test_a_space_of_few_networks_gives_all_of_them(tiny: Space) -> None:
    small = replace(
        tiny, blocks=tuple(replace(b, ops=b.ops[:2], cells=b.cells[:1]) for b in tiny.blocks)
    )
    table = measured(small, networks=30)
    assert set(table.networks) == set(architectures(small))


# The correction


@settings(deadline=None, max_examples=25)
@given(
    offset=st.floats(-0.1, 10),
    factor=st.floats(0.2, 5),
    networks=st.integers(2, 5).map(lambda n: 2 * n),
)
def test_the_correction_finds_a_known_offset_and_factor(
    tiny: Space, offset: float, factor: float, networks: int
) -> None:
    table = measured(tiny, clock=Clock(tiny, offset, factor), networks=networks)
    correction, held_out = table.additivity()
    assert correction.offset_ms == pytest.approx(offset, abs=1e-6)
    assert correction.factor == pytest.approx(factor)
    assert held_out.mean_error_after == pytest.approx(0, abs=1e-6)
    assert held_out.worst_error_after == pytest.approx(0, abs=1e-6)
    assert (held_out.kendall, held_out.spearman) == pytest.approx((1, 1))
    held = table.networks[1::2]
    wrong = np.abs(table.sums(held) / [table.milliseconds()[n] for n in held] - 1)
    assert held_out.mean_error_before == pytest.approx(wrong.mean())
    assert held_out.worst_error_before == pytest.approx(wrong.max())


def test_half_of_the_networks_take_no_part_in_the_correction(tiny: Space) -> None:
    table = measured(tiny, networks=8)
    correction, _ = table.additivity()
    touched = set()
    for number, network in enumerate(table.networks):
        before, table.samples[network] = table.samples[network], [Sample(77.0, 1.0)]
        if table.additivity()[0] != correction:
            touched.add(number)
        table.samples[network] = before
    assert touched == {0, 2, 4, 6}


@pytest.mark.parametrize("wholes", [[3.0, 2.0, 1.0], [2.0, 2.0, 2.0]])
def test_times_that_do_not_grow_with_the_sum_give_a_positive_factor(wholes: list[float]) -> None:
    correction = Correction.fit(np.array([1.0, 2.0, 3.0]), np.array(wholes))
    assert correction.factor > 0
    assert correction.offset_ms == 0


def test_ranks_of_times_that_are_all_alike_are_not_known() -> None:
    alike = HeldOut.of(np.array([1.0, 2.0]), np.array([2.0, 2.0]), Correction(0.0, 1.0))
    assert (alike.kendall, alike.spearman) == (None, None)
    assert alike.mean_error_before == 0.25


def test_a_machine_that_changes_its_speed_changes_no_figure(tiny: Space) -> None:
    for slowness in (
        lambda number: 1 + number / 50,
        lambda number: 3.0 if number % 100 < 40 else 1.0,
        lambda number: float(generator(number, "slowness").uniform(1, 5)),
    ):
        clock = Clock(tiny, slowness=slowness)
        table = measured(tiny, 3, clock)
        usual = np.median([slowness(number + 1) for number in range(len(clock.asked))])
        for subject, ms in table.milliseconds().items():
            assert ms == pytest.approx(usual * clock.true(subject))
        assert max(table.spreads().values()) == pytest.approx(0)
        assert table.unrest() > 0.3


def test_a_few_bad_samples_change_no_figure(tiny: Space) -> None:
    table = measured(tiny, 7)
    part, before = table.parts[3], table.milliseconds()
    table.samples[part][1:6:2] = [Sample(factor * before[part], 1.0) for factor in (9, 2, 5)]
    assert table.milliseconds() == before
    assert table.spreads()[part] > 0.4


# The file


def test_a_table_is_plain_columns_and_says_how_it_came_about(tiny: Space, tmp_path: Path) -> None:
    table = measured(tiny, 3)
    pq.write_table(table.to_arrow(), tmp_path / "latency.parquet")
    read = pq.read_table(tmp_path / "latency.parquet")
    rows = read.to_pylist()
    assert [row["op"] for row in rows].count("network") == 6
    for row, subject in zip(rows, table.samples, strict=True):
        assert row["milliseconds"] == table.milliseconds()[subject]
        assert row["samples"] == 3
        assert json.loads(row["samples_ms"]) == [sample.ms for sample in table.samples[subject]]
        if isinstance(subject, Part):
            names = ("op", "width_in", "width_out", "stride", "resolution")
            assert tuple(row[name] for name in names) == (subject.op, *subject.layer)
    metadata = read.schema.metadata
    assert (metadata[b"space"], metadata[b"device"], metadata[b"threads"]) == (
        b"tiny",
        b"cpu",
        b"1",
    )
    assert b"factor" in metadata[b"correction"]
    assert b"worst_error_after" in metadata[b"held_out"]


CHANGES: dict[str, object] = {
    "space": "other",
    "fingerprint": "other",
    "resolution": 32,
    "classes": 2,
    "batch": 8,
    "threads": 2,
    "device": "cuda",
    "processor": "another",
    "torch": "3",
    "networks": 8,
    "seed": 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_table_of_other_conditions_is_refused_and_what_differs_is_named(
    tiny: Space, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "latency.parquet"
    pq.write_table(measured(tiny).to_arrow(), path)
    others = replace(conditions(tiny), **{name: CHANGES[name]})  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        read_latencies(path, tiny, others)
    (line,) = str(error.value).splitlines()
    assert f"{name} {getattr(conditions(tiny), name)} instead of {CHANGES[name]}" in line
    assert line.count("instead of") == 1
    assert "--out" in line


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"block": [1], "ops": ["k3e3"]}), path)


def _without_metadata(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(None), path)


def _bad_samples(path: Path) -> None:
    table = pq.read_table(path)
    texts = pa.array(["[-1.0]"] * len(table))
    where = table.column_names.index("samples_ms")
    pq.write_table(table.set_column(where, "samples_ms", texts), path)


@pytest.mark.parametrize(
    "spoil", [_foreign, _without_metadata, _bad_samples, lambda path: path.write_text("mine")]
)
def test_a_file_that_is_no_latency_table_is_refused(
    tiny: Space, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / "latency.parquet"
    pq.write_table(measured(tiny).to_arrow(), path)
    spoil(path)
    with pytest.raises(UserError, match=r"one of ours, but .* is neither; give another --out"):
        read_latencies(path, tiny, conditions(tiny))


# The stopwatch


def test_the_stopwatch_times_every_kind_of_thing_and_larger_ones_as_slower(tiny: Space) -> None:
    watch = Stopwatch(tiny, conditions(tiny, batch=2))
    stem, *_, head = space_parts(tiny, 16, 10)
    small, large = (Part("k3e3", Layer(32, 32, 1, size)) for size in (4, 64))
    for subject in (stem, head, small, next(architectures(tiny))):
        sample = watch(subject)
        assert 0 < sample.ms < 1000
        assert 0 < sample.reference_ms < 1000
    assert watch(large).ms > 3 * watch(small).ms


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_stopwatch_waits_for_a_gpu() -> None:
    space = load_space("demo")
    watch = Stopwatch(space, conditions(space, batch=64, device="cuda"))
    small, large = (Part("k5e6", Layer(64, 64, 1, size)) for size in (8, 128))
    assert 0 < 3 * watch(small).ms < watch(large).ms


def test_choosing_networks_leaves_the_table_as_it_is(tiny: Space) -> None:
    table = measured(tiny)
    before = {subject: list(times) for subject, times in table.samples.items()}
    again = choose_networks(table, generator(0, "latency networks"))
    assert again == table.networks
    assert table.samples == before

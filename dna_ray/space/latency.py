"""Latency as an additive cost: what is timed, the table of times, and how wrong their sum is.

A network's latency is taken to be `offset + factor x sum over its parts`, which keeps it additive:
the offset goes to the fixed cost, the factor scales all others. Both are fitted to one half of a
sample of whole networks; the other half says how wrong the result is.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dna_ray.errors import UserError
from dna_ray.space.architecture import Architecture
from dna_ray.space.correction import Correction, HeldOut
from dna_ray.space.costs import CostTable, Layer, additive_table
from dna_ray.space.parts import Part, head_part, network_parts, space_parts, stem_part
from dna_ray.space.spaces import Space

Subject = Part | Architecture


def fingerprint(space: Space) -> str:
    """A hash of all that a space holds: two spaces of one name may differ."""
    return hashlib.sha256(repr(space).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What latencies depend on; a table holds those of one set of conditions alone."""

    space: str
    fingerprint: str
    resolution: int
    classes: int
    batch: int
    threads: int
    device: str  # cpu or cuda
    processor: str
    torch: str
    networks: int
    seed: int

    def differences(self, other: "Conditions") -> list[str]:
        """What differs, in words."""
        mine, others = asdict(self), asdict(other)
        return [
            f"{key} {mine[key]} instead of {others[key]}"
            for key in mine
            if mine[key] != others[key]
        ]


class Sample(NamedTuple):
    """Milliseconds of one run, and of one run of the reference at the same time."""

    ms: float
    reference_ms: float


@dataclass
class LatencyTable:
    """Times of all parts of a space and of some of its networks, by subject.

    `samples` holds one sample for each round so far. A machine that is shared, warm or throttled
    changes its speed by the minute; so a sample counts by its ratio to the reference, which was
    timed beside it, and milliseconds are those at the machine's usual speed. Of the networks, in
    the order of the table, every second one is held out of the fit.
    """

    space: Space
    conditions: Conditions
    samples: dict[Subject, list[Sample]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in space_parts(self.space, self.conditions.resolution, self.conditions.classes):
            self.samples.setdefault(part, [])

    @property
    def parts(self) -> list[Part]:
        """Everything that is timed but the networks."""
        return [s for s in self.samples if isinstance(s, Part)]

    @property
    def networks(self) -> list[Architecture]:
        """The sampled networks."""
        return [s for s in self.samples if isinstance(s, Architecture)]

    @property
    def rounds(self) -> int:
        """How many samples there are of every part and network; 0 before networks are chosen."""
        return min(map(len, self.samples.values())) if self.networks else 0

    def add(self, networks: Iterable[Architecture]) -> None:
        """Take networks into the sample."""
        self.samples |= {network: [] for network in networks}

    def milliseconds(self) -> dict[Subject, float]:
        """The figure of everything that has a sample: the median over rounds."""
        reference = self._reference()
        usual = float(np.median(reference)) if reference else 0.0
        return {s: usual * float(np.median(r)) for s, r in self._ratios().items()}

    def spreads(self) -> dict[Subject, float]:
        """The distance between the quartiles over rounds, relative to the figure."""
        return {subject: _spread(ratios) for subject, ratios in self._ratios().items()}

    def unrest(self) -> float:
        """The same of the reference, over everything: how much the machine itself varied."""
        return _spread(self._reference())

    def _reference(self) -> list[float]:
        return [sample.reference_ms for taken in self.samples.values() for sample in taken]

    def _ratios(self) -> dict[Subject, list[float]]:
        return {
            subject: [ms / reference for ms, reference in taken]
            for subject, taken in self.samples.items()
            if taken
        }

    def sums(self, networks: Iterable[Architecture]) -> np.ndarray:
        """(n,): for each network the milliseconds of its parts, added up."""
        times, where = self.milliseconds(), self.conditions
        return np.array(
            [
                sum(
                    times[part]
                    for part in network_parts(self.space, net, where.resolution, where.classes)
                )
                for net in networks
            ]
        )

    def additivity(self) -> tuple[Correction, HeldOut]:
        """The correction fitted to one half of the networks, and how it does on the other."""
        networks, times = self.networks, self.milliseconds()
        sums = self.sums(networks)
        wholes = np.array([times[network] for network in networks])
        correction = Correction.fit(sums[::2], wholes[::2])
        return correction, HeldOut.of(sums[1::2], wholes[1::2], correction)

    def costs(self, correction: Correction) -> CostTable:
        """The corrected milliseconds of every path, C = 1; the offset is in the fixed cost."""
        resolution, classes = self.conditions.resolution, self.conditions.classes
        times, factor = self.milliseconds(), correction.factor
        base = correction.offset_ms + factor * times[stem_part(self.space, resolution)]
        return additive_table(
            self.space,
            resolution,
            lambda op, layer: [factor * times[Part(str(op), layer)]],
            lambda width, size: [base + factor * times[head_part(width, size, classes)]],
        )

    def to_arrow(self) -> pa.Table:
        """One row a subject; conditions, correction and errors are in the schema's metadata."""
        times, spreads = self.milliseconds(), self.spreads()
        rows = []
        for subject, taken in self.samples.items():
            row = self._key(subject) | {"samples": len(taken)}
            if taken:
                row["milliseconds"] = times[subject]
                row["spread_ms"] = times[subject] * spreads[subject]
            row["samples_ms"] = json.dumps([sample.ms for sample in taken])
            row["reference_ms"] = json.dumps([sample.reference_ms for sample in taken])
            rows.append(row)
        metadata = {key: str(value) for key, value in asdict(self.conditions).items()}
        if self.rounds:
            correction, held_out = self.additivity()
            metadata["correction"] = json.dumps(asdict(correction))
            metadata["held_out"] = json.dumps(asdict(held_out))
        return pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata))

    def _key(self, subject: Subject) -> dict[str, Any]:
        where = self.conditions
        if isinstance(subject, Part):
            op, text, layer = subject.op, "", subject.layer
        else:
            op, text = "network", str(subject)
            layer = Layer(3, where.classes, self.space.reductions[-1], where.resolution)
        return {"op": op, **dict(zip(_LAYER, layer, strict=True)), "architecture": text}


def _spread(values: list[float]) -> float:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


_LAYER = ("width_in", "width_out", "stride", "resolution")
SCHEMA = pa.schema(
    [
        ("op", pa.string()),  # such as k3e6; or stem, head, network
        ("width_in", pa.int64()),
        ("width_out", pa.int64()),
        ("stride", pa.int64()),
        ("resolution", pa.int64()),
        ("architecture", pa.string()),  # of a network; empty for its parts
        ("milliseconds", pa.float64()),
        ("spread_ms", pa.float64()),
        ("samples", pa.int64()),
        ("samples_ms", pa.string()),  # a JSON list, as measured
        ("reference_ms", pa.string()),  # another: what the reference took beside each sample
    ]
)


def read_latencies(path: Path, space: Space, conditions: Conditions) -> LatencyTable:
    """Read a table to go on with; raises UserError for any other file and other conditions."""
    try:
        if not pq.read_schema(path).equals(SCHEMA):
            raise ValueError
        rows = pq.read_table(path)
        given = rows.schema.metadata or {}
        metadata = {key.decode(): value.decode() for key, value in given.items()}
        known = Conditions(
            **{key: type(value)(metadata[key]) for key, value in asdict(conditions).items()}
        )
        samples = {_subject(row): _samples(row) for row in rows.to_pylist()}
    except (OSError, ValueError, KeyError, TypeError, UserError):
        raise UserError(
            f"a latency table must be new or one of ours, but '{path}' is neither; "
            "give another --out"
        ) from None
    differing = known.differences(conditions)
    if differing:
        raise UserError(
            f"a latency table goes on as it was begun, but '{path}' has {', '.join(differing)}; "
            "measure as it does, or give another --out"
        )
    return LatencyTable(space, conditions, samples)


def _subject(row: dict[str, Any]) -> Subject:
    if row["op"] == "network":
        return Architecture.parse(row["architecture"])
    return Part(row["op"], Layer(*(row[name] for name in _LAYER)))


def _samples(row: dict[str, Any]) -> list[Sample]:
    pairs = zip(json.loads(row["samples_ms"]), json.loads(row["reference_ms"]), strict=True)
    samples = [Sample(float(ms), float(reference)) for ms, reference in pairs]
    if not all(0 < time < float("inf") for sample in samples for time in sample):
        raise ValueError(samples)
    return samples

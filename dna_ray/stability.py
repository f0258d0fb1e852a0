"""What `dna-ray stability` keeps: the ratings of a run's cells that were trained otherwise.

Every variant is written down once it is rated, so that an interruption costs the one at work at
most, and more of them can be asked for later.
"""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dna_ray.errors import UserError
from dna_ray.ranking import Losses, Variant, in_rows, read_variants, variants_table
from dna_ray.rundir import RunFolder
from dna_ray.search import Ratings

Array = np.ndarray


class Variants:
    """The variants of one generation of a run that are rated."""

    def __init__(self, run: RunFolder, number: int, ratings: Ratings) -> None:
        self._run, self._ratings = run, ratings
        self._record = run.file(number, "stability.parquet")
        self.losses: dict[Variant, Losses] = {}
        if run.has(self._record):
            self.losses = read_variants(pa.BufferReader(run.read(self._record)), ratings)

    def missing(self, variants: Sequence[Variant]) -> list[Variant]:
        """Those that are to be trained, in their order."""
        return [variant for variant in variants if variant not in self.losses]

    def add(self, variant: Variant, losses: Sequence[Sequence[Array]]) -> None:
        """Write down the loss of every path: `[block][cell]` (paths,)."""
        self.losses[variant] = in_rows(self._ratings, losses)
        self._run.write_table(self._record, variants_table(self._ratings, self.losses))


def searched(run: RunFolder, number: int) -> dict[str, float]:
    """The limits that a generation was searched within; raises UserError where it is not yet."""
    name = run.file(number, "architecture.json")
    data = run.whole(name)
    if data is None:
        raise UserError(
            f"choices are compared once a run has made its own, but '{run.place}' has no {name}; "
            "--resume it, or name another generation"
        )
    limits: dict[str, float] = json.loads(data)["limits"]
    return limits

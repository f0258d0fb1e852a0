"""What `dna-ray verify` does: paths of every block trained alone, held against the rating.

Every path is written down once it is trained, so that an interruption costs those at work at most,
and more of them can be asked for later.
"""

from collections.abc import Sequence

import pyarrow as pa

from dna_ray.errors import UserError
from dna_ray.ranking import (
    Paths,
    Training,
    drawn_rows,
    paths_alone,
    read_trainings,
    trainings_table,
)
from dna_ray.rundir import RunFolder
from dna_ray.search import Ratings, read_ratings


class Verification:
    """The paths of one generation of a run that were trained alone, with `images` an epoch."""

    def __init__(self, run: RunFolder, number: int, ratings: Ratings, images: int) -> None:
        self._run, self._ratings, self._images = run, ratings, images
        self._record = run.file(number, "alone.parquet")
        self._losses: dict[Training, float] = {}
        if run.has(self._record):
            self._losses = read_trainings(pa.BufferReader(run.read(self._record)))

    def missing(
        self, blocks: Sequence[int], count: int, turns: int, of_each_cell: int = 0
    ) -> list[Training]:
        """What is to be trained for `count` paths of each of `blocks` (1-based), `turns` times.

        Which they are is drawn at random, so that they speak for all; and `of_each_cell` at least.
        """
        wanted = [
            Training(block, int(paths.cell[row]), paths.ops[row], self._images, turn)
            for turn in range(1, turns + 1)
            for block in blocks
            for paths in (self._ratings.blocks[block - 1],)
            for row in drawn_rows(self._ratings, block, count, of_each_cell)
        ]
        return [training for training in wanted if training not in self._losses]

    def add(self, training: Training, loss: float) -> None:
        """Write down what a path loses."""
        self._losses[training] = loss
        self._run.write_table(self._record, trainings_table(self._losses))

    def paths(self, blocks: Sequence[int]) -> list[Paths]:
        """All of these blocks' that are known."""
        asked = {
            training: loss
            for training, loss in self._losses.items()
            if training.images == self._images and training.block in blocks
        }
        return paths_alone(self._ratings, asked)


def rated(run: RunFolder, number: int) -> Ratings:
    """The ratings of a generation; raises UserError where it is not rated, or progressively."""
    name = run.file(number, "ratings.parquet")
    data = run.whole(name)
    if data is None:
        raise UserError(
            f"a run is looked into once its paths are rated, but '{run.place}' has no {name}; "
            "--resume it, or name another generation"
        )
    ratings = read_ratings(pa.BufferReader(data))
    if ratings.progressive:
        raise UserError(
            "a rating is looked into where the teacher stands before every block, but the paths of "
            f"'{run.place}' were rated with distill.strategy={ratings.metadata['method']}; search "
            "with distill.strategy=concurrent"
        )
    return ratings

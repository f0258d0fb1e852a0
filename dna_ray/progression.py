"""A generation whose blocks are distilled, rated and searched one after another (section 4.6)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load, save

from dna_ray.generation import Generation
from dna_ray.network.beginnings import cells_of
from dna_ray.network.members import Weights
from dna_ray.planning.calibration import cell_macs
from dna_ray.planning.placement import plan_ranks
from dna_ray.remote.distill import distill
from dna_ray.remote.progressive import begin, rate_block
from dna_ray.remote.windows import Held, TaughtWindow
from dna_ray.search import Beam, losses_table, read_losses, to_arrow
from dna_ray.space import Architecture, Beginning, cell_name

Array = np.ndarray
Beginnings = tuple[Beginning, ...]


class ProgressiveGeneration(Generation):
    """A generation by strategy A or B: a block is done when the losses of its paths are recorded.

    The ratings table holds the least loss of every path behind any beginning.
    """

    def architecture(self) -> Architecture:
        """What is found: the best that is kept in the last block."""
        plan, distill_ = self._plan, self._job.distill
        beam = Beam(plan.space, plan.table, plan.limits, distill_.beam)
        kept: Beginnings = ((),)
        least: list[list[Array]] = []
        for block in range(len(plan.space.blocks)):
            beginnings, losses = kept, self._losses(block, kept)
            grown = beam.grow(beginnings, losses)
            kept = beam.kept(beginnings, grown)
            least.append([np.fmin.reduce(cells) for cells in zip(*losses, strict=True)])
        ratings = self._ratings(distill_.strategy, least)
        if not self._run.has(self._record("ratings.parquet")):
            self._run.write_table(self._record("ratings.parquet"), to_arrow(ratings))
        return self._chosen(lambda: beam.selected(ratings, beginnings, grown), len(grown.loss))

    def _losses(self, block: int, beginnings: Beginnings) -> list[list[Array]]:
        """Of every path of a block (0-based) behind every beginning."""
        record, plan = self._record(f"block-{block + 1}-losses.parquet"), self._plan
        if not self._run.has(record):
            weights, before = self._trained(block, beginnings)
            self._teach(train=False)
            with self._driver.stage(self._number, "rate") as facts:
                losses = rate_block(
                    self._driver.session,
                    plan.space,
                    self._cut,
                    plan.pixels,
                    beginnings,
                    weights,
                    before,
                    self._taught["rating"],
                    self._job.rate,
                    self._driver.share(1).task,
                )
                self._run.write_table(record, losses_table(plan.space, losses, block))
                paths = sum(plan.space.blocks[block].count(cell) for cell in weights)
                facts |= {"paths": paths * len(beginnings), "images": self._job.rate.images}
        table = pq.read_table(pa.BufferReader(self._run.read(record)))
        return read_losses(plan.space, table, block)

    def _trained(
        self, block: int, beginnings: Beginnings
    ) -> tuple[dict[int, Weights], dict[int, Weights]]:
        """The weights of the block's cells, and of their beginnings; without cells that stopped."""
        record, plan = self._cells(block), self._plan
        if not self._run.has(record):
            self._teach(train=True)
            macs = cell_macs(plan.space, self._cut, plan.resolution)
            work = {where: macs[where] for where in plan.space.cells if where[0] == block}
            share = self._driver.share(len(work))
            windows = self._begun(beginnings)
            with self._driver.stage(self._number, "distill"):
                made = distill(
                    self._driver.session,
                    plan.space,
                    self._cut,
                    plan.pixels,
                    Held(windows),
                    self._epoch_windows,
                    self._job.distill,
                    plan_ranks(work, share.ranks),
                    share,
                    self._stream,
                    self._driver.storage,
                    beginnings,
                )
                self._leave_out(made.stopped)
                self._run.measure(self._number, [*self._rows_before(block), *made.rows])
                tensors = {
                    f"{part}-{cell}/{name}": value.contiguous()
                    for part, states in (("cell", made.weights), ("before", made.before))
                    for (_, cell), state in states.items()
                    for name, value in state.items()
                }
                self._run.write(record, save(tensors))
        return self._weights(block, beginnings)

    def _begun(self, beginnings: Beginnings) -> tuple[TaughtWindow, ...]:
        """The windows that teach, with what the cells behind some beginnings read."""
        taught = self._taught["train"]
        if self._job.distill.strategy == "progressive_a":
            return tuple(replace(window, begun=window.boundaries[:1]) for window in taught)
        if not beginnings[0]:
            return taught
        with self._driver.stage(self._number, "features"):
            return begin(
                self._driver.session,
                self._plan.space,
                self._cut,
                self._plan.pixels,
                beginnings,
                self._frozen(beginnings),
                taught,
                self._taught["rating"],
                self._job.rate,
                self._driver.share(1).task,
            )

    def _weights(
        self, block: int, beginnings: Beginnings
    ) -> tuple[dict[int, Weights], dict[int, Weights]]:
        weights = self._read(block, "cell")
        if self._job.distill.strategy == "progressive_a":
            before = self._read(block, "before")
            return weights, {cell: before.get(cell, {}) for cell in weights}
        return weights, dict.fromkeys(weights, self._frozen(beginnings))

    def _frozen(self, beginnings: Beginnings) -> Weights:
        """The weights of the beginnings' cells, as each was trained in its turn."""
        cells = cells_of(beginnings)
        blocks = {block: self._read(block, "cell") for block in {block for block, _ in cells}}
        return {
            f"{cell_name((block, cell))}.{name}": value
            for block, cell in cells
            for name, value in blocks[block][cell].items()
        }

    def _read(self, block: int, part: str) -> dict[int, Weights]:
        """A part of the record of a block's weights, by cell."""
        states: dict[int, Weights] = {}
        for name, value in load(self._run.read(self._cells(block))).items():
            kind, _, rest = name.partition("-")
            cell, _, own = rest.partition("/")
            if kind == part:
                states.setdefault(int(cell), {})[own] = value
        return states

    def _cells(self, block: int) -> str:
        return self._record(f"block-{block + 1}-cells.safetensors")

    def _rows_before(self, block: int) -> list[dict[str, Any]]:
        """The metrics of the cells of the blocks before one."""
        rows = self._run.measured(self._number)
        return [row for row in rows if row["stage"] == "distill" and row["block"] <= block]

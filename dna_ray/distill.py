"""Training of a cell to imitate the teacher's block (sections 3.2 and 3.3).

A cell learns on its own: its weights, its sampled paths and the order of its minibatches come from
streams keyed by (seed, generation, block, cell), so a cell ends up the same wherever it is trained.
A heavy cell may be trained by several workers, which share the shards of its minibatches.

What a cell reads is the teacher's boundary. Where blocks are trained progressively (section 4.6) it
is what some beginnings of the student make of the pictures: every minibatch goes through one of
them, drawn as paths are. Strategy B is given their features, as they are frozen; with A a cell has
networks of its own for them, which are trained with it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.config import Distill
from dna_ray.data.windows import minibatch, sent, staged
from dna_ray.network.beginnings import Beginnings, build_beginnings
from dna_ray.network.cell import CellNet, build_cell
from dna_ray.network.precision import autocast
from dna_ray.randomness import generator, key
from dna_ray.shards import Exchange, alone, averaged, running_statistics
from dna_ray.space import Beginning, Op, Space, cell_text
from dna_ray.teacher import Cut

Array = np.ndarray
T = TypeVar("T")

# A loss so many times that of the first minibatch has exploded.
_EXPLODED = 1e4

Path = tuple[Op, ...]
Stream = tuple[int, *tuple[str | int, ...]]  # a seed, and the names of what draws from it


def member_stream(stream: Stream, member: int) -> Stream:
    """What begins the random streams of a member of a cell; the first has the cell's own."""
    return (*stream, "member", member) if member else stream


def relative_l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Eq 7 over one minibatch, (N, C, H, W) each: mean |student - teacher| / std(teacher).

    Infinite where the teacher does not vary.
    """
    return F.l1_loss(student, teacher) / teacher.std(correction=0)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "relative_l1": relative_l1_loss,
}


class PathSampler(Generic[T]):
    """Which paths a cell trains, in which order.

    `fair`: a round is as many paths as there are ops, and takes every op of every layer exactly
    once, in random combination (strict fairness, Chu et al. 2021). `uniform`: every op of every
    path is drawn on its own, as in the paper.
    """

    def __init__(
        self, ops: Sequence[T], layers: int, sampling: str, seed: int, *names: str | int
    ) -> None:
        self._ops, self._layers, self._sampling = ops, layers, sampling
        self._seed, self._names = seed, names
        self._round, self._drawn = -1, np.empty(0, int)  # the last round, and its paths

    def path(self, step: int) -> tuple[T, ...]:
        """The path of one step; a pure function of the step and the stream's name."""
        round_, place = divmod(step, len(self._ops))
        if round_ != self._round:
            self._round, self._drawn = round_, self._draw(round_)
        return tuple(self._ops[i] for i in self._drawn[:, place])

    def _draw(self, round_: int) -> Array:
        """The index of the op of every layer (rows) in every step of a round (columns)."""
        rng = generator(self._seed, *self._names, "paths", round_)
        if self._sampling == "fair":
            return rng.permuted(np.tile(np.arange(len(self._ops)), (self._layers, 1)), axis=1)
        return rng.integers(len(self._ops), size=(self._layers, len(self._ops)))


class CellTrainer:
    """One cell with its optimiser: feed it windows, end epochs, and take its state at any time.

    Where its loss is not finite any more, or has exploded, `stopped` says so and what to do, and no
    further step is made, but for those that a GPU has been given already.
    """

    def __init__(
        self,
        space: Space,
        cut: Cut,
        pixels: tuple[tuple[float, ...], tuple[float, ...]],
        recipe: Distill,
        where: tuple[int, int],
        stream: Stream,
        device: torch.device | str = "cpu",
        own: Sequence[int] | None = None,
        exchange: Exchange = alone,
        path: Sequence[Op] | None = None,
        beginnings: Sequence[Beginning] = ((),),
    ) -> None:
        """Set up cell `where` = (block, cell), 0-based; `stream` begins their random streams.

        `pixels` are the mean and std by which the cell of block 1 scales pictures. `own` are the
        shards of every minibatch that this worker computes, by default all of them; `exchange`
        talks to the others. With a `path`, that path of the cell is trained alone, all steps long.
        `beginnings` are what the cell is trained behind; one of no blocks is the teacher.
        """
        block, cell = where
        seed, *names = stream
        self.where = where
        self._recipe, self._device = recipe, device
        self._own, self._exchange = range(recipe.shards) if own is None else own, exchange
        self._seed, self._names = seed, ("distill", *names, block, cell)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, *self._names, "weights"))
            self.net: CellNet = build_cell(
                space, block, cell, cut.width_in(block), cut.widths[block], *pixels, path
            )
            torch.manual_seed(key(seed, *self._names, "beginnings"))
            trained = beginnings if recipe.strategy == "progressive_a" else ((),) * len(beginnings)
            self.before: Beginnings = build_beginnings(space, cut.widths, *pixels, trained)
        for part in (self.net, self.before):
            part.to(device).to(memory_format=torch.channels_last).train()
        self._learnt = {
            module: (list(module.parameters()), running_statistics(module))
            for module in self.net.choices()
        }
        self._precision = autocast(device)
        # Of so many steps the losses are looked at together: it is then that a GPU is waited for.
        self._together = 1 if torch.device(device).type == "cpu" else 32
        # Adam passes over parameters without a gradient, so the weight decay of a step never
        # reaches the ops that its paths did not take. Fused, it takes a third of the time.
        blocks = {block: [self.net], **self.before.by_block()}
        self._optimizer = torch.optim.Adam(
            [
                {
                    "params": [p for net in nets for p in net.parameters()],
                    "lr": recipe.learning_rate if number else recipe.learning_rate_first,
                }
                for number, nets in blocks.items()
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        layers = space.blocks[block].cells[cell].layers
        self._loss = _LOSSES[recipe.loss]
        self._alone = None if path is None else tuple(path)
        count = 1 if path is not None else recipe.paths_per_minibatch
        self._weight = torch.tensor(1 / count, device=device)  # of a path's loss
        self._sampler = PathSampler(
            space.blocks[block].ops, layers, recipe.sampling, seed, *self._names
        )
        self._beginnings = PathSampler(
            range(len(beginnings)), 1, recipe.sampling, seed, *self._names, "beginnings"
        )
        self.minibatches = 0
        self.epoch = 0
        self._first_loss = math.inf
        self.stopped = ""

    def train_window(self, index: int, *boundaries: Array | Tensor) -> list[float]:
        """One pass over a window: boundary k-1 and k, (N, H, W, C) each. The loss of each step.

        For a GPU they may be `staged` already. In the place of boundary k-1, strategy B is given
        what each of the frozen beginnings makes of the pictures, in their order, and A the
        pictures.
        """
        if self.stopped:
            return []
        *inputs, targets = (
            each if isinstance(each, Tensor) else staged(each, self._device) for each in boundaries
        )

        def step(paths: Sequence[Path], rows: Array | Tensor) -> Tensor:
            read = inputs[self._beginning if len(inputs) > 1 else 0]
            return self._step(paths, minibatch(read, rows), minibatch(targets, rows))

        losses: list[float] = []
        before = self.minibatches
        rows = sent(self._minibatch_rows(index, len(targets)), self._device)
        # Drawn here, as between steps a processor's caches are full of other things.
        paths = [self._paths(before + number) for number in range(len(rows))]
        for start in range(0, len(rows), self._together):
            some = slice(start, start + self._together)
            made = [step(*each) for each in zip(paths[some], rows[some], strict=True)]
            for loss in torch.stack(made).tolist():
                losses.append(loss)
                self.stopped = self._trouble(loss, before + len(losses))
                if self.stopped:
                    return losses
        return losses

    def _minibatch_rows(self, window: int, images: int) -> Array:
        """The rows of each minibatch (M, B), of which this worker's shards are read: neighbours."""
        rng = generator(self._seed, *self._names, "order", self.epoch, window)
        order, shards = rng.permutation(images), self._recipe.shards
        size = min(self._recipe.batch, images // shards * shards)
        count, of_shard = images // size if size else 0, size // shards
        rows = order[: count * size].reshape(count, shards, of_shard)[:, self._own]
        return rows.reshape(count, len(self._own) * of_shard)

    def _step(self, paths: Sequence[Path], x: Tensor, y: Tensor) -> Tensor:
        """The loss of a minibatch, mean over its paths: a scalar that may be under way still.

        `x` and `y` are this worker's shards of boundaries k-1 and k, one after another.
        """
        self._optimizer.zero_grad()
        if self._recipe.shards == 1:  # it is its own mean, and nothing has to be looked up
            loss = self._backward(paths, x, y)
        else:
            pairs = zip(x.chunk(len(self._own)), y.chunk(len(self._own)), strict=True)
            shards = dict(zip(self._own, pairs, strict=True))
            parts = [self._learnt[module] for module in self.net.taken(paths)]
            loss = averaged(
                [parameter for parameters, _ in parts for parameter in parameters],
                [buffer for _, buffers in parts for buffer in buffers],
                self._own,
                self._exchange,
                lambda shard: self._backward(paths, *shards[shard]),
            )
        self._optimizer.step()
        self.minibatches += 1
        return loss

    def _backward(self, paths: Sequence[Path], x: Tensor, y: Tensor) -> Tensor:
        """The loss of one shard, after its gradients. On a GPU the cell computes in bfloat16.

        What comes before the first layer is run once for all paths, forth and back; of the paths
        themselves one at a time is held.
        """
        with self._precision:
            begun = self.net.stem(self.before(x, self._beginning))
        read = begun.detach().requires_grad_(begun.requires_grad)
        losses = []
        for path in paths:
            with self._precision:
                features = self.net.layered(read, path)
            loss = self._loss(features.float(), y)
            loss.backward(self._weight)
            losses.append(loss.detach())
        if begun.requires_grad:
            begun.backward(read.grad)
        return sum(losses[1:], losses[0]) * self._weight

    def _trouble(self, loss: float, step: int) -> str:
        """Why training is of no use any more after so many steps; "" where it is."""
        if step == 1:
            self._first_loss = loss
        if math.isfinite(loss) and loss <= _EXPLODED * self._first_loss:
            return ""
        first = f", {self._first_loss:.3g} at the first" if math.isfinite(loss) else ""
        key_ = "learning_rate" if self.where[0] else "learning_rate_first"
        return (
            f"the loss of a cell must stay small, but that of {cell_text(self.where)} is "
            f"{loss:.3g} at step {step}{first}, with learning rate "
            f"{self._optimizer.param_groups[0]['lr']:.3g}; set distill.{key_} lower"
        )

    def _paths(self, number: int) -> list[Path]:
        """Those that a minibatch trains."""
        if self._alone is not None:
            return [self._alone]
        count = self._recipe.paths_per_minibatch
        return [self._sampler.path(number * count + turn) for turn in range(count)]

    @property
    def _beginning(self) -> int:
        """That behind which the next minibatch trains."""
        several = len(self.before.beginnings) > 1
        return self._beginnings.path(self.minibatches)[0] if several else 0

    def end_epoch(self) -> None:
        """Lower the learning rate by the recipe's factor."""
        self.epoch += 1
        for group in self._optimizer.param_groups:
            group["lr"] *= self._recipe.decay

    def state(self, *, ended: bool = False) -> dict[str, Any]:
        """Everything that training goes on from: tensors and plain numbers.

        Where it has `ended`, without the optimiser, which holds twice as much as the weights.
        """
        going_on = {} if ended else {"optimizer": self._optimizer.state_dict()}
        return going_on | {
            "net": self.net.state_dict(),
            "before": self.before.state_dict(),
            "minibatches": self.minibatches,
            "first_loss": self._first_loss,
            "stopped": self.stopped,
            "epoch": self.epoch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned of a training that had not ended."""
        self.net.load_state_dict(state["net"])
        self.before.load_state_dict(state["before"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.minibatches, self.epoch = state["minibatches"], state["epoch"]
        self._first_loss, self.stopped = state["first_loss"], state["stopped"]

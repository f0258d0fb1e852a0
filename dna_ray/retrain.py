"""Training of whole networks: the found one, its scaled copy, and the first teacher's adaptation.

Minibatches are drawn within a portion of the pictures at a time, so that a set need not fit into
memory, and are computed in shards (dna_ray.shards).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from dna_ray.data.windows import batches
from dna_ray.errors import UserError
from dna_ray.randomness import generator
from dna_ray.shards import Exchange, mean_gradients, running_statistics

Array = np.ndarray

WARMUP = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: AdamW, linear warm-up, cosine decay to zero."""

    passes: int
    batch: int
    shards: int
    learning_rate: float
    weight_decay: float
    label_weight: float


def minibatches(portions: Sequence[int], recipe: Recipe) -> tuple[int, int]:
    """How large minibatches are, and how many make a pass over portions of so many pictures.

    Raises UserError where a shard would hold no two pictures.
    """
    batch = min(recipe.batch, max(portions) // recipe.shards * recipe.shards)
    if batch < 2 * recipe.shards:
        raise UserError(
            f"training needs {2 * recipe.shards} pictures or more for {recipe.shards} shards, "
            f"but has {max(portions)}; give more pictures or set retrain.shards=1"
        )
    return batch, sum(pictures // batch for pictures in portions)


def portions_of(sizes: Sequence[int], pictures: int) -> list[range]:
    """Share windows of given sizes out into portions of about `pictures`, which differ little.

    A range of windows for every portion. All windows make one portion where they hold fewer.
    """
    number = min(len(sizes), -(-sum(sizes) // pictures))
    edges = np.linspace(0, len(sizes), number + 1).round().astype(int).tolist()
    return [range(start, end) for start, end in pairwise(edges)]


class Portions(Protocol):
    """Pictures to train on, of which a portion at a time is at hand."""

    @property
    def portions(self) -> Sequence[int]:
        """The pictures of every portion of a pass."""

    def portion(self, turn: int, number: int) -> "PictureSet":
        """One portion; `turn` is the pass that it is for."""


class PictureSet:
    """Windows of pictures, uint8 (N, H, W, 3) each, with what is known of every picture.

    `labels` (n,) are class indices, `soft` (n, classes) a teacher's probabilities; one of them at
    least is there.
    """

    def __init__(self, windows: Sequence[Array], labels: Array | None, soft: Array | None) -> None:
        if labels is None and soft is None:
            raise ValueError("a picture set needs labels, soft labels, or both")
        self._windows = windows
        self._starts = np.cumsum([0, *map(len, windows)])
        self.labels, self.soft = labels, soft

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def portions(self) -> tuple[int]:
        """All pictures as one portion."""
        return (len(self),)

    def portion(self, turn: int, number: int) -> "PictureSet":
        """All pictures."""
        return self

    def pictures(self, rows: Array) -> Tensor:
        """Some pictures as (B, 3, H, W) in channels-last memory."""
        window = np.searchsorted(self._starts, rows, side="right") - 1
        inside = rows - self._starts[window]
        stacked = np.stack([self._windows[w][i] for w, i in zip(window, inside, strict=True)])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def loss(self, logits: Tensor, rows: Array, label_weight: float) -> Tensor:
        """Cross entropy with labels and soft labels, weighted where both are there."""
        parts = []
        if self.labels is not None:
            weight = label_weight if self.soft is not None else 1.0
            parts.append(weight * F.cross_entropy(logits, _beside(self.labels[rows], logits)))
        if self.soft is not None:
            weight = 1 - label_weight if self.labels is not None else 1.0
            parts.append(weight * F.cross_entropy(logits, _beside(self.soft[rows], logits)))
        return torch.stack(parts).sum()


class Trainer:
    """A network in training. `own` are this worker's shards; `exchange` talks to the others."""

    def __init__(
        self,
        module: nn.Module,
        data: Portions,
        recipe: Recipe,
        stream: tuple[str | int, ...],
        own: Sequence[int],
        exchange: Exchange,
        device: torch.device | str = "cpu",
    ) -> None:
        """`stream` = (seed, name, ...) keys the order and the flips of the pictures."""
        self._module, self._data, self._recipe = module.to(device), data, recipe
        self._seed, self._names = int(stream[0]), stream[1:]
        self._own, self._exchange, self._device = own, exchange, device
        self._batch, self._per_pass = minibatches(data.portions, recipe)
        self._steps = recipe.passes * self._per_pass
        self._parameters = list(module.parameters())
        self._buffers = running_statistics(module)
        # Biases and batch-norm weights are not decayed, as is usual.
        decayed = [p for p in self._parameters if p.dim() > 1]
        others = [p for p in self._parameters if p.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}]
        groups.append({"params": others, "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        self.steps_done = self.passes_done = 0

    def train_pass(self, tell: Callable[[float], None] | None = None) -> float:
        """One pass over all pictures; the mean loss. `tell` hears the loss of every minibatch."""
        rng = generator(self._seed, *self._names, "pass", self.passes_done)
        self._module.train()
        losses = []
        for number, size in enumerate(self._data.portions):
            pictures = self._data.portion(self.passes_done, number)
            order, flips = rng.permutation(size), rng.random(size) < 0.5
            for start in range(0, size - self._batch + 1, self._batch):
                rows = order[start : start + self._batch].reshape(self._recipe.shards, -1)
                losses.append(self._train_step(pictures, rows, flips))
                if tell is not None:
                    tell(losses[-1])
        self.passes_done += 1
        return math.fsum(losses) / len(losses)

    def _train_step(self, pictures: PictureSet, shards: Array, flips: Array) -> float:
        def backward(shard: int) -> Tensor:
            rows = shards[shard]
            x = pictures.pictures(rows).to(self._device)
            x = torch.where(
                torch.from_numpy(flips[rows])[:, None, None, None].to(x.device), x.flip(3), x
            )
            logits = self._module(x.contiguous(memory_format=torch.channels_last))
            loss = pictures.loss(logits, rows, self._recipe.label_weight)
            loss.backward()
            return loss

        loss = mean_gradients(self._parameters, self._buffers, self._own, self._exchange, backward)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()
        self.steps_done += 1
        return loss

    def _learning_rate(self) -> float:
        warmup = max(1, round(WARMUP * self._steps))
        if self.steps_done < warmup:
            return self._recipe.learning_rate * (self.steps_done + 1) / warmup
        done = (self.steps_done - warmup) / max(1, self._steps - warmup)
        return self._recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from: tensors and plain numbers."""
        return {
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.steps_done,
            "pass": self.passes_done,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done, self.passes_done = state["step"], state["pass"]


def _beside(values: Array, other: Tensor) -> Tensor:
    return torch.from_numpy(values).to(other.device)


@torch.inference_mode()
def logits_of(module: nn.Module, windows: Sequence[Array]) -> Array:
    """(n, classes) float32 logits of all pictures, in order, in evaluation mode."""
    module.eval()
    parts = []
    for window in windows:
        parts += [module(batch).numpy() for batch in batches(window)]
    return np.concatenate(parts)


def label_metrics(logits: Array, labels: Array) -> dict[str, float]:
    """Accuracy, balanced accuracy and AUROC (one against the rest, averaged over classes)."""
    predicted = logits.argmax(1)
    classes = np.unique(labels)
    recalls = [float(np.mean(predicted[labels == c] == c)) for c in classes]
    scores = _softmax(logits)
    aurocs = (
        [_auroc(scores[:, c], labels == c) for c in classes] if len(classes) > 1 else [math.nan]
    )
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(np.mean(recalls)),
        "auroc": float(np.mean(aurocs)),
    }


def agreement_metrics(logits: Array, teacher: Array) -> dict[str, float]:
    """How far a network agrees with a teacher's logits: top-1, top-5, KL(teacher || network)."""
    first = teacher.argmax(1)
    top5 = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    p, log_p, log_q = _softmax(teacher), _log_softmax(teacher), _log_softmax(logits)
    return {
        "agreement_top1": float(np.mean(logits.argmax(1) == first)),
        "agreement_top5": float(np.mean(np.any(top5 == first[:, None], axis=1))),
        "kl": float(np.mean(np.sum(p * (log_p - log_q), axis=1))),
    }


def soft_labels(logits: Array) -> Array:
    """(n, classes) float32 probabilities of a teacher's logits."""
    return _softmax(logits).astype(np.float32)


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _softmax(logits: Array) -> Array:
    return np.asarray(np.exp(_log_softmax(logits)))


def _auroc(scores: Array, positive: Array) -> float:
    from scipy.stats import mannwhitneyu  # a second of import that only the tester pays

    statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
    return float(statistic / (positive.sum() * (~positive).sum()))

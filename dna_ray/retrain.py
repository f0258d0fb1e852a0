"""Training of whole networks: the found one, its scaled copy, and the first teacher's adaptation.

Every minibatch is computed in a fixed number of shards with their own batch-norm statistics; the
gradients and the running statistics of all shards are exchanged and averaged in the order of the
shards. How many workers share the shards therefore changes nothing, to the last bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.nn.utils import parameters_to_vector

from dna_ray.data.windows import minibatch
from dna_ray.errors import UserError
from dna_ray.randomness import generator

Array = np.ndarray

# From the vectors of this worker's shards (own, P) to those of all shards in order (shards, P).
Exchange = Callable[[Tensor], Tensor]

WARMUP = 0.1
_EVALUATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: AdamW, linear warm-up, cosine decay to zero."""

    passes: int
    batch: int
    shards: int
    learning_rate: float
    weight_decay: float
    label_weight: float


def minibatches(pictures: int, recipe: Recipe) -> tuple[int, int]:
    """How large the minibatches of so many pictures are, and how many make a pass.

    Raises UserError where a shard would hold no two pictures.
    """
    batch = min(recipe.batch, pictures // recipe.shards * recipe.shards)
    if batch < 2 * recipe.shards:
        raise UserError(
            f"training needs {2 * recipe.shards} pictures or more for {recipe.shards} shards, "
            f"but has {pictures}; give more pictures or set retrain.shards=1"
        )
    return batch, pictures // batch


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
            parts.append(weight * F.cross_entropy(logits, torch.from_numpy(self.labels[rows])))
        if self.soft is not None:
            weight = 1 - label_weight if self.labels is not None else 1.0
            parts.append(weight * F.cross_entropy(logits, torch.from_numpy(self.soft[rows])))
        return torch.stack(parts).sum()


class Trainer:
    """A network in training. `own` are this worker's shards; `exchange` talks to the others."""

    def __init__(
        self,
        module: nn.Module,
        data: PictureSet,
        recipe: Recipe,
        stream: tuple[str | int, ...],
        own: Sequence[int],
        exchange: Exchange,
    ) -> None:
        """`stream` = (seed, name, ...) keys the order and the flips of the pictures."""
        self._module, self._data, self._recipe = module, data, recipe
        self._seed, self._names = int(stream[0]), stream[1:]
        self._own, self._exchange = own, exchange
        self._batch, self._per_pass = minibatches(len(data), recipe)
        self._steps = recipe.passes * self._per_pass
        self._parameters = list(module.parameters())
        # What is not in the state, the scaling of pixels, is no statistic.
        state = module.state_dict()
        self._buffers = [b for name, b in module.named_buffers() if name in state]
        self._statistics = [b for b in self._buffers if b.is_floating_point()]
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
        order = rng.permutation(len(self._data))
        flips = rng.random(len(self._data)) < 0.5
        self._module.train()
        losses = []
        for start in range(0, self._per_pass * self._batch, self._batch):
            losses.append(self._train_step(order[start : start + self._batch], flips))
            if tell is not None:
                tell(losses[-1])
        self.passes_done += 1
        return math.fsum(losses) / len(losses)

    def _train_step(self, rows: Array, flips: Array) -> float:
        shards = rows.reshape(self._recipe.shards, -1)
        before = [buffer.clone() for buffer in self._buffers]
        vectors = []
        for index in self._own:
            for buffer, value in zip(self._buffers, before, strict=True):
                buffer.copy_(value)
            vectors.append(self._shard(shards[index], flips[shards[index]]))
        mean = self._exchange(torch.stack(vectors)).mean(0)
        count = sum(p.numel() for p in self._parameters)
        for parameter, part in zip(
            self._parameters, mean[:count].split([p.numel() for p in self._parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        with torch.no_grad():
            sizes = [buffer.numel() for buffer in self._statistics]
            for buffer, part in zip(self._statistics, mean[count:-1].split(sizes), strict=True):
                buffer.copy_(part.view_as(buffer))
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()
        self.steps_done += 1
        return float(mean[-1])

    def _shard(self, rows: Array, flips: Array) -> Tensor:
        """Gradients, running statistics and loss of one shard as one vector (P,)."""
        x = self._data.pictures(rows)
        x = torch.where(torch.from_numpy(flips)[:, None, None, None], x.flip(3), x)
        self._optimizer.zero_grad(set_to_none=True)
        x = x.contiguous(memory_format=torch.channels_last)
        loss = self._data.loss(self._module(x), rows, self._recipe.label_weight)
        loss.backward()
        gradients = [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            for p in self._parameters
        ]
        return torch.cat(
            [*gradients, parameters_to_vector(self._statistics), loss.detach().reshape(1)]
        )

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


def alone(vectors: Tensor) -> Tensor:
    """The exchange of a worker that has all shards to itself."""
    return vectors


@torch.inference_mode()
def logits_of(module: nn.Module, windows: Sequence[Array]) -> Array:
    """(n, classes) float32 logits of all pictures, in order, in evaluation mode."""
    module.eval()
    parts = []
    for window in windows:
        pixels = minibatch(window, np.arange(len(window)))
        parts += [module(chunk).numpy() for chunk in pixels.split(_EVALUATION_BATCH)]
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

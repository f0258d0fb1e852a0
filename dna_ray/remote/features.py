"""The teacher's features: a task per window runs the teacher once and returns one object per
boundary, so that a cell fetches its two alone.

Every object is returned by a task that the driver submitted: what is lost with a node is made
again, bit for bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import ray

from dna_ray.network.model import TrainedModel
from dna_ray.remote.metrics import observe
from dna_ray.remote.session import Session
from dna_ray.remote.tasks import device, single_threaded, task
from dna_ray.remote.windows import TaughtWindow, Window
from dna_ray.teacher import Cut, Teacher
from dna_ray.teacher import teach as teach_pictures

Array = np.ndarray

_UNCUT = Cut(modules=(), widths=(), sizes=())


class TeacherTasks:
    """A model whose features or logits tasks compute. Its weights are put into the store once."""

    def __init__(self, session: Session, model: TrainedModel, cut: Cut = _UNCUT) -> None:
        self._session, self._cut, self._weights = session, cut, [ray.put(model)]

    def teach(self, window: Window, resources: Mapping[str, float]) -> TaughtWindow:
        """A window's features, as references that need not be there yet.

        `resources` are what a task reserves.
        """
        run = task(_teach, name="teacher", num_returns=len(self._cut.modules) + 1, **resources)
        *features, logits = run.remote(
            self._weights, self._cut, window.pictures, self._session.board
        )
        return TaughtWindow((window.pictures, *features), logits, window.size)

    def logits(self, window: Window, resources: Mapping[str, float]) -> Any:
        """A reference to a window's logits (N, classes)."""
        return task(_logits, name="logits", **resources).remote(self._weights, window.pictures)

    def teach_all(
        self, windows: Sequence[Window], resources: Mapping[str, float]
    ) -> tuple[TaughtWindow, ...]:
        """All windows, waited for."""
        taught = [self.teach(window, resources) for window in windows]
        self._session.wait([window.logits for window in taught])
        return tuple(taught)


def predict(
    session: Session,
    model: TrainedModel,
    windows: Iterable[Window],
    ahead: int,
    resources: Mapping[str, float],
) -> Iterator[Array]:
    """The logits (N, classes) of any model on each window, of which at most `ahead` are at work."""
    tasks = TeacherTasks(session, model)
    pending: list[Any] = []
    for window in windows:
        pending.append(tasks.logits(window, resources))
        if len(pending) == ahead:
            yield ray.get(pending.pop(0))
            session.view.advance(1)
    for ref in pending:
        yield ray.get(ref)
        session.view.advance(1)


@single_threaded
def _teach(model: list[Any], cut: Cut, pictures: Array, board: Any) -> Any:
    boundaries, logits = teach_pictures(_teacher(model[0], cut), pictures)
    observe(board, {"teacher_images": len(pictures)})
    return (*boundaries, logits)


@single_threaded
def _logits(model: list[Any], pictures: Array) -> Array:
    _, logits = teach_pictures(_teacher(model[0], _UNCUT), pictures)
    return logits


@lru_cache(maxsize=1)
def _teacher(model: Any, cut: Cut) -> Teacher:
    """A process builds a teacher once for all its windows."""
    return Teacher(ray.get(model), cut, device())

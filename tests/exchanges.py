"""Workers that exchange vectors, as threads of this process."""

import threading

import torch
from torch import Tensor


class Exchanges:
    """What all workers see of each other's vectors: threads that meet at a barrier."""

    def __init__(self, workers: int) -> None:
        self._vectors: list[Tensor] = [torch.empty(0)] * workers
        self._barrier = threading.Barrier(workers, timeout=30)

    def __call__(self, worker: int, vectors: Tensor) -> Tensor:
        self._vectors[worker] = vectors
        self._barrier.wait()
        together = torch.cat(self._vectors)
        self._barrier.wait()
        return together

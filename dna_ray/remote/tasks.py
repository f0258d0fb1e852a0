"""What all remote tasks have in common."""

from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import ray
import torch

from dna_ray.network.members import Weights

P = ParamSpec("P")
R = TypeVar("R")


def single_threaded(function: Callable[P, R]) -> Callable[P, R]:
    """Run a task's function with one torch thread, on any worker."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        torch.set_num_threads(1)
        return function(*args, **kwargs)

    return run


def task(function: Callable[..., Any], **options: Any) -> Any:
    """A remote task of a module's function, with Ray's `options`.

    The function itself stays what its module calls it, so that Ray sends its name, not its code.
    """
    return _remote(function).options(**options)


@cache
def _remote(function: Callable[..., Any]) -> Any:
    """One for all tasks of a function: of another one Ray would make another queue."""
    remote: Any = ray.remote
    return remote(function)


def put_weights(weights: Weights) -> Any:
    """The reference of weights in Ray's store: as arrays, which `got_weights` makes tensors again.

    They are put and got in a tenth of the time that hundreds of tensors take.
    """
    return ray.put({name: tensor.numpy() for name, tensor in weights.items()})


def got_weights(arrays: Mapping[str, np.ndarray]) -> Weights:
    """Weights that `put_weights` has put, as a task's own: those in the store are read-only."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def device() -> torch.device:
    """Where a process computes: on the GPU that Ray gave it, or else on a processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""What all remote tasks have in common."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import ray
import torch

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
    remote: Any = ray.remote
    return remote(function).options(**options)


def device() -> torch.device:
    """Where a process computes: on the GPU that Ray gave it, or else on a processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

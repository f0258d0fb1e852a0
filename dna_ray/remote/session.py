"""The Ray session of a search: started on this machine, or joined by address."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import ray
import torch

from dna_ray.errors import UserError
from dna_ray.progress import View
from dna_ray.remote.board import ProgressBoard
from dna_ray.remote.guard import temporary_folder

P = ParamSpec("P")
R = TypeVar("R")

# Sums depend on how many threads make them, so every process that computes uses exactly one, and
# speed comes from processes. A reused worker may keep another setting: hence `single_threaded`.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a run's end is noticed as late as that
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}

# Starting processes is what Ray costs most on a small machine, as each imports torch anew.
_LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine has no node to be taken away
    "RAY_idle_worker_killing_time_threshold_ms": "600000",  # the next stage uses them again
}


@dataclass(frozen=True)
class Session:
    """A connected Ray session: how many workers a stage may use, and who is told of progress."""

    workers: int
    board: Any  # an actor handle of ProgressBoard
    view: View
    dashboard: str
    folder: Path | None  # where a Ray that we started keeps its files and logs

    def wait(self, refs: Sequence[Any]) -> None:
        """Wait for tasks, telling the view of every one that is done; raise the first error."""
        pending = list(refs)
        while pending:
            done, pending = ray.wait(pending, fetch_local=False)
            ray.get(done)
            self.view.advance(len(done))


@contextmanager
def session(
    view: View, *, address: str | None = None, workers: int | None = None, verbose: bool = False
) -> Iterator[Session]:
    """Start Ray on this machine, or join the cluster at `address`; leave it in the end.

    `workers` is the number of processes that train or rate at a time; all processors of the
    cluster where it is None. SIGTERM keeps its handler, which Ray would replace. Raises UserError
    where no cluster answers.
    """
    environment = _ENVIRONMENT if address else _ENVIRONMENT | _LOCAL_ENVIRONMENT
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(level)
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if address is not None:
        _check_answers(address)
    else:
        count = workers or os.cpu_count() or 1
        options |= {"address": "local", "num_cpus": count, "include_dashboard": True}
        options |= {"dashboard_host": "127.0.0.1"}
    with temporary_folder() if address is None else nullcontext() as folder:
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            context: Any = ray.init(**({"address": address} | options))
        except ConnectionError as error:
            raise UserError(
                f"a Ray cluster must answer at the address, but none does at '{address}' "
                f"({str(error).splitlines()[0]}); check --address"
            ) from None
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)
            if address is None:
                _make_private(Path.home() / ".ray" / "auth_token")
            processors = int(ray.cluster_resources().get("CPU", 0))
            if processors < (workers or 1):
                raise UserError(
                    f"the cluster must have a processor for every worker, but has {processors} "
                    f"for {workers or 1}; give fewer --workers"
                )
            board = ProgressBoard.remote()  # type: ignore[attr-defined]
            yield Session(workers or processors, board, view, context.dashboard_url or "", folder)
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise UserError at once where Ray would try for minutes to reach a cluster."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return  # Ray looks for a cluster of this machine, and says at once where there is none
    if not host or not port.isdigit():
        raise UserError(
            f"an address must be HOST:PORT, or auto for the cluster of this machine, but is "
            f"'{address}'; see what `ray status` says of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"a Ray cluster must answer at the address, but none does at '{address}' ({error}); "
            "check --address"
        ) from None


def _make_private(token: Path) -> None:
    """Let nobody else read the token by which Ray knows its user; Ray makes it readable by all."""
    if token.is_file():
        token.chmod(0o600)


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

"""The Ray session of a search: started on this machine, or joined by address."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from dna_ray.progress import View
from dna_ray.remote.board import start_board
from dna_ray.remote.forkserver import fork_server, in_the_place_of_python
from dna_ray.remote.guard import temporary_folder
from dna_ray.remote.join import asked, joining, wait_for_room

# Sums depend on how many threads make them, so every process that computes uses exactly one, and
# speed comes from processes. A reused worker may keep another setting, as tasks know.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # or the dashboard does not list runs
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # a run's end is noticed two of these late
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}

# Starting processes is what Ray costs most on a small machine.
_LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine has no node to be taken away
    "RAY_idle_worker_killing_time_threshold_ms": "600000",  # the next stage uses them again
    "RAY_prestart_worker_first_driver": "0",  # they would lack our runtime_env
}


@dataclass(frozen=True)
class Session:
    """A connected Ray session: how many workers a stage may use, and who is told of progress."""

    workers: int
    board: Any  # an actor handle of ProgressBoard
    view: View
    dashboard: str
    folder: Path | None  # where a Ray that we started keeps its files and logs

    def finished(self, refs: Sequence[Any]) -> Iterator[Any]:
        """Tasks as they are done, of which the view is told; raise the first error."""
        pending = list(refs)
        while pending:
            (done,), pending = ray.wait(pending, fetch_local=False)
            ray.get(done)
            self.view.advance(1)
            yield done

    def wait(self, refs: Sequence[Any]) -> None:
        """Wait for tasks, telling the view of every one that is done; raise the first error."""
        for _ in self.finished(refs):
            pass


@contextmanager
def session(
    view: View,
    *,
    run: str = "",
    address: str | None = None,
    workers: int | None = None,
    gpu: bool = False,
    verbose: bool = False,
) -> Iterator[Session]:
    """Start Ray on this machine, or join a cluster; leave it in the end.

    `address` is the cluster's; where it is None, RAY_ADDRESS counts. `workers` is the number of
    processes that train or rate at a time; where it is None, one for each GPU of the cluster, or
    for each processor without any. With `gpu`, each must have a GPU of its own. `run` tells its
    metrics from those of other runs. SIGTERM keeps its handler, which Ray would replace. Raises
    UserError where no cluster answers, or where it does not let us in or has no room.
    """
    joined, name = asked(address)
    environment = _ENVIRONMENT if joined else _ENVIRONMENT | _LOCAL_ENVIRONMENT
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    level = logging.INFO if verbose else logging.ERROR
    for logger in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(logger).setLevel(level)
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if joined is not None:
        options |= {"address": joined}
    else:
        count = workers or os.cpu_count() or 1
        options |= {"address": "local", "num_cpus": count, "include_dashboard": True}
        options |= {"dashboard_host": "127.0.0.1"}
    with ExitStack() as own:
        own.enter_context(redirect_stdout(sys.stderr))  # Ray tells there which workers died
        folder = program = None
        if joined is None:
            folder = own.enter_context(temporary_folder())
            program = own.enter_context(fork_server(folder))
        terminate = signal.getsignal(signal.SIGTERM)
        try:
            with (
                nullcontext() if joined is None else joining(joined, name),
                in_the_place_of_python(program) as forks,
            ):
                context: Any = ray.init(**options, **forks)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)
            if joined is None:
                _make_private(Path.home() / ".ray" / "auth_token")
            room = wait_for_room(workers, view, {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0})
            gpus = int(ray.cluster_resources().get("GPU", 0))
            dashboard = context.dashboard_url or ""
            yield Session(workers or gpus or room, start_board(run), view, dashboard, folder)
        finally:
            ray.shutdown()


def _make_private(token: Path) -> None:
    """Let nobody else read the token by which Ray knows its user; Ray makes it readable by all."""
    if token.is_file():
        token.chmod(0o600)

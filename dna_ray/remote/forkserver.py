"""Starts the workers of a Ray of our own as forks of one process that has imported torch.

Ray starts an interpreter for every worker, and each imports torch and much else: a Train run with
two workers is six processes of some four core seconds each before its first step. Here one process
imports what they have in common, and all others are copies of it that share its memory. Ray is told
by `py_executable` to start `forked.py` in the place of Python, which asks for a copy.

Ray itself must not be imported before the fork: it draws the identities of tasks and objects from a
generator that forks would have in common, and takes settings from the environment on import.
"""

import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dna_ray.remote import forked

# What tasks and actors of a search import, and what Ray's libraries do.
_IMPORTED = (
    "dna_ray.distill",
    "dna_ray.rating",
    "dna_ray.retrain",
    "dna_ray.teacher",
    "fsspec",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.fs",
    "pyarrow.parquet",
    "pydantic.v1",
    "rich.layout",
    "torch.distributed",
)


@contextmanager
def fork_server(folder: Path) -> Iterator[dict[str, Any]]:
    """A server for the time of the body, or of this process, and how `ray.init` is told of it.

    `folder` must be private: who reaches the server's socket there can start processes. On a system
    other than Linux, where forks are less safe, there is no server.
    """
    if sys.platform != "linux":
        yield {}
        return
    path = folder / "forks"
    with socket.socket(socket.AF_UNIX) as listening, (folder / "forks.log").open("wb") as log:
        listening.bind(str(path))
        listening.listen(socket.SOMAXCONN)  # who asks waits until the server has imported
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listening.fileno())],
            stdin=subprocess.PIPE,  # closed with this process, and then the server ends
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # no Ctrl-C of the terminal reaches it
        )
    try:
        yield {"runtime_env": {"py_executable": shlex.join(asking(path))}}
    finally:
        server.communicate()


def asking(path: Path) -> list[str]:
    """The words in the place of Python by which a process asks the server whose socket is there."""
    return [sys.executable, "-I", "-S", forked.__file__, str(path)]


@dataclass(frozen=True)
class Request:
    """A process that `forked` asks for: a script and its arguments, and what it is started in."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]

    @classmethod
    def received(cls, connection: socket.socket) -> "Request":
        """The request that comes over a connection."""
        _, streams, *_ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as sent:
            return cls(**json.load(sent), streams=streams)

    def enter(self) -> None:
        """Give this process, a fork, all that is asked for but the script."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
        self.close()
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        os.setpgid(0, 0)  # Ray ends a worker with all of its process group
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        np.random.seed()  # Python's own generator is seeded anew in every fork

    def close(self) -> None:
        """Close the streams as they came, of which a fork has copies."""
        for stream in self.streams:
            os.close(stream)

    def run(self) -> None:
        """Run the script as the program of this process."""
        sys.argv = self.words
        sys.path[0] = os.path.dirname(self.words[0])
        runpy.run_path(self.words[0], run_name="__main__")


def serve(listening: socket.socket) -> Request | None:
    """Fork for every request, and return it in the fork; None in the server when its time is over.

    Whatever fails ends the server, and then workers start as they would without.
    """
    for module in _IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a fork would make copies of all memory that it looks at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for forks
    while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
        with listening.accept()[0] as connection:
            request = Request.received(connection)
            if not os.fork():
                listening.close()
                request.enter()
                connection.sendall(b".")  # fails where the other side has lost patience
                return request
            request.close()
    for fork in psutil.Process().children():  # those that Ray, which is gone, never knew
        with suppress(psutil.NoSuchProcess):
            fork.kill()
    return None


def main() -> None:
    """Be the server, and in the end one of its forks."""
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        request.run()


if __name__ == "__main__":
    main()

"""Starts the workers of a Ray of our own as forks of one process that has imported all they need.

For a worker Ray starts one interpreter, which sets up what is asked for, and in its place another.
Both import Ray, and the second torch and much else: a Train run with two workers is six processes
of some four core seconds each before its first step. Here one process imports what they have in
common, and all others are copies of it that share its memory. Ray is given a program in the place
of Python, `forked.py`, that asks for a copy.

Two things must not be the same in all copies. Ray takes settings from the environment when it is
imported: so that is done for the first request, and requests with other settings are not served.
And Ray draws identities from a generator that is seeded when the first is drawn: so none is drawn
before the fork, which the server tries out before it serves.
"""

import atexit
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
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import psutil

from dna_ray.remote import forked

# What tasks and actors of a search import, and what Ray's libraries do.
_BEFORE_RAY = (
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
_WITH_RAY = ("dna_ray.generations", "ray.data", "ray.train.torch", "ray.tune")


@contextmanager
def fork_server(folder: Path) -> Iterator[Path | None]:
    """A server for the time of the body, or of this process, and the program that asks it.

    `folder` must be private: who reaches the server's socket there can start processes. There is
    none on a system other than Linux, where forks are less safe, and in a folder of a filesystem
    that is mounted so that no program runs from there.
    """
    path, program = folder / "forks", folder / "python"
    words = [sys.executable, "-I", "-S", forked.__file__, str(path)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o700)
    if sys.platform != "linux" or not os.access(program, os.X_OK):
        yield None
        return
    with socket.socket(socket.AF_UNIX) as listening, (folder / "forks.log").open("wb") as log:
        listening.bind(str(path))
        listening.listen(socket.SOMAXCONN)  # who asks waits until the server has imported
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listening.fileno()), str(program)],
            stdin=subprocess.PIPE,  # closed with this process, and then the server ends
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # no Ctrl-C of the terminal reaches it
        )
    try:
        yield program
    finally:
        server.communicate()


@contextmanager
def in_the_place_of_python(program: Path | None) -> Iterator[dict[str, Any]]:
    """How `ray.init`, called in the body, has workers started by a program: options for it.

    It sets them up by what its own process takes for Python, and runs them by what is in the
    options.
    """
    if program is None:
        yield {}
        return
    with _replaced(sys, "executable", str(program)):
        yield {"runtime_env": {"py_executable": shlex.quote(str(program))}}


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value in the place of a module's own, for the time of the body."""
    own = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, own)


class _InItsPlaceError(BaseException):
    """A script ends here, and in its place `words` are to be run."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(words)
        self.words = words


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

    @property
    def settings(self) -> dict[str, str]:
        """The part of the environment that Ray looks at when it is imported."""
        return {k: v for k, v in self.environment.items() if k.startswith("RAY_")}

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
        atexit.register(_end)  # the first to be registered is the last to be called

    def close(self) -> None:
        """Close the streams as they came, of which a fork has copies."""
        for stream in self.streams:
            os.close(stream)

    def run(self, program: str) -> None:
        """Run the script as the program of this process.

        Where it becomes a shell that runs another by `program`, that one is run here instead: it
        need not ask for a fork, being one.
        """
        execute, ours = os.execvp, f"exec {shlex.quote(program)} "

        def instead(file: str, args: list[str]) -> NoReturn:
            if args[-1].startswith(ours):
                raise _InItsPlaceError(shlex.split(args[-1])[2:])
            execute(file, args)

        try:
            with _replaced(os, "execvp", instead):
                _run(self.words)
        except _InItsPlaceError as ended:
            words = ended.words
        else:
            return
        _run(words)


def _end() -> None:
    """End this process, whose status nobody sees, at once.

    For Python to take all modules down first is half a second of work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(words: list[str]) -> None:
    sys.argv = words
    sys.path[0] = os.path.dirname(words[0])
    runpy.run_path(words[0], run_name="__main__")


def _import_ray(request: Request) -> None:
    """Import Ray in the environment of a first request, so that forks draw different identities.

    A class of actors draws one for itself when it is made. That may be the same in all forks, but
    with it Ray's generator would be.
    """
    os.environ.update(request.settings)
    actors = importlib.import_module("ray.actor")
    drawn = actors.ActorClassID
    ours = SimpleNamespace(from_random=lambda: drawn(os.urandom(drawn.size())))
    with _replaced(actors, "ActorClassID", ours):
        for module in _WITH_RAY:
            importlib.import_module(module)
    if _identity() == _identity():
        raise RuntimeError("forks would draw the same identities")


def _identity() -> bytes:
    """What a fork draws from Ray's generator."""
    import ray

    read, write = os.pipe()
    if not os.fork():
        os.write(write, ray.ActorClassID.from_random().binary())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as drawn:
        return drawn.read()


def serve(listening: socket.socket) -> Request | None:
    """Fork for every request, and return it in the fork; None in the server when its time is over.

    Whatever fails ends the server, and then workers start as they would without.
    """
    for module in _BEFORE_RAY:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for forks
    first: Request | None = None
    while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
        with listening.accept()[0] as connection:
            request = Request.received(connection)
            if first is None:
                _import_ray(request)
                first = request
                gc.collect()
                gc.freeze()  # a collection in a fork would make copies of all that it looks at
            if request.settings == first.settings and not os.fork():
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
    listening, program = sys.argv[1:]
    request = serve(socket.socket(fileno=int(listening)))
    if request is not None:
        request.run(program)


if __name__ == "__main__":
    main()

"""`dna-ray search` as a process: started, watched, held still, and what it leaves behind."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dna_ray.rundir import RunFolder
from tests import tiny

COMMAND = Path(sys.executable).with_name("dna-ray")
GENERATIONS = 2

# Moments at which a run folder is copied: when the manifest lists a record, or a file below
# `working/` first appears. The snapshot is where Ray Train lists a checkpoint that is whole.
SNAPSHOT = "checkpoint_manager_snapshot.json"
MOMENTS = {
    "a pass of the adaptation": f"working/adapt-teacher/{SNAPSHOT}",
    "the adapted teacher": "teacher.safetensors",
    "an epoch": f"working/distill-generation-1/{SNAPSHOT}",
    "all cells": "generation-1/cells.safetensors",
    "the architecture": "generation-1/architecture.json",
    "trials": "working/tune-generation-1/*",
    "a pass": f"working/retrain-generation-1/{SNAPSHOT}",
    "all is trained": "generation-1/scaled.safetensors",
    "a generation": "generation-1/result.json",
}


@dataclass(frozen=True)
class Finished:
    """A search that ran to its end, and copies of its run folder from on the way."""

    tree: dict[str, Any]
    shown: str
    moments: dict[str, Path]

    @property
    def run(self) -> Path:
        return Path(self.tree["run"])

    def folder(self, generation: int) -> Path:
        return self.run / f"generation-{generation}"


class EnoughError(Exception):
    """What is looked for has been made."""


class UpTo(RunFolder):
    """A run folder that stops the search once a record is written."""

    last: str | None = None

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        if name == self.last:
            raise EnoughError


@contextmanager
def searching(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command in the background, for as long as the body; SIGINT works as in a terminal."""
    process = subprocess.Popen(
        [COMMAND, "search", "--json", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def answered(*words: str | Path, workers: int = 2) -> tuple[dict[str, Any], str]:
    """What the command answers as JSON, and what it shows beside it."""
    done = subprocess.run(
        [COMMAND, *words, "--json", "--workers", str(workers)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = json.loads(done.stdout)
    return tree, done.stderr


def arguments(task: Path, out: Path) -> list[str | Path]:
    run = ("--out", out, "--generations", str(GENERATIONS), "--workers", "2", "--seed", "3")
    return [*tiny.words(task), *run]


def wait_for(process: subprocess.Popen[str], run: Path, name: str) -> list[psutil.Process]:
    """Wait for a record, or for a file below `working/`; all processes of the search by then."""
    while not there(run, name):
        if process.poll() is not None:
            pytest.fail(f"the search ended before {name} was there: {process.communicate()[1]}")
        time.sleep(0.01)
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def there(run: Path, name: str) -> bool:
    """Whether a record is listed in the manifest, or a file below `working/` is there.

    Ray Train's list of checkpoints is there when it lists one: it is not written in one piece.
    """
    if name.endswith(SNAPSHOT):
        try:
            return json.loads((run / name).read_text())["latest_checkpoint_result"] is not None
        except (OSError, ValueError):
            return False
    if name.startswith("working/"):
        return any(run.glob(name))
    manifest = run / "manifest.json"
    return manifest.exists() and name in json.loads(manifest.read_text())["files"]


def nothing_remains(family: list[psutil.Process], run: Path) -> None:
    """Neither a process of a search that has ended nor the folder of its Ray session."""
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    note = run / "working" / "ray-session.txt"
    assert not note.exists() or not Path(note.read_text()).exists()


@contextmanager
def stopped(family: list[psutil.Process]) -> Iterator[None]:
    """Let processes stand still."""
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()

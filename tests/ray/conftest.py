"""One local Ray session, and a small task to search on."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from dna_ray.config import job_from_tree, parse_job
from dna_ray.data import load_pictures
from dna_ray.planning.plan import Plan, make_plan
from dna_ray.progress import Silent
from dna_ray.remote.session import Session, session
from dna_ray.space import load_space
from dna_ray.teacher import load_teacher
from tests import tiny
from tests.ray.command import (
    MOMENTS,
    Finished,
    arguments,
    nothing_remains,
    searching,
    stopped,
    there,
    wait_for,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As in every worker: a sum's last bit depends on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures/` and `tiny.toml`."""
    folder = tmp_path_factory.mktemp("task")
    tiny.put_task(folder)
    return folder


@pytest.fixture(scope="session")
def local() -> Iterator[Session]:
    """Ray on this machine with two workers."""
    with session(Silent(), workers=2) as started:
        yield started


@pytest.fixture(scope="session")
def interrupted(task_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a search with two workers that Ctrl-C ended while pictures are decoded."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with searching(*arguments(task_files, run)) as process:
        family = wait_for(process, run, "working/ray-session.txt")
        process.send_signal(signal.SIGINT)
        out, shown = process.communicate(timeout=300)
    assert process.returncode == 130, shown
    assert out == ""
    assert shown.splitlines()[-1] == "interrupted; --resume the run folder to go on"
    nothing_remains(family, run)
    return run


@pytest.fixture(scope="session")
def finished(interrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The same run, resumed to its end. What a kill would leave at each of MOMENTS is kept.

    All processes of the search stand still while the run folder is copied.
    """
    copies = tmp_path_factory.mktemp("moments")
    family: list[psutil.Process] = []
    with searching("--resume", interrupted, "--workers", "2") as process:
        for name, file in MOMENTS.items():
            while not there(copies / name, file):
                shutil.rmtree(copies / name, ignore_errors=True)
                family = wait_for(process, interrupted, file)
                with stopped(family):
                    shutil.copytree(interrupted, copies / name)
        out, shown = process.communicate(timeout=600)
    assert process.returncode == 0, shown
    nothing_remains(family, interrupted)
    return Finished(json.loads(out), shown, {name: copies / name for name in MOMENTS})


@pytest.fixture(scope="session")
def plan(finished: Finished) -> Plan:
    config = (finished.run / "config.toml").read_text()
    job = job_from_tree(parse_job(config, "config.toml"))
    space = load_space(job.space)
    return make_plan(job, space, load_pictures(job.data), load_teacher(job.teacher))

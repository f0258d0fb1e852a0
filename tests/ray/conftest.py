"""One local Ray session, and a small task to search on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dna_ray.progress import Silent
from dna_ray.remote.session import Session, session
from tests import tiny


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

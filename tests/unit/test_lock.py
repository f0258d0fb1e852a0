"""One process at a time works on a folder, on this machine and on a store."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from moto.s3 import models

from dna_ray import lock
from dna_ray.errors import UserError
from dna_ray.lock import locked
from dna_ray.rundir import RunFolder
from dna_ray.storage import Place


@pytest.fixture(params=["disk", "S3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.of(tmp_path if request.param == "disk" else request.getfixturevalue("s3"))


class Clock:
    """The clock of the store and of this process's locks: a test lets time pass."""

    passed = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, now = Clock(), models.utcnow
    ours = SimpleNamespace(monotonic=lambda: time.monotonic() + clock.passed)
    monkeypatch.setattr(lock, "time", ours)
    monkeypatch.setattr(models, "utcnow", lambda: now() + timedelta(seconds=clock.passed))
    return clock


@contextmanager
def held_by_another(folder: Place) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until the body ends, or until it is killed."""
    script = (
        "import sys; from dna_ray import lock; from dna_ray.storage import Place\n"
        "lock._BEAT = 0.1\n"
        "with lock.locked(Place.of(sys.argv[1])): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        yield other
        other.kill()


def is_free(folder: Place) -> bool:
    try:
        with locked(folder):
            return True
    except UserError:
        return False


def test_another_process_is_kept_out(folder: Place) -> None:
    with (
        held_by_another(folder),
        pytest.raises(UserError, match=r"another is at work on .*wait for it"),
        locked(folder),
    ):
        pytest.fail("two are at work")


def test_whatever_ends_the_body_frees_the_folder(folder: Place) -> None:
    with pytest.raises(BlockingIOError, match="from the body"), locked(folder):
        raise BlockingIOError("from the body")
    with locked(folder) as check:
        check()
    assert is_free(folder)
    assert folder.inside() == []


@pytest.mark.timeout(60)
def test_a_killed_process_holds_nothing(folder: Place, clock: Clock) -> None:
    """On a store its claim has to lapse first."""
    with held_by_another(folder) as other:
        for _ in range(3):  # it gives signs of life
            clock.passed += 59
            before = [info.mtime for info in folder.inside()]
            while folder.local is None and [info.mtime for info in folder.inside()] == before:
                time.sleep(0.05)
            assert not is_free(folder)
        other.kill()
        other.wait()
        assert is_free(folder) == (folder.local is not None)
    clock.passed += 60
    assert is_free(folder)
    assert folder.inside() == []


def test_of_many_that_come_at_the_same_time_one_gets_in_at_most(s3: str) -> None:
    folder, crowd = Place.of(s3), 6
    start, inside, most = threading.Barrier(crowd), [], [0]

    def come() -> None:
        for _ in range(4):
            start.wait()
            with suppress(UserError), locked(folder):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.05)
                inside.pop()

    threads = [threading.Thread(target=come) for _ in range(crowd)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 1
    assert is_free(folder)


def test_who_was_held_up_for_too_long_finds_out(s3: str, clock: Clock) -> None:
    folder = Place.of(s3)
    with locked(folder) as first:
        clock.passed += 60
        first()
        assert not is_free(folder)  # nobody had come, and the claim holds again
        clock.passed += 60
        with locked(folder) as second:
            with pytest.raises(OSError, match="another process works on"):
                first()
            second()
        with pytest.raises(OSError, match="another process works on"):
            first()


def test_a_run_that_was_taken_over_writes_no_more(s3: str, clock: Clock) -> None:
    run = RunFolder.create(s3, "seed = 0", 0)
    with run.locked():
        clock.passed += 60
        with RunFolder.open(s3).locked():
            for write in (lambda: run.write("record", b"late"), lambda: run.begin("rate")):
                with pytest.raises(OSError, match="another process works on"):
                    write()
    assert not (run.place / "record").is_file()
    assert not RunFolder.open(s3).begun

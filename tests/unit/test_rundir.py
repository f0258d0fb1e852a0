"""The run folder: records appear whole or not at all, and damage is noticed."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dna_ray import __version__
from dna_ray.errors import UserError
from dna_ray.rundir import RunFolder
from tests.processes import small_files_only

CONFIG = 'seed = 3\nspace = "demo"\n'


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, 3)


def manifest(run: RunFolder) -> Any:
    return json.loads((run.path / "manifest.json").read_text())


def files(run: RunFolder) -> set[str]:
    """All files of the folder, hidden ones too."""
    return {str(f.relative_to(run.path)) for f in run.path.rglob("*") if f.is_file()}


# create


@pytest.mark.parametrize("place", ["new", "deep/er/new", "there"])
def test_a_new_or_empty_place_becomes_a_run_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "there").mkdir()
    run = RunFolder.create(tmp_path / place, CONFIG, 3)
    assert run.config == CONFIG
    assert files(run) == {"config.toml", "manifest.json"}
    assert RunFolder.open(tmp_path / place).config == CONFIG


def test_a_space_of_ones_own_is_kept_beside_the_configuration(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG, 3, space='name = "größe"')
    assert run.has("space.toml")
    assert run.read("space.toml").decode() == 'name = "größe"'


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("mine")
    with pytest.raises(UserError, match=r"new or empty.*--out"):
        RunFolder.create(tmp_path, CONFIG, 3)
    assert [f.name for f in tmp_path.iterdir()] == [".hidden"]


def test_a_run_is_not_made_over_another(run: RunFolder) -> None:
    with pytest.raises(UserError, match="--resume"):
        RunFolder.create(run.path, "seed = 4", 4)
    assert RunFolder.open(run.path).config == CONFIG


def test_a_file_in_the_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="new or empty"):
        RunFolder.create(tmp_path / "file", CONFIG, 3)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/run", "file/deep/run", "dangling", "name" * 100])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    """Below a regular file, a link to nowhere, a name too long: even root cannot write there."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"must be writable.*--out") as caught:
        RunFolder.create(tmp_path / place, CONFIG, 3)
    assert str(tmp_path / place) in str(caught.value)


def test_a_full_disk_is_told_when_the_folder_is_made(tmp_path: Path) -> None:
    with small_files_only(4), pytest.raises(UserError, match="must be writable"):
        RunFolder.create(tmp_path / "run", CONFIG, 3)


# open


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"5",
        b'"format"',
        b"[]",
        b"{}",
        b'{"name": "app", "icons": []}',
        b'{"format": 2, "files": {}}',
        b'{"format": 1}',
    ],
)
def test_a_folder_of_others_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json of ours.*check the path"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "file", "file/below"])
def test_a_place_that_is_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=place):
        RunFolder.open(tmp_path / place)


# Records


def test_records_are_read_back_and_outlive_the_process(run: RunFolder) -> None:
    name, tree = run.file(2, "architecture.json"), {"blocks": [1, 2.5, "ä"]}
    assert name == "generation-2/architecture.json"
    run.write_json(name, tree)
    run.write("empty", b"")
    for opened in (run, RunFolder.open(run.path)):
        assert opened.read_json(name) == tree
        assert opened.has(name)
        assert opened.has("empty")
        assert opened.has("config.toml")
        assert not opened.has("other")


def test_a_record_can_be_replaced(run: RunFolder) -> None:
    run.write("record", b"long old content")
    run.write("record", b"new")
    assert RunFolder.open(run.path).has("record")
    assert run.read("record") == b"new"


@pytest.mark.parametrize(
    "damaged", [None, b"", b"conten", b"contenT", b"content ", b"content\n"], ids=repr
)
def test_a_record_that_was_changed_cut_or_removed_is_not_there(
    run: RunFolder, damaged: bytes | None
) -> None:
    run.write("record", b"content")
    run.write("other", b"content")
    assert run.has("record")
    (run.path / "record").unlink()
    if damaged is not None:
        (run.path / "record").write_bytes(damaged)
    for opened in (run, RunFolder.open(run.path)):
        assert not opened.has("record")
        assert opened.has("other")


def test_a_file_that_was_put_there_is_no_record(run: RunFolder) -> None:
    (run.path / "record").write_bytes(b"content")
    (run.path / "folder").mkdir()
    assert not run.has("record")
    assert not run.has("folder")


# Atomic writes


@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_write_that_fails_leaves_the_old_record_whole(run: RunFolder, old: bytes | None) -> None:
    if old is not None:
        run.write("record", old)
    before = files(run)
    with small_files_only(2000), pytest.raises(OSError, match="File too large"):
        run.write("record", b"x" * 5000)
    assert files(run) == before
    for opened in (run, RunFolder.open(run.path)):
        assert opened.has("record") == (old is not None)
        assert old is None or opened.read("record") == old


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(run: RunFolder) -> None:
    run.write("record", b"old")
    before = manifest(run)
    with small_files_only(10), pytest.raises(OSError, match="File too large"):
        run.write("record", b"new")
    assert manifest(run) == before
    assert files(run) == {"config.toml", "manifest.json", "record"}
    opened = RunFolder.open(run.path)
    assert opened.has("config.toml")
    assert opened.read("record") == (b"old" if opened.has("record") else b"new")


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_process_killed_while_it_writes_leaves_the_old_record_whole(
    run: RunFolder, moment: str
) -> None:
    run.write("record", b"old content")
    script = (
        "import os, pathlib, signal, sys; from dna_ray.rundir import RunFolder\n"
        "run = RunFolder.open(pathlib.Path(sys.argv[1]))\n"
        f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.write('record', b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run.path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    opened = RunFolder.open(run.path)
    assert opened.has("record")
    assert opened.read("record") == b"old content"
    opened.write("record", b"newer")
    assert RunFolder.open(run.path).has("record")


# Manifest, seconds and metrics


def test_the_manifest_holds_versions_seed_and_checksums(run: RunFolder) -> None:
    run.write("generation-1/record", b"content")
    tree = manifest(run)
    assert tree["format"] == 1
    assert tree["seed"] == 3
    assert tree["versions"]["dna-ray"] == __version__
    assert tree["versions"]["python"] == sys.version.split()[0]
    assert tree["versions"].keys() >= {"ray", "torch", "torchvision", "timm", "numpy", "pyarrow"}
    assert tree["files"] == {
        "config.toml": hashlib.sha256(CONFIG.encode()).hexdigest(),
        "generation-1/record": hashlib.sha256(b"content").hexdigest(),
    }


def test_seconds_add_up_over_attempts(run: RunFolder) -> None:
    assert run.seconds("rate") == 0
    run.end("rate", 1.5, done=False)
    run.end("search", 0.25)
    again = RunFolder.open(run.path)
    again.end("rate", 2.0)
    opened = RunFolder.open(run.path)
    assert (opened.seconds("rate"), opened.seconds("search")) == (3.5, 0.25)
    assert manifest(run)["seconds"] == {"rate": 3.5, "search": 0.25}
    assert opened.has("config.toml")


def test_a_stage_is_begun_until_it_is_done(run: RunFolder) -> None:
    assert manifest(run)["stages"] == {}
    run.begin("rate")
    run.begin("search")
    run.end("search", 0.25)
    run.end("rate", 1.5, done=False)
    assert manifest(run)["stages"] == {"rate": "begun", "search": "done"}
    run.begin("search")  # its record was damaged
    assert manifest(RunFolder.open(run.path))["stages"]["search"] == "begun"


def test_a_run_is_begun_with_the_first_stage_that_would_be_lost(run: RunFolder) -> None:
    run.begin("generation-1/features")
    assert not run.begun
    run.begin("generation-1/adapt")
    assert run.begun
    run.remove()
    assert not run.path.exists()


def metrics(run: RunFolder, generation: int) -> list[Any]:
    text = (run.path / f"generation-{generation}" / "metrics.jsonl").read_text(encoding="utf-8")
    return list(map(json.loads, text.splitlines()))


def test_metrics_of_a_stage_replace_those_it_left_before(run: RunFolder) -> None:
    """A stage that is done again after a kill leaves its rows once."""
    distill = [{"stage": "distill", "epoch": e, "loss": 1 / 3} for e in (1, 2)]
    found = [{"stage": "train", "network": "found", "pass": 1, "note": "ä\n"}]
    teacher = [{"stage": "train", "network": "teacher", "pass": 1}]
    run.measure(1, teacher)
    run.measure(1, distill[:1])
    run.measure(1, found)
    run.measure(2, distill)
    RunFolder.open(run.path).measure(1, distill)
    run.measure(1, [])
    assert metrics(run, 1) == [*teacher, *found, *distill]
    assert metrics(run, 2) == distill


def test_one_process_at_a_time_works_on_a_folder(run: RunFolder) -> None:
    script = (
        "import sys; from pathlib import Path; from dna_ray.rundir import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).locked(): print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="another is at work on"), run.locked():
            pytest.fail("two are at work")
        other.kill()
    with run.locked():  # a killed process holds nothing
        pass
    with pytest.raises(ValueError, match="from the body"), run.locked():
        raise ValueError("from the body")
    with run.locked():
        pass


def test_metrics_are_read_back(run: RunFolder) -> None:
    assert run.measured(1) == []
    rows = [{"stage": "train", "network": "ä", "pass": 1, "loss": 0.5}]
    run.measure(1, rows)
    assert run.measured(1) == rows
    assert run.measured(2) == []


def test_a_record_is_whole_absent_or_damaged(run: RunFolder) -> None:
    assert run.whole("record") is None
    run.write("record", b"content")
    assert run.whole("record") == b"content"
    (run.path / "record").write_bytes(b"contents")
    with pytest.raises(UserError, match=r"record' is missing or damaged.*--resume"):
        run.whole("record")
    (run.path / "record").unlink()
    with pytest.raises(UserError, match="missing"):
        run.whole("record")


def test_seconds_are_listed_by_generation(run: RunFolder) -> None:
    for stage in ("generation-1/rate", "generation-10/rate", "generation-1/tune"):
        run.end(stage, 1.5)
    assert run.all_seconds(1) == {"rate": 1.5, "tune": 1.5}
    assert run.all_seconds(2) == {}

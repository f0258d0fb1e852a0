"""The run folder: records appear whole or not at all, and damage is noticed."""

import hashlib
import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileType

from dna_ray import __version__
from dna_ray.errors import UserError
from dna_ray.rundir import RunFolder
from dna_ray.storage import Place
from tests.processes import small_files_only
from tests.s3 import Store

CONFIG = 'seed = 3\nspace = "demo"\n'


@pytest.fixture(params=["disk", "S3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder of the test's own, on this machine or on a store."""
    return Place.of(tmp_path if request.param == "disk" else request.getfixturevalue("s3"))


@pytest.fixture
def run(folder: Place) -> RunFolder:
    return RunFolder.create(str(folder / "run"), CONFIG, 3)


@pytest.fixture
def local(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, 3)


def again(run: RunFolder) -> RunFolder:
    """The folder as another process finds it."""
    return RunFolder.open(str(run.place))


def manifest(run: RunFolder) -> Any:
    return json.loads((run.place / "manifest.json").read())


def files(run: RunFolder) -> set[str]:
    """All files of the folder, hidden ones too."""
    inside = run.place.inside(recursive=True)
    paths = [info.path for info in inside if info.type == FileType.File]
    return {path.removeprefix(f"{run.place.path}/") for path in paths}


# create


@pytest.mark.parametrize("name", ["new", "deep/er/new", "there"])
def test_a_new_or_empty_place_becomes_a_run_folder(folder: Place, name: str) -> None:
    (folder / "there").make_folder()
    run = RunFolder.create(str(folder / name), CONFIG, 3)
    assert run.config == CONFIG
    assert files(run) == {"config.toml", "manifest.json"}
    assert RunFolder.open(str(folder / name)).config == CONFIG


def test_a_space_of_ones_own_is_kept_beside_the_configuration(folder: Place) -> None:
    run = RunFolder.create(str(folder / "run"), CONFIG, 3, space='name = "größe"')
    assert run.has("space.toml")
    assert run.read("space.toml").decode() == 'name = "größe"'


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("mine")
    with pytest.raises(UserError, match=r"new or empty.*--out"):
        RunFolder.create(tmp_path, CONFIG, 3)
    assert [f.name for f in tmp_path.iterdir()] == [".hidden"]


def test_a_run_is_not_made_over_another(run: RunFolder) -> None:
    with pytest.raises(UserError, match="--resume"):
        RunFolder.create(str(run.place), "seed = 4", 4)
    assert again(run).config == CONFIG


def test_a_file_in_the_place_is_refused_and_left_alone(folder: Place) -> None:
    (folder / "file").write(b"mine")
    with pytest.raises(UserError, match="new or empty"):
        RunFolder.create(str(folder / "file"), CONFIG, 3)
    assert (folder / "file").read() == b"mine"


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


def test_a_store_that_refuses_the_user_is_told_at_once(s3: str, store: Store) -> None:
    with (
        store.refusing(),
        pytest.raises(UserError, match=r"must be writable.*ACCESS_DENIED.*--out"),
    ):
        RunFolder.create(s3, CONFIG, 3)
    RunFolder.create(s3, CONFIG, 3)


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
    for opened in (run, again(run)):
        assert opened.read_json(name) == tree
        assert opened.has(name)
        assert opened.has("empty")
        assert opened.has("config.toml")
        assert not opened.has("other")


def test_a_record_can_be_replaced(run: RunFolder) -> None:
    run.write("record", b"long old content")
    run.write("record", b"new")
    assert again(run).has("record")
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
    (run.place / "record").remove()
    if damaged is not None:
        (run.place / "record").write(damaged)
    for opened in (run, again(run)):
        assert not opened.has("record")
        assert opened.has("other")


def test_a_file_that_was_put_there_is_no_record(run: RunFolder) -> None:
    (run.place / "record").write(b"content")
    (run.place / "folder").make_folder()
    assert not run.has("record")
    assert not run.has("folder")


# Atomic writes


@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_write_that_fails_leaves_the_old_record_whole(
    local: RunFolder, old: bytes | None
) -> None:
    if old is not None:
        local.write("record", old)
    before = files(local)
    with small_files_only(2000), pytest.raises(OSError, match="File too large"):
        local.write("record", b"x" * 5000)
    assert files(local) == before
    for opened in (local, again(local)):
        assert opened.has("record") == (old is not None)
        assert old is None or opened.read("record") == old


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(local: RunFolder) -> None:
    local.write("record", b"old")
    before = manifest(local)
    with small_files_only(10), pytest.raises(OSError, match="File too large"):
        local.write("record", b"new")
    assert manifest(local) == before
    assert files(local) == {"config.toml", "manifest.json", "record"}
    opened = again(local)
    assert opened.has("config.toml")
    assert opened.read("record") == (b"old" if opened.has("record") else b"new")


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_process_killed_while_it_writes_leaves_the_old_record_whole(
    local: RunFolder, moment: str
) -> None:
    local.write("record", b"old content")
    script = (
        "import os, pathlib, signal, sys; from dna_ray.rundir import RunFolder\n"
        "run = RunFolder.open(pathlib.Path(sys.argv[1]))\n"
        f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.write('record', b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(local.place)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    opened = again(local)
    assert opened.has("record")
    assert opened.read("record") == b"old content"
    opened.write("record", b"newer")
    assert again(local).has("record")


# A store that is lost in mid-run


@pytest.mark.parametrize("answered", range(7))
def test_credentials_lost_while_a_record_is_written_leave_a_whole_one(
    s3: str, store: Store, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    """A file takes three requests, and a record is two files; the run goes on from any of them."""
    monkeypatch.setattr("dna_ray.storage._PAUSES", ())
    run = RunFolder.create(s3, CONFIG, 3)
    run.write("record", b"old")
    outcome = pytest.raises(OSError, match="INVALID_ACCESS_KEY_ID") if answered < 6 else None
    with store.refusing(answered), outcome or nullcontext() as caught:
        run.write("record", b"new")
    if caught:
        lost = "record" if answered < 3 else "manifest.json"
        assert caught.value.__notes__ == [f"writing '{run.place / lost}'"]
    assert run.read("record") == (b"old" if answered < 3 else b"new")
    assert again(run).has("record") == (not 3 <= answered < 6)
    again(run).write("record", b"new")
    assert again(run).has("record")


def test_credentials_that_come_back_cost_nothing_but_time(
    s3: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, waited = RunFolder.create(s3, CONFIG, 3), []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            store.refuse(float("inf"))

    monkeypatch.setattr("time.sleep", wait)
    with store.refusing():
        run.write("record", b"content")
    assert waited == [1, 3, 9]
    assert again(run).read("record") == b"content"


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
    again(run).end("rate", 2.0)
    opened = again(run)
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
    assert manifest(again(run))["stages"]["search"] == "begun"


def test_a_run_is_begun_with_the_first_stage_that_would_be_lost(run: RunFolder) -> None:
    run.begin("generation-1/features")
    assert not run.begun
    run.begin("generation-1/adapt")
    assert run.begun
    run.remove()
    assert run.place.info().type == FileType.NotFound


def metrics(run: RunFolder, generation: int) -> list[Any]:
    data = (run.place / f"generation-{generation}/metrics.jsonl").read()
    return list(map(json.loads, data.splitlines()))


def test_metrics_of_a_stage_replace_those_it_left_before(run: RunFolder) -> None:
    """A stage that is done again after a kill leaves its rows once."""
    distill = [{"stage": "distill", "epoch": e, "loss": 1 / 3} for e in (1, 2)]
    found = [{"stage": "train", "network": "found", "pass": 1, "note": "ä\n"}]
    teacher = [{"stage": "train", "network": "teacher", "pass": 1}]
    run.measure(1, teacher)
    run.measure(1, distill[:1])
    run.measure(1, found)
    run.measure(2, distill)
    again(run).measure(1, distill)
    run.measure(1, [])
    assert metrics(run, 1) == [*teacher, *found, *distill]
    assert metrics(run, 2) == distill


def test_the_log_grows(run: RunFolder) -> None:
    run.log("first\n")
    again(run).log("größer\nthan before")
    lines = (run.place / "log.txt").read().decode().splitlines()
    assert [line.partition(" ")[2] or line for line in lines] == ["first", "größer", "before"]


def test_the_folder_of_a_session_is_remembered(run: RunFolder, tmp_path: Path) -> None:
    assert run.session is None
    run.remember_session(tmp_path)
    assert again(run).session == tmp_path
    run.working.remove()
    assert run.session is None


def test_one_process_at_a_time_works_on_a_folder(run: RunFolder) -> None:
    with run.locked():
        with pytest.raises(UserError, match="another is at work on"), again(run).locked():
            pytest.fail("two are at work")
        run.write("record", b"content")
    with again(run).locked():
        pass
    assert files(run) == {"config.toml", "manifest.json", "record"}


def test_a_store_that_may_only_be_read_is_no_place_to_work(
    s3: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dna_ray.storage._PAUSES", ())
    run = RunFolder.create(s3, CONFIG, 3)
    said = r"must be writable, but 's3://.*' is not \(.*INVALID_ACCESS_KEY_ID"
    with store.refusing(), pytest.raises(UserError, match=said), run.locked():
        pytest.fail("it was locked")


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
    (run.place / "record").write(b"contents")
    with pytest.raises(UserError, match=r"run/record.*is missing or damaged.*--resume"):
        run.whole("record")
    (run.place / "record").remove()
    with pytest.raises(UserError, match="missing"):
        run.whole("record")


def test_seconds_are_listed_by_generation(run: RunFolder) -> None:
    for stage in ("generation-1/rate", "generation-10/rate", "generation-1/tune"):
        run.end(stage, 1.5)
    assert run.all_seconds(1) == {"rate": 1.5, "tune": 1.5}
    assert run.all_seconds(2) == {}

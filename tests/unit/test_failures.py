"""What ends a run and is no wrong input: one line that says how to go on, exit status 1."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from dna_ray.errors import causes
from dna_ray.rundir import RunFolder
from dna_ray_cli.main import main
from tests.processes import small_files_only
from tests.s3 import Store
from tests.unit.test_wrong_input import put_materials

WORDS = "search --data pictures --teacher test_resnet:net.safetensors --space tiny.toml --out"


@contextmanager
def no_session(*_: object, **__: object) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(folder=None, dashboard="")


def ends_in_mid_run(
    out: str, here: Path, fault: AbstractContextManager[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a search that fails while it writes its second record."""

    def search(_: object, run: RunFolder, __: object) -> None:
        run.begin("generation-1/distill")
        run.write("first", b"whole")
        with fault:
            run.write("second", b"x" * 100_000)

    put_materials(here)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["dna-ray", *WORDS.split(" "), out])
    monkeypatch.setattr("dna_ray.remote.session.session", no_session)
    monkeypatch.setattr("dna_ray.generations.search", search)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1


@pytest.mark.parametrize("fault", ["full disk", "lost credentials"])
def test_a_run_that_cannot_write_says_what_failed_and_how_to_go_on(
    fault: str,
    tmp_path: Path,
    s3: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dna_ray.storage._PAUSES", ())
    full = fault == "full disk"
    out = "run" if full else s3
    fails: AbstractContextManager[None] = small_files_only(50_000) if full else store.refusing()
    ends_in_mid_run(out, tmp_path, fails, monkeypatch)
    shown, said = capsys.readouterr()
    assert shown == ""
    line = said.splitlines()[-1]
    assert line.startswith(f"failed: writing '{RunFolder.open(out).place / 'second'}': OSError: ")
    assert ("File too large" if full else "INVALID_ACCESS_KEY_ID") in line
    assert line.endswith(f"; to go on: dna-ray search --resume {shlex.quote(out)}")
    run = RunFolder.open(out)
    assert run.has("first")
    assert not run.has("second")
    with run.locked():
        assert json.loads((run.place / "manifest.json").read())["stages"] == {
            "generation-1/distill": "begun"
        }
    assert "Traceback" in (run.place / "log.txt").read().decode()


def test_what_ended_ray_train_is_found_below_its_own_errors() -> None:
    from ray.train import ControllerError, WorkerGroupError

    lost = OSError("the store does not answer")
    for error in (ControllerError(lost), WorkerGroupError("rank 0", {0: lost})):
        assert [type(cause) for cause in causes(error)] == [type(error), OSError]


def test_an_error_that_is_raised_from_itself_is_told_once() -> None:
    error = ValueError("as Ray's dashboard raises it")
    error.__cause__ = error
    assert list(causes(error)) == [error]

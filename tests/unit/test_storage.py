"""Files anywhere: on this machine and on a store the same calls do the same."""

import pickle
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication

from dna_ray.errors import UserError
from dna_ray.storage import Place, reachable
from tests.s3 import Store


@pytest.fixture(params=["disk", "S3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.of(tmp_path / "new" if request.param == "disk" else request.getfixturevalue("s3"))


# Names


@pytest.mark.parametrize(
    ("given", "below", "path"),
    [
        ("/data/set", "/data/set/a/b", "/data/set/a/b"),
        ("/data/set/", "/data/set/a/b", "/data/set/a/b"),
        ("/", "/a/b", "/a/b"),
        ("/who?/what#", "/who?/what#/a/b", "/who?/what#/a/b"),
        ("file:///data/set", "file:///data/set/a/b", "/data/set/a/b"),
        ("file:///", "file:///a/b", "/a/b"),
        (
            "s3://bucket?region=eu-north-1",
            "s3://bucket/a/b?region=eu-north-1",
            "bucket/a/b",
        ),
        (
            "s3://bucket/set/?region=eu-north-1&scheme=http",
            "s3://bucket/set/a/b?region=eu-north-1&scheme=http",
            "bucket/set/a/b",
        ),
    ],
)
def test_a_place_below_is_called_as_its_user_would(given: str, below: str, path: str) -> None:
    place = Place.of(given) / "a" / "b"
    assert (str(place), place.path) == (below, path)
    assert Place.of(str(place)) == place
    assert (place.local is None) == given.startswith("s3")


def test_a_relative_path_is_called_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place.of("runs") / "a"
    assert str(place) == "runs/a"
    assert place.local == tmp_path / "runs" / "a"


@pytest.mark.parametrize("given", ["nope://x", "s3://", "s3://[x", "s3://a b/c", "s3://a?no=1"])
def test_a_uri_that_names_no_place_is_refused(given: str) -> None:
    with pytest.raises(
        UserError, match=r"s3://bucket/folder, but .* is not .*; check it"
    ) as caught:
        Place.of(given)
    assert f"'{given}'" in str(caught.value)


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match=r"without a password.*s3://\.\.\.@bucket'") as caught:
        Place.of("s3://key:secret@bucket/folder?region=eu-north-1")
    assert "secret" not in str(caught.value)
    assert "key" not in str(caught.value)


# Files


def test_files_are_written_listed_read_and_removed(folder: Place) -> None:
    assert folder.inside() == []
    assert not folder.is_folder()
    (folder / "b" / "größe & <x>").write(b"")
    (folder / "a").write(b"12345")
    assert (folder / "a").is_file()
    assert not (folder / "a").is_folder()
    assert folder.is_folder()
    assert (folder / "b").is_folder()
    assert not (folder / "b").is_file()
    assert [info.base_name for info in folder.inside()] == ["a", "b"]
    names = [info.base_name for info in folder.inside(recursive=True)]
    assert names == ["a", "b", "größe & <x>"]
    assert (folder / "a").info().size == 5
    assert (folder / "a").read() == b"12345"
    (folder / "b").remove()
    (folder / "c").remove()  # was never there
    assert [info.base_name for info in folder.inside()] == ["a"]
    (folder / "a").remove()
    with pytest.raises(FileNotFoundError):
        (folder / "a").read()


def test_a_place_can_be_sent_to_another_process(folder: Place) -> None:
    (folder / "a").write(b"content")
    assert (pickle.loads(pickle.dumps(folder)) / "a").read() == b"content"


def test_a_browser_knows_what_lies_on_a_store(s3: str, store: Store) -> None:
    for name, kind in (("report.html", "text/html"), ("x.parquet", "application/octet-stream")):
        place = Place.of(s3) / name
        place.write(b"content")
        with urllib.request.urlopen(f"{store.endpoint}/{place.path}", timeout=10) as answer:
            assert answer.headers["Content-Type"] == kind


# What fails


@pytest.fixture
def old(s3: str) -> Place:
    """A file that is there before something fails."""
    place = Place.of(s3) / "file"
    place.write(b"old")
    return place


@pytest.mark.parametrize("answered", range(6))
def test_a_store_lost_between_two_parts_of_a_file_keeps_the_old_one(
    old: Place, store: Store, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    """Large files go in parts: a beginning, two of them here, and an end that shows the file."""
    monkeypatch.setattr("dna_ray.storage._PAUSES", ())
    parts = b"new" * 6_000_000
    if answered < 4:
        with store.refusing(answered), pytest.raises(OSError, match="INVALID_ACCESS_KEY_ID"):
            old.write(parts)
        assert old.read() == b"old"
    else:
        with store.refusing(answered):
            old.write(parts)
        assert old.read() == parts


@pytest.fixture
def terminal() -> Iterator[None]:
    """SIGINT as in a terminal: a process that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.timeout(60)
def test_ctrl_c_while_a_file_is_opened_does_not_put_an_empty_one_there(
    old: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Callable[..., Any] = DomainDispatcherApplication.__call__
    main = threading.main_thread().ident
    assert main is not None

    def interrupting(self: object, environ: dict[str, Any], start: object) -> Any:
        if environ["QUERY_STRING"].startswith("uploads"):
            signal.pthread_kill(main, signal.SIGINT)
        return answer(self, environ, start)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", interrupting)
    with pytest.raises(KeyboardInterrupt):
        old.write(b"new")
    assert old.read() in (b"old", b"new")


def test_a_store_that_does_not_know_the_user_is_asked_again_and_again(
    old: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for ask in (old.read, old.info, old.inside, old.remove, lambda: old.write(b"new")):
        waited.clear()
        with store.refusing(), pytest.raises(OSError, match="AWS Error"):
            ask()
        assert waited == [1, 3, 9]
    assert old.read() == b"old"


def test_what_is_not_there_is_not_looked_for_again(
    folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was waited for"))
    with pytest.raises(FileNotFoundError):
        (folder / "nowhere").read()


def test_a_place_that_cannot_be_reached_is_told_at_once(
    old: Place, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))
    said = r"the thing must be reachable, but 's3://.*' is not: .*ACCESS_DENIED.*its credentials"
    with store.refusing(), pytest.raises(UserError, match=said), reachable(old, "the thing"):
        pytest.fail("it was reached")

"""What a session of Ray leaves behind: nothing."""

import tempfile
from pathlib import Path

import pytest

from dna_ray.remote.session import remove_session


def test_only_a_session_of_ray_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own, other, elsewhere = (
        tmp_path / "ray" / "session_1",
        tmp_path / "ray" / "results",
        tmp_path / "home" / "session_1",
    )
    for folder in (own, other, elsewhere):
        (folder / "logs").mkdir(parents=True)
    link = tmp_path / "ray" / "session_latest"
    link.symlink_to(own)
    for folder in (other, elsewhere, own, own):
        remove_session(folder)
    assert [f.exists() for f in (own, other, elsewhere)] == [False, True, True]
    assert not link.is_symlink()

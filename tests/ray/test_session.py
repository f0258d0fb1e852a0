"""Who can reach a session of Ray, and what it leaves behind: nothing."""

import tempfile
from pathlib import Path

import psutil
import pytest

from dna_ray.remote.session import Session, remove_session


def test_the_token_is_private_and_the_dashboard_is_of_this_machine_alone(local: Session) -> None:
    token = Path.home() / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    host, port = local.dashboard.split(":")
    assert host == "127.0.0.1"
    listening = [c.laddr.ip for c in psutil.net_connections() if c.laddr.port == int(port)]
    assert set(listening) == {"127.0.0.1"}


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

"""A state directory that somebody else could change is not used."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from akpolicy.errors import CacheError, CacheSymlink, CacheWritableByOthers
from akpolicy_sidecar.cache import StateDirectory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_directory_that_others_can_write_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    place.chmod(0o770)

    with pytest.raises(CacheWritableByOthers):
        StateDirectory.open(place, "acme")


def test_a_linked_directory_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "real")

    with pytest.raises(CacheSymlink):
        StateDirectory.open(place, "acme")


def test_a_lock_that_cannot_be_had_is_let_go(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(CacheError, match=f"cannot lock `{place}/lock`: No locks available"):
        StateDirectory.open(place, "acme")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_linked_lock_is_refused(place: Path, tmp_path: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "lock").symlink_to(tmp_path / "anything")

    with pytest.raises(CacheError, match=f"cannot open the lock `{place}/lock`"):
        StateDirectory.open(place, "acme")

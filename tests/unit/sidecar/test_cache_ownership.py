"""A state directory that somebody else could change is not used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    CacheError,
    CacheSymlink,
    CacheWritableByOthers,
)
from akpolicy_sidecar.cache import (
    StateDirectory,
)

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_linked_lock_is_refused(place: Path, tmp_path: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "lock").symlink_to(tmp_path / "anything")

    with pytest.raises(CacheError, match=f"cannot open the lock `{place}/lock`"):
        StateDirectory.open(place, "acme")

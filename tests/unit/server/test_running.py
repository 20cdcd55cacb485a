"""Servers share their data directory; who replaces the database has it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import StartupError
from akpolicy_server.running import alone, running

if TYPE_CHECKING:
    from pathlib import Path


def test_several_servers_may_run(tmp_path: Path) -> None:
    with running(tmp_path), running(tmp_path):
        pass


def test_nobody_is_alone_while_a_server_runs(tmp_path: Path) -> None:
    with running(tmp_path), pytest.raises(StartupError, match="stop it first"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_no_server_starts_during_a_restore(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(StartupError, match="is being restored"), running(tmp_path):
        pass


def test_where_there_is_no_directory_none_is_made(tmp_path: Path) -> None:
    with running(tmp_path / "none"):
        pass
    assert list(tmp_path.iterdir()) == []

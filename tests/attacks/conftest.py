"""The stage of an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.attacks.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Return a host that enforces policy."""
    return Stage(tmp_path / "state").enforce()


@pytest.fixture
def new_stage(tmp_path: Path) -> Callable[..., Stage]:
    """Return a maker of hosts whose org has another root."""
    return lambda **root: Stage(tmp_path / "other", **root)

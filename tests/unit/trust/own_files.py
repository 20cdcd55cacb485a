"""What tests do to our own files, and processes of their own that do it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = b"old", b"new" * 1000
SOMEBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")


def run(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


def symlink(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def give_away(path: Path) -> None:
    os.chown(path, SOMEBODY, SOMEBODY)

"""Files as Kubernetes mounts a secret: each name leads through `..data`, which is switched to a new directory."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class MountedSecret:
    """`<directory>/<name>` -> `..data/<name>`, and `..data` -> `..<number>`, as the kubelet's AtomicWriter has it."""

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        """Mount the first content."""
        self.directory = directory
        self._numbers = itertools.count(1)
        directory.mkdir()
        self.switch(files)
        for name in files:
            (directory / name).symlink_to(f"..data/{name}")

    def switch(self, files: Mapping[str, bytes]) -> None:
        """Put new content in place of all the old, by one rename, and remove the old."""
        data = self.directory / "..data"
        before = data.resolve() if data.is_symlink() else None
        fresh = self.directory / f"..{next(self._numbers)}"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        link = self.directory / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(data)
        if before is not None:
            shutil.rmtree(before)

"""A disk that loses power at the worst moment.

`RecordingOs` takes the place of `os` in a module and writes down every change that reaches the file system. `Disk`
plays such a record up to any point and says what may be left after a power loss there:

- what was written to a file counts only once the file was synced; before, any part of it may be there, or zeros; what
  was synced stays when more is written behind it;
- a name that was made, moved or removed counts only once its directory was synced; before, each change by itself may
  have reached the disk or not, whatever became of the others;
- moving a file over another is one change: the name has the old file or the new one.

That is harsher than the file systems that are in use (after Pillai et al., "All File Systems Are Not Created Equal",
OSDI 2014): what survives here survives there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Step = Literal["create", "truncate", "write", "sync", "sync_directory", "rename", "unlink", "mkdir", "note"]


@dataclass(frozen=True)
class Event:
    """One change. `inode` names the file where the path may change; `data` is what was written, or a test's note."""

    step: Step
    path: Path
    inode: int = 0
    target: Path | None = None
    data: Any = None


class RecordingOs:
    """Stands in for the module `os`: does what it is asked to do, and records what changes the disk."""

    def __init__(self, *, sync_files: bool = True, sync_directories: bool = True) -> None:
        """Leave out one kind of syncs to see what a writer without them would risk."""
        self.events: list[Event] = []
        self._sync_files = sync_files
        self._sync_directories = sync_directories
        self._open: dict[int, tuple[Path, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def note(self, data: Any) -> None:
        """Record what a test has to know at this point."""
        self.events.append(Event("note", Path(), data=data))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        """Open, and record a new or truncated file."""
        is_new = not os.path.lexists(path)
        descriptor = os.open(path, flags, mode)
        inode = os.fstat(descriptor).st_ino
        if flags & os.O_CREAT and is_new:
            self.events.append(Event("create", Path(path), inode))
        elif flags & os.O_TRUNC:
            self.events.append(Event("truncate", Path(path), inode))
        self._open[descriptor] = (Path(path), inode)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        """Write, and record it."""
        size = os.write(descriptor, data)
        path, inode = self._file(descriptor)
        self.events.append(Event("write", path, inode, data=bytes(data[:size])))
        return size

    def fsync(self, descriptor: int) -> None:
        """Record that a file or a directory is durable; nothing here needs the real disk."""
        path, inode = self._file(descriptor)
        if path != Path() and path.is_dir():
            if self._sync_directories:
                self.events.append(Event("sync_directory", path))
        elif self._sync_files:
            self.events.append(Event("sync", path, inode))

    def _file(self, descriptor: int) -> tuple[Path, int]:
        """Return the path and the inode of an open file; of one that was opened before the record, the inode."""
        return self._open.get(descriptor) or (Path(), os.fstat(descriptor).st_ino)

    def close(self, descriptor: int) -> None:
        """Close."""
        self._open.pop(descriptor, None)
        os.close(descriptor)

    def rename(self, source: Any, target: Any) -> None:
        """Rename, and record it."""
        inode = os.lstat(source).st_ino
        os.rename(source, target)  # noqa: PTH104 - this is `os`
        self.events.append(Event("rename", Path(source), inode, Path(target)))

    def unlink(self, path: Any) -> None:
        """Remove a name, and record it."""
        inode = os.lstat(path).st_ino
        os.unlink(path)  # noqa: PTH108 - this is `os`
        self.events.append(Event("unlink", Path(path), inode))

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        """Make a directory, and record it."""
        os.mkdir(path, mode)  # noqa: PTH102 - this is `os`
        self.events.append(Event("mkdir", Path(path)))


@dataclass
class _File:
    durable: bytes = b""
    current: bytes = b""
    was_truncated: bool = False


@dataclass
class Disk:
    """What is on the disk and what is on its way there, as far as a record was played."""

    root: Path
    files: dict[int, _File] = field(default_factory=dict)
    names: dict[Path, int] = field(default_factory=dict)
    directories: set[Path] = field(default_factory=set)
    pending: dict[Path, list[Event]] = field(default_factory=dict)

    def play(self, event: Event) -> None:
        """Take the next change."""
        if event.step in ("create", "rename", "unlink", "mkdir"):
            self.pending.setdefault(event.path.parent, []).append(event)
        if event.step == "create":
            self.files[event.inode] = _File()
        elif event.step == "truncate":
            self.files[event.inode] = _File(self.files[event.inode].durable, b"", was_truncated=True)
        elif event.step == "write":
            self.files[event.inode].current += event.data
        elif event.step == "sync":
            file = self.files[event.inode]
            file.durable, file.was_truncated = file.current, False
        elif event.step == "sync_directory":
            for change in self.pending.pop(event.path, []):
                _apply(change, self.names, self.directories)

    def lose_power(self, draw: random.Random, place: Path) -> None:
        """Put into `place` what is left in one of the possible cases."""
        names, directories = dict(self.names), set(self.directories)
        odds = draw.choice((0.0, 0.0, 0.2, 0.5, 0.8, 1.0, 1.0))
        for changes in self.pending.values():
            for change in changes:
                if draw.random() < odds:
                    _apply(change, names, directories)
        place.mkdir(mode=0o700)
        for directory in sorted(directories):
            if directory != self.root and all(p in directories for p in _between(directory, self.root)):
                (place / directory.relative_to(self.root)).mkdir(mode=0o700)
        for path, inode in names.items():
            target = place / path.relative_to(self.root)
            if target.parent.is_dir():
                target.write_bytes(_left_of(self.files[inode], draw))
                target.chmod(0o600)


def _between(path: Path, root: Path) -> list[Path]:
    return [parent for parent in path.parents if parent != root and root in parent.parents]


def _apply(change: Event, names: dict[Path, int], directories: set[Path]) -> None:
    if change.step == "mkdir":
        directories.add(change.path)
    elif change.step == "create":
        names[change.path] = change.inode
    elif change.step == "unlink" and names.get(change.path) == change.inode:
        del names[change.path]
    elif change.step == "rename" and change.target is not None:
        names.pop(change.path, None)
        names[change.target] = change.inode


def _left_of(file: _File, draw: random.Random) -> bytes:
    """Return what may be in a file after a power loss."""
    if file.durable == file.current:
        return file.durable
    if file.durable and not file.was_truncated:
        return file.durable + _left_of(_File(b"", file.current[len(file.durable) :]), draw)
    written: list[Callable[[], bytes]] = [
        lambda: file.durable,
        lambda: b"",
        lambda: file.current[: draw.randrange(len(file.current) + 1)],
        lambda: bytes(len(file.current)),
        lambda: file.current,
    ]
    return draw.choice(written)()

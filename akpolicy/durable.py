"""Files that must survive power loss and must not be anybody else's.

Rules:

- Write: a new 0600 file in the same directory (O_EXCL, O_NOFOLLOW), all bytes, fsync, rename over the target, fsync of
  the directory. A reader sees the old file or the new one, never a part.
- Read: O_NOFOLLOW and O_NONBLOCK (a FIFO must not hang us), then fstat: a regular file, ours, no access for group and
  others, one name, at most `max_bytes`.
- Directories: ours, 0700. Every ancestor belongs to us or to root and is not writable by others, unless sticky (/tmp).
  Each one that is made is durable before anything is put into it.
- Append: to a new file of ours that is open meanwhile; all bytes, then fsync. What was appended before stays as it was,
  whatever becomes of the last bytes: the reader has to tell a part of them from all.
- A write that fails leaves the target as it was and removes its temporary file. If only the last step fails, the target
  is the new file, but may be the old one again after a power loss; the error says so.

Errors are `CacheError`s; `OSError` comes through only from `write_new_file`, whose callers name the file better.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from akpolicy.errors import (
    CacheCorrupt,
    CacheError,
    CacheHardlink,
    CacheMissing,
    CacheNotRegular,
    CacheSymlink,
    CacheWritableByOthers,
    CacheWriteFailed,
    CacheWrongOwner,
)

PRIVATE_FILE_MODE: Final = 0o600
PRIVATE_DIR_MODE: Final = 0o700
TEMP_PREFIX: Final = ".tmp-"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durably; raise `CacheWriteFailed` if it is not, or not surely, on disk."""
    temporary = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        try:
            _write_synced(temporary, data)
            os.rename(temporary, path)  # noqa: PTH104 - every change of the disk goes through `os`
        except OSError:
            remove(temporary)
            raise
    except OSError as error:
        msg = f"cannot write `{path}`: {error.strerror}; nothing was changed"
        raise CacheWriteFailed(msg) from error
    try:
        sync_directory(path.parent)
    except OSError as error:
        msg = (
            f"cannot make `{path}` durable: {error.strerror}; it is new now, and may be the old one after a power loss"
        )
        raise CacheWriteFailed(msg) from error


class AppendedFile:
    """A file that only grows, each time durably. One thread uses it."""

    def __init__(self, path: Path) -> None:
        """Create it (0600, empty, its name durable); raise `CacheWriteFailed`, also if there is one."""
        self._path = path
        try:
            self._descriptor = os.open(path, _WRITE_FLAGS, PRIVATE_FILE_MODE)
        except OSError as error:
            raise self._failure(error) from error
        self.size = 0
        try:
            sync_directory(path.parent)
        except OSError as error:
            self.close()
            remove(path)
            raise self._failure(error) from error

    def append(self, data: bytes) -> None:
        """Put `data` behind what is there; raise `CacheWriteFailed`: then any part of it may be there."""
        try:
            _write_all(self._descriptor, data)
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error
        self.size += len(data)

    def close(self) -> None:
        """Append no more."""
        os.close(self._descriptor)

    def _failure(self, error: OSError) -> CacheWriteFailed:
        return CacheWriteFailed(f"cannot write `{self._path}`: {error.strerror}; nothing was changed")


def remove(path: Path) -> None:
    """Remove a file if it is there and can be removed; whether that is durable does not matter to whoever asks."""
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - every change of the disk goes through `os`


def write_new_file(path: Path, data: bytes) -> None:
    """Create `path` (0600) with `data`, durably; raise `FileExistsError` if there is one, `OSError` otherwise."""
    try:
        _write_synced(path, data)
    except FileExistsError:
        raise
    except OSError:
        remove(path)
        raise
    sync_directory(path.parent)


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, _WRITE_FLAGS, PRIVATE_FILE_MODE)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of one of our files; raise the `CacheError` that says why it must not be read."""
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except OSError as error:
        raise _open_error(path, error) from error
    try:
        _check_file(path, os.fstat(descriptor), max_bytes)
        return _read_all(path, descriptor, max_bytes)
    except OSError as error:
        msg = f"cannot read `{path}`: {error.strerror}"
        raise CacheCorrupt(msg) from error
    finally:
        os.close(descriptor)


def _open_error(path: Path, error: OSError) -> CacheError:
    if error.errno == errno.ENOENT:
        return CacheMissing(f"`{path}` is not there")
    if error.errno == errno.ELOOP:
        return CacheSymlink(f"`{path}` is a symbolic link; put the file itself there")
    if error.errno == errno.ENXIO:
        return CacheNotRegular(f"`{path}` is a socket or a device, not a regular file")
    return CacheCorrupt(f"cannot open `{path}`: {error.strerror}")


def _check_file(path: Path, info: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(info.st_mode):
        msg = f"`{path}` is not a regular file"
        raise CacheNotRegular(msg)
    _check_ours_alone(path, info, PRIVATE_FILE_MODE)
    # No name at all is the old file, replaced since it was opened: whole, and ours.
    if info.st_nlink > 1:
        msg = f"`{path}` has {info.st_nlink} names (hard links)"
        raise CacheHardlink(msg)
    if info.st_size > max_bytes:
        msg = f"`{path}` has {info.st_size} bytes, more than {max_bytes}"
        raise CacheCorrupt(msg)


def _check_ours_alone(path: Path, info: os.stat_result, mode: int) -> None:
    """Refuse what belongs to somebody else or what others have access to; `mode` is the one it should have."""
    if info.st_uid != os.geteuid():
        msg = f"`{path}` belongs to user {info.st_uid}, not to user {os.geteuid()} who runs this program"
        raise CacheWrongOwner(msg)
    if info.st_mode & _OTHERS:
        found = stat.S_IMODE(info.st_mode)
        msg = f"`{path}` has mode {found:04o}; others must have no access: chmod {mode:o} it if its content is right"
        raise CacheWritableByOthers(msg)


def _read_all(path: Path, descriptor: int, max_bytes: int) -> bytes:
    parts = []
    size = 0
    while part := os.read(descriptor, 1 << 20):
        size += len(part)
        if size > max_bytes:
            msg = f"`{path}` grew beyond {max_bytes} bytes while being read"
            raise CacheCorrupt(msg)
        parts.append(part)
    return b"".join(parts)


def private_directory(path: Path) -> None:
    """Create `path` (0700, with missing parents) or check an existing one; raise the `CacheError` that says why not."""
    _check_name(path)
    try:
        _make_directory(path)
        _check_directory(path)
        _check_ancestors(path)
    except OSError as error:
        msg = f"cannot create or examine the directory `{path}`: {error.strerror}"
        raise CacheWriteFailed(msg) from error


def check_private_directory(path: Path) -> None:
    """Check an existing directory as `private_directory` does, and make none; raise the `CacheError` that says why."""
    _check_name(path)
    try:
        _check_directory(path)
        _check_ancestors(path)
    except FileNotFoundError as error:
        msg = f"the directory `{path}` is not there"
        raise CacheMissing(msg) from error
    except OSError as error:
        msg = f"cannot examine the directory `{path}`: {error.strerror}"
        raise CacheCorrupt(msg) from error


def _check_name(path: Path) -> None:
    if ".." in path.parts:
        # The kernel follows a link before it goes up, so that no check of the written path would mean anything.
        msg = f"`{path}` contains `..`; name the real path"
        raise CacheSymlink(msg)


def _make_directory(path: Path) -> None:
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, PRIVATE_DIR_MODE)  # noqa: PTH102 - every change of the disk goes through `os`
        sync_directory(directory.parent)


def _check_directory(path: Path) -> None:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        msg = f"`{path}` is a symbolic link; name the directory itself"
        raise CacheSymlink(msg)
    if not stat.S_ISDIR(info.st_mode):
        msg = f"`{path}` is not a directory"
        raise CacheNotRegular(msg)
    _check_ours_alone(path, info, PRIVATE_DIR_MODE)


def _check_ancestors(path: Path) -> None:
    """Refuse a place where somebody else could replace the directory under us."""
    for ancestor in Path(os.path.abspath(path)).parents:  # noqa: PTH100 - resolve() would follow the links checked here
        info = ancestor.lstat()
        if stat.S_ISLNK(info.st_mode):
            msg = f"`{ancestor}` above `{path}` is a symbolic link; name the real path"
            raise CacheSymlink(msg)
        if info.st_uid not in (0, os.geteuid()):
            msg = f"`{ancestor}` above `{path}` belongs to user {info.st_uid}, who could replace it"
            raise CacheWrongOwner(msg)
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not info.st_mode & stat.S_ISVTX:
            msg = f"`{ancestor}` above `{path}` is writable by others, who could replace it"
            raise CacheWritableByOthers(msg)

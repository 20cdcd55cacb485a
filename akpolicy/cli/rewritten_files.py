"""Files that a command reads and then replaces by something better.

Rules:

- Only the file that was read is replaced: a regular file with one name, in the directory in which it was found. A
  symbolic link is neither followed nor replaced. If the name stands for anything else by now, or if somebody has
  changed the content, nothing is written.
- Others see the old content or the new one, never a part. The new file has the mode, the owner and the access list of
  the old one, or it is not written.
- A file that may not be written is not replaced either, although its directory would permit it.
- Between the last look and the renaming there is a moment in which a change by somebody else is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from akpolicy.durable import TEMP_PREFIX
from akpolicy.errors import UsageError

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHECK: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Where Linux keeps an access control list; the mode alone is not who may read the file.
_ACCESS_LIST: Final = "system.posix_acl_access"
_NO_LIST: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class _Identity:
    """What must be the same for a file to be the one that was read."""

    device: int
    inode: int
    mode: int
    user: int
    group: int
    names: int

    @classmethod
    def of(cls, info: os.stat_result) -> _Identity:
        return cls(info.st_dev, info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink)


@dataclass(frozen=True, slots=True)
class RewrittenFile:
    """A file as it was read."""

    path: Path
    data: bytes
    identity: _Identity
    directory: tuple[int, int]

    @classmethod
    def read(cls, path: Path, limit: int) -> RewrittenFile:
        """Read at most `limit` bytes of a file; raise `UsageError` for what must not be replaced or cannot be read."""
        with _naming(path, "read"), _directory(path) as parent:
            descriptor = os.open(path.name, _READ, dir_fd=parent)
            with open(descriptor, "rb") as opened:  # noqa: PTH123 - of a descriptor
                identity = _Identity.of(os.fstat(descriptor))
                _require_replaceable(path, identity)
                return cls(path, opened.read(limit), identity, _place(parent))

    def replace(self, data: bytes) -> None:
        """Put `data` in the place of this file; raise `UsageError` if it is not there any more as it was read."""
        temporary = f"{TEMP_PREFIX}{secrets.token_hex(8)}"
        with _naming(self.path, "write"), _directory(self.path) as parent:
            if _place(parent) != self.directory:
                raise self._changed()
            try:
                self._create(temporary, data, parent)
                self._require_unchanged(parent)
                os.rename(temporary, self.path.name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)

    def _create(self, name: str, data: bytes, parent: int) -> None:
        """Write the new file, as durable and as accessible as the old one was."""
        access = self._access_list(parent)
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        with open(descriptor, "wb") as opened:  # noqa: PTH123 - of a descriptor
            opened.write(data)
            opened.flush()
            now = os.fstat(descriptor)
            if (now.st_uid, now.st_gid) != (self.identity.user, self.identity.group):
                os.fchown(descriptor, self.identity.user, self.identity.group)
            # After the owner: changing that one takes away the bits for running as somebody else.
            os.fchmod(descriptor, stat.S_IMODE(self.identity.mode))
            if access is not None:
                os.setxattr(descriptor, _ACCESS_LIST, access)
            os.fsync(descriptor)

    def _access_list(self, parent: int) -> bytes | None:
        descriptor = os.open(self.path.name, _READ, dir_fd=parent)
        try:
            return os.getxattr(descriptor, _ACCESS_LIST)
        except OSError as error:
            if error.errno in _NO_LIST:
                return None
            raise
        finally:
            os.close(descriptor)

    def _require_unchanged(self, parent: int) -> None:
        descriptor = os.open(self.path.name, _CHECK, dir_fd=parent)
        with open(descriptor, "rb") as opened:  # noqa: PTH123 - of a descriptor
            if _Identity.of(os.fstat(descriptor)) != self.identity or opened.read(len(self.data) + 1) != self.data:
                raise self._changed()

    def _changed(self) -> UsageError:
        return UsageError(
            f"`{shown_path(self.path)}` was changed by somebody else in the meantime; run the command again"
        )


def require_distinct(files: Sequence[RewrittenFile]) -> None:
    """Raise `UsageError` if two of the files are the same one."""
    seen: dict[tuple[int, int], Path] = {}
    for file in files:
        first = seen.setdefault((file.identity.device, file.identity.inode), file.path)
        if first is not file.path:
            raise UsageError(f"`{shown_path(first)}` is named twice, also as `{shown_path(file.path)}`")


def _require_replaceable(path: Path, identity: _Identity) -> None:
    if not stat.S_ISREG(identity.mode):
        raise UsageError(f"`{shown_path(path)}` is not a regular file and cannot be replaced")
    if identity.names != 1:
        raise UsageError(f"`{shown_path(path)}` has {identity.names} names (hard links); replacing it would part them")


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path.parent, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _place(directory: int) -> tuple[int, int]:
    info = os.fstat(directory)
    return info.st_dev, info.st_ino


@contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    """Turn an error of the system into one that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            message = f"`{shown_path(path)}` is a symbolic link; name the file itself"
        else:
            message = f"cannot {what} `{shown_path(path)}`: {error.strerror}"
        raise UsageError(message) from error


def shown_path(path: Path) -> str:
    """Return a path for people; bytes of it that are no text are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")

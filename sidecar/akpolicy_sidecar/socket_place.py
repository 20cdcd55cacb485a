"""Where a Unix socket gets its name, and how it passes from one process to the next.

Rules:

- A socket is bound under a name beside its own, `.<name>`, and renamed into place once it serves. rename(2) is atomic
  for connect(2): whoever connects reaches the process before or this one, and never nobody. gRPC removes the name that
  it bound when it stops, which is then nobody's.
- Mode and group are right before anybody can connect: it is bound under a umask that lets only its owner in, given its
  group, and then opened up.
- A socket file that nobody serves is replaced, and so is that of the predecessor which handed over to this process.
  One that anybody else serves is `SocketInUse`. Anything but a socket under the name is refused and never removed.
- At the end our own socket is removed, and no other.
- A path that does not fit into `sockaddr_un` is refused before anything is tried (unix(7): 108 bytes with the final
  zero; one more is needed for the dot).
"""

from __future__ import annotations

import grp
import os
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.errors import SocketInUse, SocketNotWritable, SocketPathTooLong, StartupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_SOCKET_PATH_BYTES: Final = 106
SOCKET_DIR_MODE: Final = 0o755
PROBE_TIMEOUT_S: Final = 1.0

_OWNER_ONLY_UMASK = 0o177
# `struct ucred` of unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where the socket is, its mode, and its group (empty: the process's own)."""

    path: Path
    mode: int
    group: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket: that of connect(2), or that of listen(2)."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return the process at the other end, as the kernel knows it."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, uid)


class SocketPlace:
    """The name of one socket, from `bind` over `publish` to `remove`."""

    def __init__(self, address: UnixAddress, predecessor: int | None = None) -> None:
        """`predecessor` is the pid of the process whose socket may be replaced although it is served."""
        self.address = address
        self._predecessor = predecessor
        self._beside = address.path.with_name(f".{address.path.name}")
        self._bound: tuple[Path, tuple[int, int]] | None = None

    def bind(self, bind: Callable[[Path], object]) -> None:
        """Let `bind` create the socket beside its place, for whom it is meant.

        Raises `SocketPathTooLong`, `SocketInUse`, `SocketNotWritable` or `StartupError`.
        """
        _check_length(self.address.path)
        group = _group_id(self.address.group)
        self._make_way()
        before = os.umask(_OWNER_ONLY_UMASK)
        try:
            bind(self._beside)
            info = self._beside.lstat()
            self._bound = (self._beside, (info.st_dev, info.st_ino))
        except (RuntimeError, OSError) as error:
            msg = f"cannot create the socket `{self.address.path}`; check that its directory is writable for this user"
            raise SocketNotWritable(msg) from error
        finally:
            os.umask(before)
        try:
            if group is not None:
                os.chown(self._beside, -1, group)
            self._beside.chmod(self.address.mode)
        except OSError as error:
            msg = f"cannot give the socket `{self.address.path}` the group `{self.address.group}`: {error.strerror}"
            raise SocketNotWritable(msg) from error

    def publish(self) -> None:
        """Give the socket its name; raise `SocketInUse` or `SocketNotWritable`."""
        if self._bound is None:
            msg = "the socket is not bound"
            raise RuntimeError(msg)
        self._check()
        try:
            self._beside.rename(self.address.path)
        except OSError as error:
            raise _uncreatable(self.address.path, error) from error
        self._bound = (self.address.path, self._bound[1])

    @property
    def is_ours(self) -> bool:
        """Whether the name still leads to the socket that was bound."""
        if self._bound is None:
            return False
        path, identity = self._bound
        try:
            info = path.lstat()
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == identity

    def remove(self) -> None:
        """Remove our own socket."""
        if self._bound is not None and self.is_ours:
            with suppress(FileNotFoundError):
                self._bound[0].unlink()

    def _make_way(self) -> None:
        path = self.address.path
        try:
            path.parent.mkdir(mode=SOCKET_DIR_MODE, parents=True, exist_ok=True)
            self._check()
            # Left by a process that died while it started.
            if (mode := _mode_of(self._beside)) is not None and stat.S_ISSOCK(mode) and not _served_by(self._beside):
                self._beside.unlink()
        except OSError as error:
            raise _uncreatable(path, error) from error

    def _check(self) -> None:
        """Raise `SocketInUse` or `SocketNotWritable` if what has the name must stay."""
        path = self.address.path
        mode = _mode_of(path)
        if mode is None:
            return
        if not stat.S_ISSOCK(mode):
            msg = f"`{path}` exists and is no socket; move it away or set another socket in [sidecar]"
            raise SocketNotWritable(msg)
        holder = _served_by(path)
        if holder is not None and holder.pid != self._predecessor:
            msg = f"the socket `{path}` is served by another process; stop that or set another socket in [sidecar]"
            raise SocketInUse(msg)


def _uncreatable(path: Path, error: OSError) -> SocketNotWritable:
    return SocketNotWritable(f"cannot create the socket `{path}`: {(error.strerror or str(error)).lower()}")


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH_BYTES:
        msg = (
            f"the socket path `{path}` has {size} bytes, more than {MAX_SOCKET_PATH_BYTES}; "
            "set a shorter one with socket in [sidecar]"
        )
        raise SocketPathTooLong(msg)


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        msg = f"socket_group `{name}` is no group of this machine; create it or name another"
        raise StartupError(msg) from None


def _mode_of(path: Path) -> int | None:
    """Return the type and mode of what is at `path` (a link itself, not its target), None if nothing is."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _served_by(path: Path) -> Peer | None:
    """Return who listens on a socket, None if nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return None
        except (BlockingIOError, TimeoutError):
            # Its queue is full: somebody is there.
            return Peer(0, 0)
        return peer_of(probe)

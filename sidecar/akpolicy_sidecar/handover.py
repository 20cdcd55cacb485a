"""How a running sidecar hands over to its successor, so that an upgrade refuses no call.

The successor speaks over `<state dir>/handover.sock`, one JSON object a line, and asks in this order:

1. `release`: this process takes no more updates, lets go of the state directory and of its metrics port, and answers
   whether its stream counted. It goes on deciding by the snapshot that it has, which nothing changes any more. The
   stream counts until it has been silent as long as any stream may be.
2. `sessions`, any number of times: which sessions are open, and which have ended, since it was asked last.
3. `leave`: the successor has the socket. This process serves the connections that it has until they have ended, and
   ends.

Rules:

- Only a process of the same user is heard; the directory lets nobody else in anyway.
- A successor that goes away after `release` and before `leave` has failed: this process locks the state directory
  again, loads what lies there, and goes on. If it cannot, or if its socket has another owner by now, it ends with an
  error, because nobody could tell how old its policy becomes.
- The path may be longer than `sockaddr_un` allows: the directory is opened, and named by its descriptor.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from akpolicy.errors import AkpolicyError, HandoverFailed
from akpolicy_sidecar.kept_sessions import session_to_json
from akpolicy_sidecar.socket_place import peer_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedRWPair
    from pathlib import Path

    from akpolicy_sidecar.sessions import SessionBook

SOCKET_NAME: Final = "handover.sock"
MAX_LINE_BYTES: Final = 1 << 20
RELEASE: Final = "release"
SESSIONS: Final = "sessions"
LEAVE: Final = "leave"

log = structlog.get_logger(__name__)


class Incumbent(Protocol):
    """The running sidecar, as its successor sees it."""

    def release(self) -> bool:
        """Let go of all but the decisions; return whether the stream counted. Raises `HandoverFailed`."""

    def resume(self) -> None:
        """Take everything back; raises an `AkpolicyError`."""

    def leave(self) -> None:
        """End once nobody is connected any more."""

    def give_up(self) -> None:
        """End with an error, and soon."""


class HandoverServer:
    """Waits for a successor, on a thread of its own between `start` and `stop`."""

    def __init__(self, directory: Path, incumbent: Incumbent, sessions: SessionBook) -> None:
        """Listen in the state directory `directory`, which must be locked by this process."""
        self._incumbent = incumbent
        self._sessions = sessions
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="handover", daemon=True)
        try:
            with _in_directory(directory) as path, suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - the path leads through a descriptor
            with _in_directory(directory) as path:
                self._server.bind(path)
                self._server.listen(1)
        except OSError as error:
            self._server.close()
            raise HandoverFailed(f"cannot listen in `{directory}`: {error.strerror or error}") from error

    def start(self) -> None:
        """Hear successors."""
        self._thread.start()

    def stop(self) -> None:
        """Hear nobody any more."""
        self._stopped.set()
        # Wakes the thread, which `close` alone would not.
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                if peer_of(connection).uid == os.geteuid():
                    self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        try:
            _Conversation(connection, self._incumbent, self._sessions).hold()
        except Exception:
            # Nobody knows what it has let go of by now, and nothing may decide by old policy for ever.
            log.exception("handing over failed")
            self._incumbent.give_up()


class _Conversation:
    """What one successor asks."""

    def __init__(self, connection: socket.socket, incumbent: Incumbent, sessions: SessionBook) -> None:
        self._lines = connection.makefile("rwb")
        self._incumbent = incumbent
        self._sessions = sessions
        self._told: frozenset[bytes] = frozenset()
        self._released = self._left = False

    def hold(self) -> None:
        """Answer until the other end goes away; then take back what it did not want."""
        try:
            with self._lines:
                while (asked := read_line(self._lines)) is not None:
                    self._answer(asked.get("ask"))
        except (OSError, ValueError) as error:
            log.warning("successor went away", error=str(error))
        except HandoverFailed as error:
            log.warning("not handed over", error=error.message)
        if self._released and not self._left:
            self._resume()

    def _answer(self, asked: object) -> None:
        if asked == RELEASE and not self._released:
            log.info("handing over to a successor")
            try:
                live = self._incumbent.release()
            except HandoverFailed as error:
                write_line(self._lines, {"error": error.message})
                raise
            self._released = True
            write_line(self._lines, {"live": live})
        elif asked == SESSIONS and self._released:
            self._tell_sessions()
        elif asked == LEAVE and self._released:
            self._left = True
            self._incumbent.leave()
            write_line(self._lines, {})
        else:
            write_line(self._lines, {"error": f"`{asked}` is nothing to ask for now"})

    def _tell_sessions(self) -> None:
        kept = self._sessions.kept()
        new, ended = kept.keys() - self._told, self._told - kept.keys()
        self._told = frozenset(kept)
        write_line(self._lines, {"ended": [key.hex() for key in sorted(ended)], "count": len(new)}, flush=False)
        for key in new:
            write_line(self._lines, session_to_json(key, kept[key]), flush=False)
        self._lines.flush()

    def _resume(self) -> None:
        try:
            self._incumbent.resume()
        except AkpolicyError as error:
            log.error("cannot go on after a successor that failed", error=error.message)  # noqa: TRY400 - the message says all
            self._incumbent.give_up()
        else:
            log.warning("the successor failed; going on")


# --- lines, and the way to the socket ---------------------------------------------------------------------------------


def connect(directory: Path) -> socket.socket | None:
    """Return a connection to the sidecar that runs in a state directory, None if none does; raise `HandoverFailed`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _in_directory(directory) as path:
            connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise HandoverFailed(f"cannot reach the sidecar that runs in `{directory}`: {error.strerror}") from error
    return connection


def read_line(lines: BufferedRWPair) -> dict[str, Any] | None:
    """Return the next object, None at the end; raise `ValueError` or `OSError`."""
    line = lines.readline(MAX_LINE_BYTES)
    if not line:
        return None
    value = json.loads(line)
    if not isinstance(value, dict):
        msg = "a line is no object"
        raise ValueError(msg)  # noqa: TRY004 - what comes from outside has a wrong value
    return value


def write_line(lines: BufferedRWPair, value: dict[str, Any], *, flush: bool = True) -> None:
    """Send an object; raise `OSError`."""
    lines.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")
    if flush:
        lines.flush()


@contextmanager
def _in_directory(directory: Path) -> Iterator[str]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)

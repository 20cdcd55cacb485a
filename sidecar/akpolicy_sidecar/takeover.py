"""How a starting sidecar takes over from the one that runs, question by question (`handover`).

Rules:

- Where no sidecar runs there is nobody to ask, and this is a start like any other: a supervisor can always want it.
- A predecessor that cannot be reached, refuses or does not answer within `ANSWER_DEADLINE_S` is left as it is, and this
  start fails. One that dies meanwhile has released everything by that.
- Before it takes the socket, this process waits until its own stream counts, if that of its predecessor did: decisions
  are not to become stale for an upgrade. That has an end (`LIVE_DEADLINE_S`), because the predecessor's stream counts
  no longer than any that is silent.
- A session that cannot be taken over is dropped and logged; its runtime opens it anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from akpolicy.errors import AkpolicyError, HandoverFailed
from akpolicy_sidecar.handover import LEAVE, RELEASE, SESSIONS, connect, read_line, write_line
from akpolicy_sidecar.kept_sessions import KEY_BYTES, session_from_json
from akpolicy_sidecar.socket_place import peer_of

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from akpolicy_sidecar.sessions import SessionBook

# To finish what it applies, the predecessor has less than that.
ANSWER_DEADLINE_S: Final = 15.0
LIVE_DEADLINE_S: Final = 10.0

log = structlog.get_logger(__name__)


class Predecessor:
    """The sidecar that runs until this one serves."""

    def __init__(self, connection: socket.socket) -> None:
        """Speak over `connection`."""
        self.pid = peer_of(connection).pid
        connection.settimeout(ANSWER_DEADLINE_S)
        self._connection = connection
        self._lines = connection.makefile("rwb")
        # Whether its stream counted when it released everything.
        self.was_live = False

    @classmethod
    def find(cls, directory: Path) -> Predecessor | None:
        """Return the sidecar that runs in a state directory, if one does; raise `HandoverFailed`."""
        connection = connect(directory)
        return None if connection is None else cls(connection)

    def release(self) -> None:
        """Make it let go of everything but the decisions; raise `HandoverFailed`."""
        self.was_live = self._ask(RELEASE).get("live") is True

    def give_sessions(self, book: SessionBook) -> None:
        """Bring `book` up to date with its sessions; raise `HandoverFailed`."""
        answer = self._ask(SESSIONS)
        try:
            for ended in answer.get("ended", ()):
                book.drop(bytes.fromhex(ended))
            for _ in range(int(answer.get("count", 0))):
                self._take(book)
        except (OSError, ValueError, TypeError) as error:
            raise _broken(error) from error

    def _take(self, book: SessionBook) -> None:
        line = read_line(self._lines)
        if line is None:
            msg = "it went away"
            raise ValueError(msg)
        try:
            book.take(*session_from_json(line))
        except AkpolicyError as error:
            log.warning("a session is not taken over", key=str(line.get("key"))[: 2 * KEY_BYTES], error=error.message)

    def leave(self) -> None:
        """Tell it that this process serves; raise `HandoverFailed`."""
        self._ask(LEAVE)

    def close(self) -> None:
        """Speak to it no more."""
        self._lines.close()
        self._connection.close()

    def _ask(self, what: str) -> dict[str, Any]:
        try:
            write_line(self._lines, {"ask": what})
            answer = read_line(self._lines)
        except (OSError, ValueError) as error:
            raise _broken(error) from error
        if answer is None:
            raise HandoverFailed("the sidecar that ran here went away while it handed over; start again")
        if "error" in answer:
            raise HandoverFailed(f"the sidecar that runs here does not hand over: {answer['error']}")
        return answer


def _broken(error: Exception) -> HandoverFailed:
    return HandoverFailed(f"the sidecar that runs here does not answer as it should: {error}")

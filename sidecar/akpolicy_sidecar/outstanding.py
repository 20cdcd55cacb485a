"""What the server has and this host does not, on one connection, and when a new connection asks for it again.

Rules:

- The server sends an update once a connection, so what was not taken has to be asked for by another one: soon if the
  cause is on this host or on the way (a full disk, a broken transfer), later if it is the document, whose verdict only
  time can change. For a stream's first heartbeat `heartbeat_pauses` says when.
- While something is refused and not made good, the stream does not make decisions live: what is enforced is known to be
  older than what the server has. What is refused of a team or user is held against their members alone. A refused
  heartbeat takes nothing away: anybody on the way could send one.
- At most `MAX_SUBJECTS` refused teams and users are told apart: their names come from the server, unverified.
- What heartbeats name and never came is asked for too. How long that may go on is for freshness to say, not for the
  stream.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from akpolicy.errors import (
    CacheError,
    ClockJump,
    ClockRollback,
    DistributionError,
    EngineUnavailable,
    RootChainTooLong,
    SchemaConflict,
)
from akpolicy.scope import is_member_scope
from akpolicy_sidecar.updates import HEARTBEAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.errors import AkpolicyError

# How long a refused update waits at least before a new connection asks for it again. The Nack must be out by then.
PASSING_PAUSE_S: Final = 1.0
DISK_PAUSE_S: Final = 10.0
WITHHELD_PAUSE_S: Final = 10.0
CONFLICT_PAUSE_S: Final = 10.0
CLOCK_PAUSE_S: Final = 30.0
LASTING_PAUSE_S: Final = 300.0
MAX_SUBJECTS: Final = 1024
# In a message.
MAX_NAMED: Final = 5


class Outstanding:
    """What is to be made good, by subject. Times are seconds since boot."""

    def __init__(self) -> None:
        self._refused: dict[str, float] = {}
        self._members: set[str] = set()
        self._withheld: dict[str, float] = {}

    @property
    def is_refused(self) -> bool:
        """Whether something was refused, or dropped, that concerns everybody, and not made good since."""
        return len(self._refused) > len(self._members)

    @property
    def members(self) -> frozenset[str]:
        """The scopes of teams and users of which something was refused, or dropped, and not made good since."""
        return frozenset(self._members)

    def has_room(self, subject: str) -> bool:
        """Whether a refusal of this scope can be told from others."""
        return not is_member_scope(subject) or subject in self._members or len(self._members) < MAX_SUBJECTS

    def refuse(self, subject: str, error: AkpolicyError, elapsed: float, *, pause_s: float | None = None) -> None:
        """Note that an update was refused. `pause_s`: after how many seconds to ask again; None: as fits the error."""
        self._ask_again(subject, elapsed + (_pause_after(subject, error) if pause_s is None else pause_s))

    def hasten(self, subject: str, due: float) -> None:
        """Ask for an update at `due` at the latest, if it stands refused."""
        if subject in self._refused:
            self._ask_again(subject, due)

    def due_at(self, subject: str) -> float:
        """Return when a refused update is to be asked for; infinite if it is not refused."""
        return self._refused.get(subject, math.inf)

    def drop(self, scope: str, elapsed: float) -> None:
        """Note that what is enforced had to be dropped."""
        self._ask_again(scope, elapsed + PASSING_PAUSE_S)

    def withhold(self, scopes: Sequence[str], elapsed: float) -> list[str]:
        """Note of which scopes a heartbeat names something that is not here; return those of which that is news."""
        news = [scope for scope in scopes if scope not in self._refused and scope not in self._withheld]
        due = elapsed + WITHHELD_PAUSE_S
        self._withheld = {scope: self._withheld.get(scope, due) for scope in scopes if scope not in self._refused}
        return news

    def make_good(self, subject: str) -> None:
        """Note that what the server has is in force."""
        self._refused.pop(subject, None)
        self._members.discard(subject)
        self._withheld.pop(subject, None)

    def due(self, elapsed: float) -> str:
        """Return what to ask for by a new connection, now; empty if there is nothing, or it is too early."""
        wanted = {**self._withheld, **self._refused}
        if not wanted or elapsed < min(wanted.values()):
            return ""
        names, more = sorted(wanted)[:MAX_NAMED], len(wanted) - MAX_NAMED
        return ", ".join(names) + (f" and {more} more" if more > 0 else "")

    def _ask_again(self, subject: str, due: float) -> None:
        self._refused[subject] = min(due, self._refused.get(subject, due))
        if is_member_scope(subject):
            self._members.add(subject)


def _pause_after(subject: str, error: AkpolicyError) -> float:
    """Return after how many seconds it is worth while to ask again."""
    if isinstance(error, CacheError):
        return DISK_PAUSE_S
    if isinstance(error, SchemaConflict):
        # The layers that will fit it may be on the way behind it.
        return CONFLICT_PAUSE_S
    if isinstance(error, (DistributionError, EngineUnavailable, RootChainTooLong)):
        return PASSING_PAUSE_S
    if subject == HEARTBEAT or isinstance(error, (ClockRollback, ClockJump)):
        return CLOCK_PAUSE_S
    return LASTING_PAUSE_S

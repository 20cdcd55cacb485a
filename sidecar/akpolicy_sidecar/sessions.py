"""Sandboxes that runtimes have registered: who acts in them and what they are, behind a token.

Rules:

- A token is 256 random bits. The sidecar keeps its SHA-256 only: what it has in memory opens nothing, and looking one
  up compares no secret byte by byte.
- What a session is about is built once and never changes. A decision of a session checks no identity and builds no
  entity.
- A session ends when it is closed, when its time or that of its identity is over, and with the sidecar, unless that
  hands over to a successor (`kept`, `take`). How one that
  this sidecar knew has ended is remembered for the last `MAX_REMEMBERED`; all other tokens are `SessionUnknown`.
- Each session has its own rate (a token bucket) and its own quota of decisions an hour, because each of them is
  recorded: a sandbox in a loop is refused, and the others go on.
- Parsed entities take 15 KB a session. They are kept for `MAX_WARM` sessions; what was not used the longest is parsed
  again when it comes (26 us).
- Times are those of the boot clock: setting the wall clock lengthens no session.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.engine.cedar_request import build_subjects
from akpolicy.engine.request import foreign_org
from akpolicy.engine.values import invalid
from akpolicy.errors import (
    ForeignOrg,
    SessionClosed,
    SessionExpired,
    SessionQuotaExhausted,
    SessionRateLimited,
    SessionUnknown,
    TooManySessions,
)
from akpolicy_sidecar.kept_sessions import KeptSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.clock import Clock
    from akpolicy.engine.cedar_request import Subjects
    from akpolicy.engine.request import Principal, Resource
    from akpolicy.errors import SessionError

TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
MAX_REMEMBERED: Final = 20_000
DEFAULT_LIFETIME_S: Final = 12 * 3600
MAX_LIFETIME_S: Final = 7 * 86_400
DEFAULT_MAX_SESSIONS: Final = 20_000
DEFAULT_RATE: Final = 200
DEFAULT_BURST: Final = 400
DEFAULT_HOURLY_QUOTA: Final = 100_000
HOUR_S: Final = 3600.0
MAX_WARM: Final = 2_000


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What sessions may: how long they last and how many there are, questions a second and at once, and an hour."""

    default_lifetime_s: int = DEFAULT_LIFETIME_S
    max_lifetime_s: int = MAX_LIFETIME_S
    max_sessions: int = DEFAULT_MAX_SESSIONS
    rate: float = DEFAULT_RATE
    burst: float = DEFAULT_BURST
    hourly_quota: int = DEFAULT_HOURLY_QUOTA


@dataclass(slots=True)
class SandboxSession:
    """One open session. Times are in seconds since boot."""

    subjects: Subjects
    principal: Principal
    resource: Resource
    ends_at: float
    allowance: float
    counted_at: float
    hour_began: float
    in_hour: int = 0
    used_since: bool = False
    is_listed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sandbox(self) -> str:
        """The resource's name."""
        return self.resource.id


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session: its token, and when it ends in epoch seconds."""

    token: str
    expires_at: float


class SessionBook:
    """The open sessions of this sidecar. Safe to use from several threads."""

    def __init__(
        self,
        *,
        org: str,
        default_roles: tuple[str, ...],
        clock: Clock,
        limits: SessionLimits,
        check: Callable[[Subjects], None],
        overdrawn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`check` refuses subjects that could not be judged.

        `overdrawn` is told the sandbox of each session that uses up its quota, once an hour.
        """
        self._org = org
        self._default_roles = default_roles
        self._clock = clock
        self._limits = limits
        self._check = check
        self._overdrawn = overdrawn
        self._open: dict[bytes, SandboxSession] = {}
        self._ended: OrderedDict[bytes, type[SessionError]] = OrderedDict()
        self._changing = threading.Lock()
        # In the order in which they became warm; one that was used since then gets a second chance.
        self._warm: deque[SandboxSession] = deque()

    def __len__(self) -> int:
        """Return how many sessions are open."""
        return len(self._open)

    def open(
        self, principal: Principal, resource: Resource, lifetime_s: int = 0, identity_ends_at: float | None = None
    ) -> OpenedSession:
        """Open a session for a sandbox; 0 seconds mean the default, `identity_ends_at` is in epoch seconds.

        Raises:
            RequestInvalid: what is stated breaks a rule.
            ForeignOrg: it is of another org.
            TooManySessions: as many are open as there may be.

        """
        if foreign_org(principal, resource, self._org):
            raise ForeignOrg(f"principal or resource is of another org than `{self._org}`, which this host belongs to")
        if not 0 <= lifetime_s <= self._limits.max_lifetime_s:
            invalid(f"is {lifetime_s} seconds; a session lasts at most {self._limits.max_lifetime_s}", "lifetime_s")
        subjects = build_subjects(principal, resource, org=self._org, default_roles=self._default_roles)
        self._check(subjects)
        now, wall = self._clock.elapsed(), self._clock.now()
        lasts = float(lifetime_s or min(self._limits.default_lifetime_s, self._limits.max_lifetime_s))
        if identity_ends_at is not None:
            lasts = min(lasts, identity_ends_at - wall)
        if lasts <= 0:
            raise SessionExpired("the identity is past its end; state one that is valid")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = SandboxSession(subjects, principal, resource, now + lasts, self._limits.burst, now, now)
        with self._changing:
            if len(self._open) >= self._limits.max_sessions:
                self._drop_expired(now)
            if len(self._open) >= self._limits.max_sessions:
                raise TooManySessions(
                    f"{self._limits.max_sessions} sessions are open, which is the limit; close those that have ended"
                )
            self._open[_key(token)] = session
        self._warm_up(session)
        return OpenedSession(token, wall + lasts)

    def close(self, token: str) -> bool:
        """End a session; return whether it was open until now."""
        if _TOKEN.fullmatch(token) is None:
            invalid("is missing" if not token else "is no session token", "session_token")
        with self._changing:
            return self._end(_key(token), SessionClosed)

    def kept(self) -> dict[bytes, KeptSession]:
        """Return every open session by its key, for a successor."""
        with self._changing:
            sessions = dict(self._open)
        return {
            key: KeptSession(one.principal, one.resource, one.ends_at, one.hour_began, one.in_hour)
            for key, one in sessions.items()
        }

    def take(self, key: bytes, kept: KeptSession) -> None:
        """Keep a session of the predecessor, unless it is here; raise as `open`."""
        if foreign_org(kept.principal, kept.resource, self._org):
            raise ForeignOrg(f"principal or resource is of another org than `{self._org}`, which this host belongs to")
        subjects = build_subjects(kept.principal, kept.resource, org=self._org, default_roles=self._default_roles)
        self._check(subjects)
        now = self._clock.elapsed()
        ends_at = min(kept.ends_at, now + self._limits.max_lifetime_s)
        session = SandboxSession(
            subjects, kept.principal, kept.resource, ends_at, self._limits.burst, now, kept.hour_began, kept.in_hour
        )
        with self._changing:
            if key in self._open or key in self._ended:
                return
            if len(self._open) >= self._limits.max_sessions:
                raise TooManySessions(f"{self._limits.max_sessions} sessions are open, which is the limit")
            self._open[key] = session
        self._warm_up(session)

    def drop(self, key: bytes) -> None:
        """End a session that the predecessor has ended."""
        with self._changing:
            self._end(key, SessionClosed)

    def use(self, token: str) -> SandboxSession:
        """Return the session of a token, and count the question.

        Raises:
            SessionError: why it may not be used.

        """
        key = _key(token) if _TOKEN.fullmatch(token) else b""
        session = self._open.get(key)
        if session is None:
            raise self._unknown(key)
        now = self._clock.elapsed()
        if now >= session.ends_at:
            with self._changing:
                self._end(key, SessionExpired)
            raise self._unknown(key)
        self._count(session, now)
        session.used_since = True
        if not session.subjects.entities.is_parsed:
            self._warm_up(session)
        return session

    def _warm_up(self, session: SandboxSession) -> None:
        """Make room for the parsed entities of a session that has none."""
        with self._changing:
            if session.is_listed:
                return
            session.is_listed = True
            self._warm.append(session)
            chances = len(self._warm)
            while len(self._warm) > MAX_WARM:
                oldest = self._warm.popleft()
                chances -= 1
                if oldest.used_since and chances > 0:
                    oldest.used_since = False
                    self._warm.append(oldest)
                else:
                    oldest.is_listed = False
                    oldest.subjects.entities.forget()

    def _count(self, session: SandboxSession, now: float) -> None:
        limits = self._limits
        with session.lock:
            session.allowance = min(limits.burst, session.allowance + (now - session.counted_at) * limits.rate)
            session.counted_at = now
            if session.allowance < 1:
                raise SessionRateLimited(f"the session asks more than {limits.rate:g} times a second; ask more slowly")
            if now - session.hour_began >= HOUR_S:
                session.hour_began, session.in_hour = now, 0
            session.in_hour += 1
            first_too_many = session.in_hour == limits.hourly_quota + 1
            session.allowance -= 1
        if first_too_many:
            self._overdrawn(session.sandbox)
        if session.in_hour > limits.hourly_quota:
            raise SessionQuotaExhausted(f"the session has had its {limits.hourly_quota} decisions of this hour")

    def _unknown(self, key: bytes) -> SessionError:
        ended = self._ended.get(key)
        if ended is SessionClosed:
            return SessionClosed("the session was closed; open a new one")
        if ended is SessionExpired:
            return SessionExpired("the session is past its end; open a new one")
        return SessionUnknown("there is no such session on this host, or the sidecar was restarted; open a new one")

    def _end(self, key: bytes, why: type[SessionError]) -> bool:
        session = self._open.pop(key, None)
        if session is None:
            return False
        session.subjects.entities.forget()
        self._ended[key] = why
        while len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)
        return True

    def _drop_expired(self, now: float) -> None:
        for key in [key for key, session in self._open.items() if now >= session.ends_at]:
            self._end(key, SessionExpired)


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()

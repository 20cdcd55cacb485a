"""What an org's hosts enforce, by their own account.

Rules:

- Whoever may publish for an org may see its hosts.
- Status counts connected hosts; a host that is gone is counted as gone, whatever it enforced last.
- A scope is one that the org's hosts can have: `global`, the org's own, or one below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.errors import FieldInvalid, InvalidField
from akpolicy.scope import GLOBAL, check_scope, org_of, org_scope
from akpolicy_server.access import require_publisher, scope_of_org
from akpolicy_server.audience import require_org
from akpolicy_server.presence import seen_since_us
from akpolicy_server.store.fleet import (
    Reach,
    count_layers,
    hosts_after,
    lags_of,
    presence,
    reach_of,
    refusals_of,
)
from akpolicy_server.store.layers import find_layer
from akpolicy_server.times import MICROSECONDS, now_us

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy_server.access import Caller
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.fleet import Lag
    from akpolicy_server.store.hosts import HostNack, HostRecord
    from akpolicy_server.store.revisions import RevisionRecord

MAX_SCOPES: Final = 100
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200


@dataclass(frozen=True, slots=True)
class ScopeReach:
    """A scope, its revision if it has one, and how far that has come."""

    scope: str
    revision: RevisionRecord | None
    reach: Reach | None


@dataclass(frozen=True, slots=True)
class Status:
    """An org's hosts at one moment."""

    org: str
    at_us: int
    software: dict[str, int]
    gone: int
    scopes: tuple[ScopeReach, ...]

    def says_the_same_as(self, other: Status | None) -> bool:
        """Whether nothing but the time differs."""
        return other is not None and (self.software, self.gone, self.scopes) == (
            other.software,
            other.gone,
            other.scopes,
        )


@dataclass(frozen=True, slots=True)
class HostView:
    """One host: whether it is connected, what it lacks (oldest first) and refused (newest first), `lag_s` seconds."""

    record: HostRecord
    connected: bool
    scopes: int
    lags: list[Lag]
    refusals: list[tuple[HostNack, int]]
    lag_s: int


@dataclass(frozen=True, slots=True)
class HostPage:
    """Some hosts by id; `next_token` is empty at the end."""

    hosts: tuple[HostView, ...]
    next_token: str


class Fleet:
    """Reads what hosts report. Thread-safe; blocks."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def status(self, caller: Caller, org: str, scopes: Sequence[str]) -> Status:
        """Return how many hosts enforce what; raise `PermissionDenied`, `InvalidField` or `OrgNotFound`."""
        require_publisher(caller, scope_of_org(org))
        wanted = _scopes_of(org, scopes)
        since = seen_since_us(self._clock)
        with self._database.read() as connection:
            require_org(connection, org)
            software, gone = presence(connection, org, since)
            found = tuple(_reach(connection, org, scope, since) for scope in wanted)
        return Status(org, now_us(self._clock), software, gone, found)

    def hosts(self, caller: Caller, org: str, *, page_size: int, token: str) -> HostPage:
        """Return a page of hosts; raise `PermissionDenied`, `InvalidField` or `OrgNotFound`."""
        require_publisher(caller, scope_of_org(org))
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        now, since = now_us(self._clock), seen_since_us(self._clock)
        with self._database.read() as connection:
            require_org(connection, org)
            # One more than asked for tells whether there is a next page.
            found = hosts_after(connection, org, token, size + 1)
            ids = [record.host.host_id for record in found[:size]]
            scopes = count_layers(connection, org)
            lags, refusals = lags_of(connection, org, ids), refusals_of(connection, org, ids)
        page = tuple(
            HostView(
                record,
                record.is_connected(now, since),
                scopes,
                lags[host_id],
                refusals[host_id],
                max(0, now - lags[host_id][0].published_at_us) // MICROSECONDS if lags[host_id] else 0,
            )
            for host_id, record in zip(ids, found, strict=False)
        )
        return HostPage(page, ids[-1] if len(found) > size else "")


def _reach(connection: Connection, org: str, scope: str, since: int) -> ScopeReach:
    layer = find_layer(connection, org, scope)
    if layer is None or not layer.in_force:
        return ScopeReach(scope, None, None)
    return ScopeReach(scope, layer.revision, reach_of(connection, org, layer.revision, since))


def _scopes_of(org: str, scopes: Sequence[str]) -> list[str]:
    """Return the scopes to look at; raise `InvalidField` for those that the org's hosts cannot have."""
    if len(scopes) > MAX_SCOPES:
        raise InvalidField(f"{len(scopes)} scopes are asked for; the limit is {MAX_SCOPES}: ask several times")
    for scope in scopes:
        try:
            check_scope(scope)
        except FieldInvalid as error:
            raise InvalidField(error.message) from None
        if org_of(scope) not in (None, org):
            raise InvalidField(f"`{scope[:64]}` is of another org than `{org}`")
    return list(dict.fromkeys(scopes)) or [GLOBAL, org_scope(org)]

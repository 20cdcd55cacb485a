"""What a policy server knows of an org's hosts, by their own account.

Times are aware datetimes in UTC, lags are seconds. `to_json` has stable names: the command line prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.client.publishing_types import RevisionName, rfc3339, utc
from akpolicy.v1 import fleet_pb2

if TYPE_CHECKING:
    from datetime import datetime

_MODES: Final[dict[int, str]] = {fleet_pb2.UPDATE_MODE_STREAM: "stream", fleet_pb2.UPDATE_MODE_POLL: "poll"}


@dataclass(frozen=True, slots=True)
class ScopeStatus:
    """How far a scope's revision has come among connected hosts; `current` None: hosts are given nothing.

    `oldest_version` is the oldest of the current epoch that one enforces, 0 if one enforces none of it.
    """

    scope: str
    current: RevisionName | None
    published_at: datetime | None
    hosts_current: int
    hosts_behind: int
    hosts_refusing: int
    oldest_version: int

    @classmethod
    def from_proto(cls, status: fleet_pb2.ScopeStatus) -> ScopeStatus:
        """Read a received message."""
        return cls(
            status.scope,
            RevisionName.from_proto(status.current) if status.HasField("current") else None,
            utc(status.published_at) if status.HasField("published_at") else None,
            status.hosts_current,
            status.hosts_behind,
            status.hosts_refusing,
            status.oldest_version,
        )

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "scope": self.scope,
            "epoch": self.current.epoch if self.current else 0,
            "version": self.current.version if self.current else 0,
            "digest": self.current.digest if self.current else "",
            "published_at": rfc3339(self.published_at) if self.published_at else None,
            "hosts_current": self.hosts_current,
            "hosts_behind": self.hosts_behind,
            "hosts_refusing": self.hosts_refusing,
            "oldest_version": self.oldest_version,
        }


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """An org's hosts at one moment; `software` counts connected hosts by the version of their software."""

    org: str
    at: datetime
    hosts_connected: int
    hosts_gone: int
    scopes: tuple[ScopeStatus, ...]
    software: dict[str, int]

    @classmethod
    def from_proto(cls, status: fleet_pb2.FleetStatus) -> FleetStatus:
        """Read a received message."""
        return cls(
            status.org,
            utc(status.at),
            status.hosts_connected,
            status.hosts_gone,
            tuple(ScopeStatus.from_proto(scope) for scope in status.scopes),
            {count.software_version: count.hosts for count in status.software},
        )

    def enforces(self, scope: str, version: int) -> bool:
        """Whether hosts are connected and each of them enforces this version of the scope, or a later one."""
        return self.hosts_connected > 0 and any(
            status.scope == scope and status.current is not None and status.oldest_version >= version
            for status in self.scopes
        )

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "org": self.org,
            "at": rfc3339(self.at),
            "hosts_connected": self.hosts_connected,
            "hosts_gone": self.hosts_gone,
            "scopes": [scope.to_json() for scope in self.scopes],
            "software": self.software,
        }


@dataclass(frozen=True, slots=True)
class ScopeLag:
    """A revision that a host should enforce, what it enforces instead (None: nothing), and when it said so."""

    wanted: RevisionName
    published_at: datetime
    enforced: RevisionName | None
    acked_at: datetime | None

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "scope": self.wanted.scope,
            "wanted_version": self.wanted.version,
            "published_at": rfc3339(self.published_at),
            "enforced_version": self.enforced.version if self.enforced else 0,
            "acked_at": rfc3339(self.acked_at) if self.acked_at else None,
        }


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a host refused; `scope` is `root` for a root, empty for what is wrong with the host itself."""

    scope: str
    epoch: int
    version: int
    code: str
    detail: str
    policy_id: str
    reported_at: datetime

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "scope": self.scope,
            "epoch": self.epoch,
            "version": self.version,
            "code": self.code,
            "detail": self.detail,
            "policy_id": self.policy_id,
            "reported_at": rfc3339(self.reported_at),
        }


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host. `behind` and `refusals` are the first of very many; `scopes_behind` counts all."""

    host_id: str
    connected: bool
    connected_at: datetime
    last_seen_at: datetime
    update_mode: str
    software_version: str
    root_version: int
    scopes: int
    scopes_behind: int
    lag_s: int
    behind: tuple[ScopeLag, ...]
    refusals: tuple[Refusal, ...]

    @classmethod
    def from_proto(cls, host: fleet_pb2.HostStatus) -> HostStatus:
        """Read a received message."""
        return cls(
            host.host_id,
            host.connected,
            utc(host.connected_at),
            utc(host.last_seen_at),
            _MODES.get(host.update_mode, "unknown"),
            host.software_version,
            host.root_version,
            host.scopes,
            host.scopes_behind,
            host.lag_s,
            tuple(_lag(lag) for lag in host.behind),
            tuple(_refusal(refusal) for refusal in host.refusals),
        )

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "host_id": self.host_id,
            "connected": self.connected,
            "connected_at": rfc3339(self.connected_at),
            "last_seen_at": rfc3339(self.last_seen_at),
            "update_mode": self.update_mode,
            "software_version": self.software_version,
            "root_version": self.root_version,
            "scopes": self.scopes,
            "scopes_behind": self.scopes_behind,
            "lag_s": self.lag_s,
            "behind": [lag.to_json() for lag in self.behind],
            "refusals": [refusal.to_json() for refusal in self.refusals],
        }


def _lag(lag: fleet_pb2.ScopeLag) -> ScopeLag:
    return ScopeLag(
        RevisionName.from_proto(lag.wanted),
        utc(lag.published_at),
        RevisionName.from_proto(lag.enforced) if lag.HasField("enforced") else None,
        utc(lag.acked_at) if lag.HasField("acked_at") else None,
    )


def _refusal(refusal: fleet_pb2.Refusal) -> Refusal:
    return Refusal(
        refusal.scope,
        refusal.epoch,
        refusal.version,
        refusal.code,
        refusal.detail,
        refusal.policy_id,
        utc(refusal.reported_at),
    )

"""Hosts that ask from time to time instead of holding a stream: when they are there, and what they say.

Rules:

- A polling host says how long it waits between polls. It counts as connected until `MISSED_POLLS` of these have passed
  since it was here last: there is no connection whose end could be noticed.
- What it enforces and refuses it says itself, as over a stream; who it is comes from its API key.
- What it has refused stands until an update of the scope takes effect, or it reports all that it enforces (`complete`)
  without that refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.errors import InvalidField
from akpolicy.limits import MAX_POLL_INTERVAL_S
from akpolicy_server.store.hosts import HostNack, HostRecord, HostRevision, UpdateMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy_server.reports import HostReports
    from akpolicy_server.store.hosts import HostKey

DEFAULT_POLL_INTERVAL_MS: Final = 60_000
MAX_POLL_INTERVAL_MS: Final = MAX_POLL_INTERVAL_S * 1000
MISSED_POLLS: Final = 3
_MICROSECONDS_A_MILLISECOND: Final = 1000


@dataclass(frozen=True, slots=True)
class Poller:
    """A polling host, as it describes itself."""

    host: HostKey
    software_version: str
    root_version: int
    interval_ms: int


@dataclass(frozen=True, slots=True)
class PollReport:
    """What a polling host says: what is different of what it enforces (None: ended), or all of it (`complete`)."""

    poller: Poller
    changes: Mapping[str, HostRevision | None]
    refused: tuple[HostNack, ...] = ()
    complete: bool = False


def read_interval_ms(value: int) -> int:
    """Return how long a host waits between polls (0: the default); raise `InvalidField`."""
    if not 0 <= value <= MAX_POLL_INTERVAL_MS:
        raise InvalidField(f"poll_interval_ms must be 1 to {MAX_POLL_INTERVAL_MS}, or 0 for {DEFAULT_POLL_INTERVAL_MS}")
    return value or DEFAULT_POLL_INTERVAL_MS


def note_poll(reports: HostReports, report: PollReport, *, cleared: tuple[str, ...] = ()) -> None:
    """Note that a polling host is there, and what it says; `cleared` are subjects of which nothing is refused now."""
    now_us = reports.now_us()
    poller = report.poller
    record = HostRecord(
        host=poller.host,
        software_version=poller.software_version,
        root_version=poller.root_version,
        connected_at_us=now_us,
        last_seen_at_us=now_us,
        disconnected_at_us=now_us + MISSED_POLLS * poller.interval_ms * _MICROSECONDS_A_MILLISECOND,
        update_mode=UpdateMode.POLL,
    )
    effective = tuple(scope for scope, revision in report.changes.items() if revision is not None)
    reports.note(record, report.changes, is_all=report.complete, accepted=(*cleared, *effective))
    for refusal in report.refused:
        reports.note(record, {}, refused=refusal)

"""Hosts that are refused by their id, whatever they show.

Rules:

- A refused host gets nothing: not by an API key, not by a certificate. Its open streams end with the next sweep of each
  server on this database. What it enforces stays enforced, and ages.
- A certificate cannot be revoked here (nobody looks at revocation lists), so that this is how a stolen one is stopped
  before it expires.
- A host need not have been seen to be refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from akpolicy.errors import HostDenied, HostNotDenied, InvalidField, OrgNotFound, TooManyDenials
from akpolicy.scope import HOST_ID_PATTERN
from akpolicy_server.store.denied_hosts import (
    DenialRecord,
    count_denials,
    delete_denial,
    denials,
    find_denial,
    insert_denial,
)
from akpolicy_server.store.hosts import HostKey
from akpolicy_server.store.orgs import org_exists
from akpolicy_server.times import now_us

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy_server.store.engine import Database

# Each sweep reads all of them.
MAX_DENIALS: Final = 10_000
MAX_REASON_CHARS: Final = 200

_HOST_ID: Final = re.compile(HOST_ID_PATTERN)


class DeniedHosts:
    """The list of refused hosts. Thread-safe; blocks."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def deny(self, host: HostKey, reason: str) -> DenialRecord:
        """Refuse a host from now on; return the record, an earlier one if it is refused already.

        Raises `OrgNotFound`, `InvalidField` and `TooManyDenials`.
        """
        _check(host, reason)
        with self._database.write() as connection:
            if not org_exists(connection, host.org):
                raise OrgNotFound(f"there is no org `{host.org}`")
            earlier = find_denial(connection, host)
            if earlier is not None:
                return earlier
            if count_denials(connection) >= MAX_DENIALS:
                raise TooManyDenials(f"{MAX_DENIALS} hosts are refused already; take back those that are gone for good")
            record = DenialRecord(host.org, host.host_id, now_us(self._clock), reason)
            insert_denial(connection, record)
            return record

    def allow(self, host: HostKey) -> None:
        """Refuse a host no more; raise `HostNotDenied`."""
        with self._database.write() as connection:
            if not delete_denial(connection, host):
                raise HostNotDenied(f"the host `{host.host_id[:128]}` of `{host.org[:63]}` is not refused")

    def all(self) -> list[DenialRecord]:
        """Return every refused host, by org and id."""
        with self._database.read() as connection:
            return denials(connection)


def require_not_denied(connection: Connection, host: HostKey) -> None:
    """Raise `HostDenied` for a refused host."""
    if find_denial(connection, host) is not None:
        raise HostDenied(f"the host `{host.host_id}` of `{host.org}` is refused by this server's operator")


def denied_among(connection: Connection, hosts: Collection[HostKey]) -> set[HostKey]:
    """Return which of the hosts are refused."""
    if not hosts:
        return set()
    return {HostKey(record.org, record.host_id) for record in denials(connection)}.intersection(hosts)


def _check(host: HostKey, reason: str) -> None:
    if not _HOST_ID.fullmatch(host.host_id):
        raise InvalidField("a host id is 1 to 128 of [A-Za-z0-9._-]")
    if len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        raise InvalidField(f"the reason must be at most {MAX_REASON_CHARS} printable characters")

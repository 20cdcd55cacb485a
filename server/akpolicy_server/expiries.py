"""When things come to an end: numbers for metrics, so that nobody is surprised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.root import parse_root
from akpolicy_server.signatory import quorum_end
from akpolicy_server.store.roots import newest_roots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from akpolicy.root import Root


class RootExpiries:
    """The earliest ends of what the newest roots say. Thread-safe; parses each root once."""

    def __init__(self) -> None:
        self._parsed: dict[bytes, Root] = {}

    def earliest(self, connection: Connection, now: float) -> tuple[int, int]:
        """Return when the first root expires, and when the first online role runs out of keys; 0 without roots.

        Both are in epoch seconds. A role that cannot be filled now counts as run out at `now`.
        """
        roots = self._newest(connection)
        ends = (quorum_end(root, role, now) or int(now) for root in roots for role in root.all_roles()[1:])
        return min((root.expires_at for root in roots), default=0), min(ends, default=0)

    def _newest(self, connection: Connection) -> Iterable[Root]:
        parsed = {}
        for record in newest_roots(connection):
            digest = record.envelope.digest()
            parsed[digest] = self._parsed.get(digest) or parse_root(record.envelope.payload)[0]
        self._parsed = parsed
        return parsed.values()

"""Which index the host at the other end of a stream has, and how it gets the next one.

Rules:

- An index that the host has is not sent again. One that differs from the one that this stream sent last is sent as what
  is different, if the host takes that and if it is the shorter way: one changed scope costs one line.
- A host that refuses a heartbeat may have lost its index, or not taken this one: the next comes with its whole text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.v1 import distribution_pb2

if TYPE_CHECKING:
    from akpolicy.index import Index
    from akpolicy_server.api.greeting import Greeting


class SentIndexes:
    """The index of one stream's host."""

    __slots__ = ("_digest", "_last", "_takes_changes")

    def __init__(self, greeting: Greeting) -> None:
        """Begin with what Hello says."""
        self._digest = greeting.index_digest.hex()
        self._takes_changes = greeting.takes_index_changes
        self._last: Index | None = None

    def add_to(self, update: distribution_pb2.HeartbeatUpdate, index: Index) -> None:
        """Let a heartbeat carry what the host needs of its index."""
        if index.digest != self._digest:
            changes = index_changes(self._last, index) if self._last is not None and self._takes_changes else None
            if changes is not None:
                update.index_changes.CopyFrom(changes)
            else:
                update.index = index.text
        self._digest, self._last = index.digest, index

    def forget(self) -> None:
        """Note that nobody knows what the host has."""
        self._digest, self._last = "", None


def index_changes(base: Index, index: Index) -> distribution_pb2.IndexChanges | None:
    """Return what makes an index of another; None if its text is shorter."""
    said = index.changes_from(base)
    changes = distribution_pb2.IndexChanges(base=bytes.fromhex(said.base), lines=said.lines, gone=said.gone)
    return changes if changes.ByteSize() < len(index.text) else None

"""What the last heartbeat names beside what is enforced here, kept up to date one scope at a time.

Rules:

- `differing` are the scopes that the index of the last heartbeat of this run names otherwise than they are enforced, or
  that only one of both has. Without a heartbeat in this run nothing is known to differ, or not to.
- `unconfirmed` are enforced scopes that no heartbeat ever vouched for (`freshness`).
- So a heartbeat and a bundle cost what is different, not what there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy_sidecar.freshness import NOTHING_CONFIRMED, Freshness, deliver, renew

if TYPE_CHECKING:
    from collections.abc import Iterable

    from akpolicy.heartbeat import Heartbeat
    from akpolicy.index import Index


class Vouching:
    """Compares, and says how fresh what is enforced is. One thread uses it; `freshness` is never changed in place."""

    def __init__(self) -> None:
        """Begin without a heartbeat, and with nothing enforced."""
        self.freshness: Freshness = NOTHING_CONFIRMED
        self.unconfirmed: set[str] = set()
        self._digests: dict[str, str] = {}
        self._last: tuple[Heartbeat, Index] | None = None
        self._differing: set[str] = set()
        # Not enforced any more since the last heartbeat.
        self._dropped: set[str] = set()

    @property
    def lacking(self) -> list[str]:
        """The scopes of which the last heartbeat names another document than is enforced, in the order of an index."""
        lines = self._last[1].lines if self._last is not None else {}
        return sorted(scope for scope in self._differing if scope in lines)

    def begin(self, freshness: Freshness, unconfirmed: Iterable[str]) -> None:
        """Go on from what an earlier run knew, or forget it: no heartbeat of this run counts."""
        self.freshness = freshness
        self.unconfirmed = {*unconfirmed, *(self._digests.keys() - freshness.by_scope.keys())}
        self._last, self._differing = None, set()

    def enforce(self, scope: str, digest: str | None) -> None:
        """Note which document is enforced for a scope, None for none."""
        if digest is None:
            self._digests.pop(scope, None)
            self._dropped.add(scope)
        else:
            self._digests[scope] = digest
            if scope in self.freshness.by_scope:
                self.unconfirmed.discard(scope)
            else:
                self.unconfirmed.add(scope)
        if self._last is not None:
            self._compare(scope, self._last[1])

    def with_document(self, scope: str, digest: str) -> Freshness:
        """Return the freshness once this document is enforced: the last heartbeat may have named it before it came."""
        if self._last is None:
            return self.freshness
        heartbeat, index = self._last
        line = index.lines.get(scope)
        vouched = line is not None and line.digest == digest
        is_whole = vouched and self._differing <= {scope}
        return deliver(self.freshness, heartbeat, scope, vouched=vouched, is_whole=is_whole)

    def renewed(self, heartbeat: Heartbeat, index: Index) -> tuple[Freshness, set[str]]:
        """Return the freshness after a heartbeat, and what differs from its index then."""
        differing = self._differences(index)
        was = self.freshness.confirmations
        gone = {
            scope
            for scope in {*was.others, *self._differing, *self._dropped}
            if scope in was.members and scope not in self._digests and scope not in index.lines
        }
        freshness = renew(
            self.freshness,
            heartbeat,
            differing=differing,
            gone=gone,
            arrived={scope for scope in self.unconfirmed if scope in self._digests and scope not in differing},
            enforced=self._digests,
        )
        return freshness, differing

    def believe(self, heartbeat: Heartbeat, index: Index, freshness: Freshness, differing: set[str]) -> None:
        """Take over what `renewed` has returned for a heartbeat."""
        self._last, self._differing, self.freshness = (heartbeat, index), differing, freshness
        self.unconfirmed = {scope for scope in self.unconfirmed if scope not in freshness.by_scope}
        self._dropped = set()

    def deliver(self, freshness: Freshness) -> None:
        """Take over what `with_document` has returned, once the document is enforced."""
        self.freshness = freshness

    def _differences(self, index: Index) -> set[str]:
        if self._last is None:
            return {scope for scope in {*self._digests, *index.lines} if self._differs(scope, index)}
        changed = set(index.lines.differences(self._last[1].lines))
        return {*(self._differing - changed), *(scope for scope in changed if self._differs(scope, index))}

    def _compare(self, scope: str, index: Index) -> None:
        if self._differs(scope, index):
            self._differing.add(scope)
        else:
            self._differing.discard(scope)

    def _differs(self, scope: str, index: Index) -> bool:
        line = index.lines.get(scope)
        return (line.digest if line is not None else None) != self._digests.get(scope)

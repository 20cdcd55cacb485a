"""What a publish replaces, and what it lets count again: for its publisher to see, before or after.

Rules (those of `akpolicy.engine.stack`, over what is published instead of what a host enforces):

- A policy replaces the permits with its id in broader layers, whatever it does itself: one of an org those of `global`,
  one of a team those of `global` and the org, one of a user those of `global`, the org and any of its teams.
- A forbid is never replaced. What the version before replaced and this one does not is unshadowed: it counts again.
- Hosts work it out from what they enforce, and believe none of this. So nothing is refused for it, and what narrower
  layers go on replacing is not listed: there can be thousands of them.
- Only the ids of contents are needed; they are kept by the digest of the content, up to `MAX_OUTLINED` of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from akpolicy.engine.files import permit_ids
from akpolicy.errors import StoreUnavailable
from akpolicy.scope import GLOBAL, is_team_scope, org_of, org_scope, specificity
from akpolicy_server.contents import policies_in
from akpolicy_server.store.blobs import load_blob
from akpolicy_server.store.layers import contents_of, contents_of_teams

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from akpolicy_server.judging import ProposedContent
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.revisions import RevisionRecord

# How many policies are kept by their ids; each takes about 100 bytes.
MAX_OUTLINED: Final = 250_000


@dataclass(frozen=True, slots=True)
class Replacements:
    """Permits of broader layers as `<scope>/<policy id>`, broad to specific: replaced now, and no longer."""

    replaces: tuple[str, ...] = ()
    unshadows: tuple[str, ...] = ()


NO_REPLACEMENTS: Final = Replacements()


class Outline(NamedTuple):
    """The ids of a content's policies, and of those of them that permit."""

    ids: frozenset[str]
    permits: frozenset[str]


class Outlines:
    """The ids of contents. Thread-safe; blocks."""

    def __init__(self, *, max_policies: int = MAX_OUTLINED) -> None:
        self._max_policies = max_policies
        self._kept: OrderedDict[bytes, Outline] = OrderedDict()
        self._policies = 0
        self._lock = threading.Lock()

    def note(self, content: ProposedContent) -> None:
        """Keep the ids of content that is about to be published."""
        outline = Outline(frozenset(content.ids), frozenset(content.permitting))
        self._keep(bytes.fromhex(content.reference.digest), outline)

    def warm(self, database: Database, scope: str) -> None:
        """Read, before a transaction that others would have to wait for, what `compare` will need."""
        with database.read() as connection:
            for _, digest in _broader(connection, scope):
                self._of(connection, digest)

    def compare(self, connection: Connection, published: RevisionRecord, before: RevisionRecord | None) -> Replacements:
        """Return what a revision replaces and unshadows, after the one `before`; raise `StoreUnavailable`."""
        broader = [
            (scope, self._of(connection, digest).permits) for scope, digest in _broader(connection, published.scope)
        ]
        if not broader:
            return NO_REPLACEMENTS
        ids = self._of(connection, published.content_digest).ids
        gone = self._of(connection, before.content_digest).ids - ids if before is not None else frozenset[str]()
        return Replacements(_named(broader, ids), _named(broader, gone))

    def _of(self, connection: Connection, digest: bytes) -> Outline:
        with self._lock:
            kept = self._kept.get(digest)
            if kept is not None:
                self._kept.move_to_end(digest)
                return kept
        blob = load_blob(connection, digest)
        if blob is None:
            raise StoreUnavailable(f"the content {digest.hex()} is missing; restore the database from a backup")
        policies = policies_in(blob)
        outline = Outline(frozenset(policy.id for policy in policies), frozenset(permit_ids(policies)))
        self._keep(digest, outline)
        return outline

    def _keep(self, digest: bytes, outline: Outline) -> None:
        with self._lock:
            if digest in self._kept:
                return
            self._kept[digest] = outline
            self._policies += len(outline.ids)
            while self._policies > self._max_policies and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._policies -= len(dropped.ids)


def _broader(connection: Connection, scope: str) -> list[tuple[str, bytes]]:
    """Return the layers that are broader than a scope and in force, broad to specific, each with its content's digest.

    They are those of the scope's own org: `global` is what its hosts have of it.
    """
    org = org_of(scope)
    if org is None:
        return []
    names = [name for name in (GLOBAL, org_scope(org)) if name != scope]
    found = contents_of(connection, org, names)
    if specificity(scope) > 1 and not is_team_scope(scope):
        found += contents_of_teams(connection, org)
    return sorted(found, key=lambda layer: (specificity(layer[0]), layer[0]))


def _named(broader: Iterable[tuple[str, frozenset[str]]], ids: frozenset[str]) -> tuple[str, ...]:
    def names() -> Iterator[str]:
        for scope, permits in broader:
            yield from (f"{scope}/{policy_id}" for policy_id in sorted(permits & ids))

    return tuple(names())

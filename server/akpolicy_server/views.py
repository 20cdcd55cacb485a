"""What is current for one org, read at one moment: what its hosts are to have.

Rules:

- Generation, newest root and layers come from one read transaction, so that they belong together. The index names
  exactly the layers.
- Envelopes are as this org's hosts get them (`audience.for_hosts`).
- Where only some scopes changed since an earlier view, only they are read: the rest is shared with it. A new root may
  change every envelope, and then everything is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from akpolicy.index import Index, IndexLine, build_index
from akpolicy.persistent import PersistentMap
from akpolicy_server.audience import for_hosts, require_org, trusted, waits_for_root
from akpolicy_server.store.hosts import HostRevision
from akpolicy_server.store.layers import generations_of, layers_of, layers_since
from akpolicy_server.store.roots import newest_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from akpolicy.root import Root
    from akpolicy.trust import TrustedRoot
    from akpolicy_server.store.layers import Layer
    from akpolicy_server.store.revisions import RevisionRecord


@dataclass(frozen=True, slots=True)
class OrgView:
    """The state of an org with the generation `seq`: its newest root, and a revision for each scope, by scope.

    `names` has what names each of them: one object for every stream that was sent it.
    """

    org: str
    seq: int
    root: TrustedRoot
    revisions: PersistentMap[RevisionRecord, None]
    names: PersistentMap[HostRevision, None]
    index: Index


def read_view(connection: Connection, org: str, before: OrgView | None = None) -> OrgView:
    """Return what is current, from an earlier view if there is one.

    Raises `OrgNotFound`, or `RootNotFound` for an org that waits for its first root.
    """
    record = newest_root(connection, org)
    if record is None:
        require_org(connection, org)
        raise waits_for_root(org)
    root, seq = trusted(record), generations_of(connection, [org])[org]
    if before is not None and before.root.digest == root.digest and before.seq <= seq:
        return _followed(before, seq, layers_since(connection, org, before.seq))
    revisions = {
        scope: _for_hosts(layer.revision, root.document)
        for scope, layer in layers_of(connection, org).items()
        if layer.in_force
    }
    index = build_index(map(_line, revisions.values()))
    names = {scope: _name(revision) for scope, revision in revisions.items()}
    return OrgView(org, seq, root, PersistentMap.of(revisions), PersistentMap.of(names), index)


def _followed(before: OrgView, seq: int, changed: Mapping[str, Layer]) -> OrgView:
    """Return the view after some layers changed."""
    revisions, names = before.revisions, before.names
    lines: list[IndexLine] = []
    gone: list[str] = []
    for scope, layer in changed.items():
        if layer.in_force:
            revision = _for_hosts(layer.revision, before.root.document)
            revisions, names = revisions.put(scope, revision), names.put(scope, _name(revision))
            lines.append(_line(revision))
        else:
            revisions, names = revisions.without(scope), names.without(scope)
            gone.append(scope)
    return OrgView(before.org, seq, before.root, revisions, names, before.index.changed(lines, gone))


def _line(revision: RevisionRecord) -> IndexLine:
    return IndexLine(revision.scope, revision.epoch, revision.version, revision.digest.hex())


def _name(revision: RevisionRecord) -> HostRevision:
    return HostRevision(revision.scope, revision.epoch, revision.version, revision.digest)


def _for_hosts(revision: RevisionRecord, root: Root) -> RevisionRecord:
    original = None if revision.original is None else for_hosts(revision.original, root)
    return replace(revision, envelope=for_hosts(revision.envelope, root), original=original)

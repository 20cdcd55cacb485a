"""What is current for one org, read at one moment: what its hosts are to have.

Rules:

- Generation, newest root and layers come from one read transaction, so that they belong together. The index names
  exactly the layers.
- Envelopes are as this org's hosts get them (`audience.for_hosts`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from akpolicy.index import Index, IndexLine, build_index
from akpolicy_server.audience import for_hosts, require_org, trusted, waits_for_root
from akpolicy_server.store.hosts import HostRevision
from akpolicy_server.store.layers import generations_of, layers_of
from akpolicy_server.store.roots import newest_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from akpolicy.root import Root
    from akpolicy.trust import TrustedRoot
    from akpolicy_server.store.revisions import RevisionRecord


@dataclass(frozen=True, slots=True)
class OrgView:
    """The state of an org with the generation `seq`: its newest root, and a revision for each scope, by scope.

    `names` has what names each of them: one object for every stream that was sent it.
    """

    org: str
    seq: int
    root: TrustedRoot
    revisions: Mapping[str, RevisionRecord]
    names: Mapping[str, HostRevision]
    index: Index


def read_view(connection: Connection, org: str) -> OrgView:
    """Return what is current; raise `OrgNotFound`, or `RootNotFound` for an org that waits for its first root."""
    record = newest_root(connection, org)
    if record is None:
        require_org(connection, org)
        raise waits_for_root(org)
    root = trusted(record)
    revisions = {
        scope: _for_hosts(layer.revision, root.document)
        for scope, layer in layers_of(connection, org).items()
        if layer.in_force
    }
    index = build_index(IndexLine(r.scope, r.epoch, r.version, r.digest.hex()) for r in revisions.values())
    names = {scope: HostRevision(scope, r.epoch, r.version, r.digest) for scope, r in revisions.items()}
    return OrgView(org, generations_of(connection, [org])[org], root, revisions, names, index)


def _for_hosts(revision: RevisionRecord, root: Root) -> RevisionRecord:
    original = None if revision.original is None else for_hosts(revision.original, root)
    return replace(revision, envelope=for_hosts(revision.envelope, root), original=original)

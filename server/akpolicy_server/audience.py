"""Whose hosts a document is for: the orgs that get a scope, each with what its up-to-date hosts trust.

Rules:

- A bundle of `org/X`, or below, is for X; one of `global` is for every org that has a root: each judges by its own.
- A document is of one epoch, and hosts take only documents of their root's. So the orgs of `global` fall into groups,
  one an epoch: each gets a document of its own, with the same content.
- A stored root was judged with its whole chain when it came (`roots`): here the newest one is believed as it lies.
- An org is sent the signatures that its root knows and has not revoked, and no others. A `global` bundle can be signed
  by old and new platform keys while orgs move from one to the other, one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from akpolicy.errors import OrgNotFound, RootNotFound
from akpolicy.keys import AnchorSet, TrustAnchor
from akpolicy.root import parse_root
from akpolicy.scope import GLOBAL, org_of
from akpolicy.trust import Judge, Mark, TrustedRoot
from akpolicy_server.store.layers import find_layer, layers_of_scope
from akpolicy_server.store.orgs import org_exists
from akpolicy_server.store.roots import newest_root, newest_roots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.root import Root
    from akpolicy_server.store.layers import Layer
    from akpolicy_server.store.orgs import OrgRecord
    from akpolicy_server.store.roots import RootRecord


@dataclass(frozen=True, slots=True)
class Member:
    """An org among those that get a document: its newest root, and the judge of a host that is up to date.

    The judge knows what its hosts have of one scope, or of all of them (`member_of`).
    """

    org: str
    root: Root
    envelope: SignedEnvelope
    judge: Judge


@dataclass(frozen=True, slots=True)
class Group:
    """The orgs whose roots are of one epoch."""

    epoch: int
    members: tuple[Member, ...]


def groups_of(connection: Connection, scope: str) -> list[Group]:
    """Return whom a document of the scope is for, by epoch, the highest last.

    Nobody if it is for `global` and no org has a root. Raises `OrgNotFound`, or `RootNotFound` for an org whose first
    root is not there yet.
    """
    org = org_of(scope)
    if org is not None:
        member = member_for(connection, org, scope)
        return [Group(member.root.epoch, (member,))]
    by_epoch = defaultdict[int, list[Member]](list)
    layers = layers_of_scope(connection, scope)
    for record in newest_roots(connection):
        layer = layers.get(record.org)
        member = _member(record, [layer] if layer else [])
        by_epoch[member.root.epoch].append(member)
    return [Group(epoch, tuple(members)) for epoch, members in sorted(by_epoch.items())]


def member_of(connection: Connection, org: str, layers: Mapping[str, Layer]) -> Member:
    """Return an org with what its hosts trust, and have of all scopes; raise `OrgNotFound` or `RootNotFound`."""
    return _member(_require_root(connection, org), layers.values())


def member_for(connection: Connection, org: str, scope: str) -> Member:
    """Return an org with what its hosts trust, and have of one scope; raise `OrgNotFound` or `RootNotFound`."""
    record = _require_root(connection, org)
    layer = find_layer(connection, org, scope)
    return _member(record, [layer] if layer else [])


def require_org(connection: Connection, org: str) -> None:
    """Raise `OrgNotFound` unless the org exists."""
    if not org_exists(connection, org):
        raise OrgNotFound(f"there is no org `{org}`")


def require_scope(connection: Connection, scope: str) -> None:
    """Raise `OrgNotFound` unless the org of the scope exists; `global` has none."""
    if scope != GLOBAL:
        require_org(connection, org_of(scope) or "")


def waits_for_root(org: str) -> RootNotFound:
    """Return the error for an org whose first root is not there yet."""
    return RootNotFound(
        f"the org `{org}` waits for its first root; have it signed by the owners of its root keys and publish it with "
        "`akpolicy root publish`"
    )


def trusted(record: RootRecord) -> TrustedRoot:
    """Return a stored root as hosts trust it."""
    document, keys = parse_root(record.envelope.payload)
    return TrustedRoot(document, keys, record.envelope.digest().hex(), record.envelope)


def anchors_of(record: OrgRecord) -> AnchorSet:
    """Return the anchors that an org's hosts are configured with."""
    return AnchorSet(tuple(TrustAnchor(key) for key in record.anchors), record.threshold)


def for_hosts(envelope: SignedEnvelope, root: Root) -> SignedEnvelope:
    """Return the envelope as hosts that trust `root` get it; the payload, and so its digest, is the same.

    With signatures by nobody that they know it is left as it is: they would say so themselves.
    """
    known = tuple(s for s in envelope.signatures if s.key_id in root.keys and s.key_id not in root.revoked)
    return replace(envelope, signatures=known) if known else envelope


def _require_root(connection: Connection, org: str) -> RootRecord:
    record = newest_root(connection, org)
    if record is None:
        require_org(connection, org)
        raise waits_for_root(org)
    return record


def _member(record: RootRecord, layers: Iterable[Layer]) -> Member:
    root = trusted(record)
    judge = Judge(record.org, AnchorSet(()), marks=_marks_of(layers))
    judge.accept_root(root)
    return Member(record.org, root.document, root.envelope, judge)


def _marks_of(layers: Iterable[Layer]) -> dict[str, Mark]:
    """Return the marks of a host that has these layers."""
    return {
        revision.scope: Mark(revision.epoch, revision.version, revision.digest.hex(), revision.min_version)
        for revision in (layer.revision for layer in layers)
    }

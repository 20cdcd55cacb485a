"""Roots: brought by the owners of an org's root keys, judged as hosts judge them, stored, and lived up to.

Rules:

- This server signs no root but the first one of an org that it makes the root key for.
- A root is judged with the whole chain before it, from the anchors on, as a new host would. It is exactly the next one;
  who comes second with a version learns that another root was first.
- In the same transaction the org's layers are brought in line with it (`resigning`), so that hosts get root, bundles
  and heartbeat as one change.
- The newest root again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from akpolicy.errors import OrgNotFound, TrustError, VersionConflict
from akpolicy.root import parse_root
from akpolicy.trust import Judge
from akpolicy_server.access import Caller, require_admin_of, require_publisher, scope_of_org
from akpolicy_server.audience import anchors_of, require_org
from akpolicy_server.judging import refusals_of
from akpolicy_server.resigning import resign
from akpolicy_server.store.layers import begin_generation
from akpolicy_server.store.orgs import find_org
from akpolicy_server.store.roots import RootRecord, insert_root, newest_root, roots_after

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import TrustedRoot
    from akpolicy_server.ledger import Change, Ledger
    from akpolicy_server.resigning import Resigned
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.orgs import OrgRecord
    from akpolicy_server.store.revisions import RevisionRecord

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublishedRoot:
    """A stored root; `repeated`: it was the newest before. `dropped` are scopes that have to be published again."""

    version: int
    repeated: bool = False
    signed_anew: tuple[RevisionRecord, ...] = ()
    dropped: tuple[str, ...] = ()


class Roots:
    """Publishes and reads roots. Thread-safe; blocks."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    def publish(self, caller: Caller, org: str, envelope: SignedEnvelope, *, dry_run: bool = False) -> PublishedRoot:
        """Publish an org's next root.

        Raises `PermissionDenied`, `Unauthenticated`, `OrgNotFound`, `VersionConflict` if another root of its version is
        there, or the `TrustError` with which hosts would refuse it.
        """
        require_admin_of(caller, org)
        with self._ledger.change(caller, dry_run=dry_run) as change:
            record = find_org(change.connection, org)
            if record is None:
                raise OrgNotFound(f"there is no org `{org}`")
            newest = newest_root(change.connection, org)
            if newest is not None and newest.envelope.digest() == envelope.digest():
                return PublishedRoot(newest.version, repeated=True)
            root = _judge_next(change.connection, record, newest, envelope, change.now)
            outcome = store_root(change, self._ledger, root, is_first=newest is None)
            if root.document.roles.heartbeat is None:
                log.warning("hosts of an org get no heartbeats: its root names no heartbeat key", org=org)
        return PublishedRoot(
            root.document.version,
            signed_anew=tuple(outcome.revisions),
            dropped=tuple(outcome.dropped),
        )

    def after(self, caller: Caller, org: str, version: int, *, newest_only: bool = False) -> list[RootRecord]:
        """Return an org's roots above a version, oldest first, or only the newest of them.

        Raises `PermissionDenied`, `InvalidField` or `OrgNotFound`.
        """
        require_publisher(caller, scope_of_org(org))
        with self._database.read() as connection:
            require_org(connection, org)
            if newest_only:
                newest = newest_root(connection, org)
                return [newest] if newest is not None and newest.version > version else []
            return list(roots_after(connection, org, version))


def store_root(change: Change, ledger: Ledger, root: TrustedRoot, *, is_first: bool) -> Resigned:
    """Store a judged root and bring the org's layers in line with it."""
    document = root.document
    insert_root(change.connection, RootRecord(document.org, document.version, root.envelope, document.expires_at))
    if is_first:
        begin_generation(change.connection, document.org)
    change.touched.add(document.org)
    return resign(change, ledger, document.org)


def judge_first(record: OrgRecord, envelope: SignedEnvelope, now: int) -> TrustedRoot:
    """Judge the first root of an org as a new host does; raise a `TrustError`."""
    with refusals_of(record.org):
        return Judge(record.org, anchors_of(record)).trust_root(envelope, now)


def _judge_next(
    connection: Connection, record: OrgRecord, newest: RootRecord | None, envelope: SignedEnvelope, now: int
) -> TrustedRoot:
    """Judge a root after all that came before it."""
    judge = Judge(record.org, anchors_of(record))
    try:
        with refusals_of(record.org):
            for root in roots_after(connection, record.org, 0):
                judge.begin_walk()
                judge.accept_root(judge.judge_root(root.envelope, now))
            judge.begin_walk()
            return judge.trust_root(envelope, now)
    except TrustError as error:
        if newest is not None and _claimed_version(envelope) == newest.version:
            raise VersionConflict(
                f"the org `{record.org}` has another root of version {newest.version} by now; look at it, and make "
                "yours the next one",
                current=newest.version,
            ) from error
        raise


def _claimed_version(envelope: SignedEnvelope) -> int | None:
    """Return which version a refused root says it is: it only decides how the refusal is called."""
    try:
        return parse_root(envelope.payload)[0].version
    except TrustError:
        return None

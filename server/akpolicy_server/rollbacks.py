"""Rollbacks: a new version with the content of an earlier one.

Rules:

- A rollback is signed by the rollback key, which brings nothing of its own: it names an earlier bundle of the same
  epoch, which travels with it. A target that is a rollback itself stands for the bundle that it restores.
- How far back it may go, the hosts decide by what they enforce (`min_version`), and so does the judge here.
- It lives as long as a bundle whose publisher does not say, but no longer than what it restores.
- Of `global`: orgs of an epoch that never had that content as a bundle get it as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from akpolicy.errors import AkpolicyError, InvalidField, RevisionNotFound, SignerError, SignersMissing, TrustError
from akpolicy.scope import GLOBAL
from akpolicy_server.access import Caller, check_publishable_scope, require_publisher
from akpolicy_server.audience import groups_of, require_scope
from akpolicy_server.claims import claim_of, first_answer
from akpolicy_server.drafts import BundleDraft, Floor, Reason, RollbackDraft, manifest_of
from akpolicy_server.judging import StoredContent
from akpolicy_server.orders import check_expected
from akpolicy_server.publisher import Published
from akpolicy_server.store.revisions import (
    RevisionKind,
    RevisionRecord,
    current_revision,
    find_bundle_of,
    find_other_content,
    find_revision,
    read_content,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy_server.ledger import Change, Ledger
    from akpolicy_server.orders import RollbackOrder
    from akpolicy_server.replacements import Outlines
    from akpolicy_server.schemas import Schemas
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.revisions import IdempotencyClaim

log = structlog.get_logger(__name__)


class Rollbacks:
    """Rolls scopes back. Thread-safe; blocks. `default_lifetime_s` is that of bundles whose publisher does not say."""

    def __init__(
        self, database: Database, ledger: Ledger, schemas: Schemas, outlines: Outlines, *, default_lifetime_s: int
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._schemas = schemas
        self._outlines = outlines
        self._default_lifetime_s = default_lifetime_s

    def roll_back(self, caller: Caller, order: RollbackOrder) -> Published:
        """Publish a rollback.

        Raises `PermissionDenied`, `Unauthenticated`, `InvalidField`, `OrgNotFound`, `RootNotFound`, `RevisionNotFound`,
        `VersionConflict`, `IdempotencyKeyReused`, `SignersMissing`, `PolicySetInvalid` for what does not fit the
        schemas of now, or the `TrustError` with which hosts would refuse it.
        """
        require_publisher(caller, check_publishable_scope(order.scope))
        order.check()
        return self._schemas.settled(lambda: self._roll_back(caller, order))

    def _roll_back(self, caller: Caller, order: RollbackOrder) -> Published:
        claim = claim_of(caller, order.idempotency_key, order.digest())
        self._vet(order, claim)
        reason = Reason(RevisionKind.ROLLBACK, order.message, caller.key_id, claim)
        with self._ledger.change(caller, dry_run=order.dry_run) as change:
            require_scope(change.connection, order.scope)
            if (first := first_answer(change.connection, claim)) is not None:
                return Published(first, repeated=True, dry_run=order.dry_run)
            current = current_revision(change.connection, order.scope)
            check_expected(order.scope, order.expected_version, current.version if current else 0)
            original = _original(change.connection, order, current)
            self._schemas.require_vetted(change.connection, order.scope, original.content_digest)
            revision = self._commit(change, original, reason)
            replacements = self._outlines.compare(change.connection, revision, current)
        return Published(revision, repeated=False, dry_run=order.dry_run, replacements=replacements)

    def _vet(self, order: RollbackOrder, claim: IdempotencyClaim | None) -> None:
        """Raise `PolicySetInvalid` if what would be restored does not fit the schemas of now."""
        with self._database.read() as connection:
            try:
                if first_answer(connection, claim) is not None:
                    return
                original = _original(connection, order, current_revision(connection, order.scope))
            except AkpolicyError:
                # The transaction comes to the same, and says so.
                return
        self._schemas.vet(order.scope, original.content_digest)

    def _commit(self, change: Change, original: RevisionRecord, reason: Reason) -> RevisionRecord:
        manifest = manifest_of(original)
        if manifest.content is None:
            raise RuntimeError("no revision without content is published")
        content = StoredContent(manifest.content, lambda: read_content(change.connection, original))
        originals = {original.epoch: original}
        if original.scope == GLOBAL:
            originals |= self._other_epochs(change, original, content, reason)
        draft = RollbackDraft(original.scope, content, originals, self._default_lifetime_s, reason)
        return self._ledger.commit(change, draft, epochs=originals.keys())

    def _other_epochs(
        self, change: Change, original: RevisionRecord, content: StoredContent, reason: Reason
    ) -> dict[int, RevisionRecord]:
        """Return what to restore in the other epochs in use; where there is nothing, publish it as a bundle."""
        found: dict[int, RevisionRecord] = {}
        lacking: set[int] = set()
        for group in groups_of(change.connection, original.scope):
            bundle = find_bundle_of(change.connection, original.scope, group.epoch, original.content_digest)
            if bundle is not None and bundle.expires_at > change.now:
                found[group.epoch] = bundle
            elif group.epoch != original.epoch:
                lacking.add(group.epoch)
        found[original.epoch] = original
        if lacking:
            as_bundle = BundleDraft(
                scope=original.scope,
                content=content,
                offline=manifest_of(original).offline,
                floor=Floor.PREVIOUS,
                lifetime_s=self._default_lifetime_s,
                is_lifetime_asked=False,
                reason=Reason(RevisionKind.PUBLISH, reason.message, reason.published_by),
            )
            try:
                self._ledger.commit(change, as_bundle, epochs=lacking)
            except (TrustError, SignersMissing, SignerError) as error:
                log.warning("rolled back without the orgs of other epochs", epochs=sorted(lacking), reason=str(error))
        return found


def _original(connection: Connection, order: RollbackOrder, current: RevisionRecord | None) -> RevisionRecord:
    """Return the bundle that a rollback is to restore; raise `RevisionNotFound` or `InvalidField`."""
    if current is None:
        raise RevisionNotFound(f"there is nothing published for `{order.scope}` to roll back")
    target: RevisionRecord | None
    if order.to_version:
        target = find_revision(connection, order.scope, order.to_version, current.epoch)
        missing = f"there is no version {order.to_version} of `{order.scope}` in epoch {current.epoch}"
    else:
        target = find_other_content(
            connection, order.scope, current.content_digest, before=current.serial, epoch=current.epoch
        )
        missing = f"there is no earlier version of `{order.scope}` with other content in epoch {current.epoch}"
    if target is None:
        raise RevisionNotFound(f"{missing}; publish the policies instead")
    if target.serial == current.serial:
        raise InvalidField(f"version {target.version} of `{order.scope}` is the current one; name an earlier one")
    if target.restores_version is None:
        return target
    original = find_revision(connection, order.scope, target.restores_version, target.epoch)
    if original is None:
        raise RuntimeError("a rollback without its original")
    return original

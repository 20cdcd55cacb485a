"""Freezing an org: every host of it denies everything, until somebody ends that.

Rules:

- A freeze is a bundle of the org's scope with one policy, which forbids all. Whether an org is frozen is told by the id
  and the text in its current content, however that came about: a renewal of a freeze is one too, and a policy that only
  bears the id is none.
- It leaves the org's schema as it is.
- It holds whatever teams and users have: a forbid is never replaced by a narrower layer.
- No rollback goes back past a freeze, so that a stolen rollback key cannot end one. Where a rollback could, because a
  rollback or a plain publish brought the freeze, asking for a freeze makes a new one.
- Ending it publishes the newest content from before as a bundle; a rollback could still go back to the freeze, and no
  further.
- Asking for what is so already changes nothing.
- A publish ends a freeze only if it names the version of the freeze: an automatic one, which knows nothing of it, does
  not. One that is signed elsewhere names it when it is prepared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import DEFAULT_OFFLINE_MAX_AGE_S, OfflineFloor
from akpolicy.engine.source import PolicyText
from akpolicy.errors import OrgFrozen, RevisionNotFound
from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID
from akpolicy.freeze import is_freeze as are_freeze
from akpolicy.scope import is_member_scope
from akpolicy_server.access import Caller, require_publisher, scope_of_org
from akpolicy_server.audience import require_scope
from akpolicy_server.contents import policies_in
from akpolicy_server.drafts import BundleDraft, Floor, Reason, manifest_of
from akpolicy_server.judging import ContentToJudge, ProposedContent, StoredContent, propose_content
from akpolicy_server.orders import check_request
from akpolicy_server.store.layers import find_layer
from akpolicy_server.store.revisions import (
    RevisionKind,
    RevisionRecord,
    current_revision,
    find_other_content,
    read_content,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy_server.ledger import Ledger
    from akpolicy_server.schemas import Schemas
    from akpolicy_server.store.engine import Database

DEFAULT_OFFLINE: Final = OfflineFloor(mode="cached_with_expiry", max_age_s=DEFAULT_OFFLINE_MAX_AGE_S)


def freeze_content(schema: str | None = None) -> ProposedContent:
    """Return the content of a freeze; it keeps the schema that the org has, which the other layers fit."""
    return propose_content([PolicyText(FREEZE_POLICY_ID, FREEZE_POLICY)], schema)


FREEZE_CONTENT: Final = freeze_content()


def is_freeze(connection: Connection, revision: RevisionRecord) -> bool:
    """Whether a revision forbids everything, however it came about."""
    if revision.content_digest.hex() == FREEZE_CONTENT.reference.digest:
        return True
    if revision.policy_count != FREEZE_CONTENT.reference.policies:
        return False
    # Content that was signed elsewhere may be the same policy in other JSON.
    policies = policies_in(read_content(connection, revision))
    return are_freeze([(policy.id, policy.text) for policy in policies])


def refuse_unaware(connection: Connection, current: RevisionRecord | None, expected_version: int | None) -> None:
    """Raise `OrgFrozen` if a publish would end a freeze without saying that it knows.

    The same policy of a team or user freezes nobody else, and is like any other.
    """
    if current is None or expected_version is not None or is_member_scope(current.scope):
        return
    if is_freeze(connection, current):
        raise OrgFrozen(
            f"`{current.scope}` is frozen; publish with expected version {current.version} to end that with these "
            "policies, or go back to those before with `akpolicy org unfreeze`"
        )


@dataclass(frozen=True, slots=True)
class FreezeState:
    """The current revision of an org; `changed` unless it was frozen, or free, already."""

    revision: RevisionRecord
    changed: bool


class Freeze:
    """Freezes orgs and frees them. Thread-safe; blocks. `default_lifetime_s` is for both kinds of bundles."""

    def __init__(self, database: Database, ledger: Ledger, schemas: Schemas, *, default_lifetime_s: int) -> None:
        self._database = database
        self._ledger = ledger
        self._schemas = schemas
        self._default_lifetime_s = default_lifetime_s

    def set(self, caller: Caller, org: str, *, frozen: bool, message: str) -> FreezeState:
        """Freeze an org, or end that.

        Raises `PermissionDenied`, `Unauthenticated`, `InvalidField`, `OrgNotFound`, `RootNotFound`, `RevisionNotFound`
        if there is nothing to return to, `PolicySetInvalid` if that does not fit the schemas of now, `SignersMissing`,
        or the `TrustError` with which hosts would refuse it.
        """
        scope = scope_of_org(org)
        require_publisher(caller, scope)
        check_request("", message)
        return self._schemas.settled(lambda: self._set(caller, org, scope, frozen=frozen, message=message))

    def _set(self, caller: Caller, org: str, scope: str, *, frozen: bool, message: str) -> FreezeState:
        if not frozen:
            self._vet(scope)
        with self._ledger.change(caller) as change:
            require_scope(change.connection, scope)
            current = current_revision(change.connection, scope)
            if current is not None and self._is_so(change.connection, org, current, frozen=frozen):
                return FreezeState(current, changed=False)
            if frozen:
                reason = Reason(RevisionKind.FREEZE, message, caller.key_id)
                content: ContentToJudge = freeze_content(self._schemas.own(change.connection, scope))
                draft = self._draft(scope, content, current, Floor.ITSELF, reason)
            else:
                before = self._before(change.connection, scope, current)
                self._schemas.require_vetted(change.connection, scope, before.content_digest)
                content = _content_of(change.connection, before)
                reason = Reason(RevisionKind.UNFREEZE, message, caller.key_id)
                draft = self._draft(scope, content, before, Floor.PREVIOUS, reason)
            return FreezeState(self._ledger.commit(change, draft), changed=True)

    def _vet(self, scope: str) -> None:
        """Raise `PolicySetInvalid` if what would come back does not fit the schemas of now."""
        with self._database.read() as connection:
            current = current_revision(connection, scope)
            before = current and _newest_unfrozen(connection, current)
        if before is not None:
            self._schemas.vet(scope, before.content_digest)

    def _is_so(self, connection: Connection, org: str, current: RevisionRecord, *, frozen: bool) -> bool:
        if not (frozen and is_freeze(connection, current)):
            return is_freeze(connection, current) == frozen
        # A freeze that hosts have dropped since freezes nothing.
        layer = find_layer(connection, org, current.scope)
        in_force = layer is not None and layer.in_force and layer.revision.serial == current.serial
        return in_force and not _can_be_rolled_back(connection, current)

    def _before(self, connection: Connection, scope: str, current: RevisionRecord | None) -> RevisionRecord:
        """Return the newest revision that is no freeze."""
        before = current and _newest_unfrozen(connection, current)
        if before is None:
            raise RevisionNotFound(
                f"there is nothing published for `{scope}` to return to; publish policies instead, with the current "
                "version as the expected one"
            )
        return before

    def _draft(
        self, scope: str, content: ContentToJudge, like: RevisionRecord | None, floor: Floor, reason: Reason
    ) -> BundleDraft:
        return BundleDraft(
            scope=scope,
            content=content,
            offline=manifest_of(like).offline if like else DEFAULT_OFFLINE,
            floor=floor,
            lifetime_s=self._default_lifetime_s,
            is_lifetime_asked=False,
            reason=reason,
        )


def _newest_unfrozen(
    connection: Connection, current: RevisionRecord, *, epoch: int | None = None
) -> RevisionRecord | None:
    """Return the newest revision before `current` that is no freeze, in one epoch if given; None if there is none."""
    before: RevisionRecord | None = current
    while before is not None and is_freeze(connection, before):
        before = find_other_content(connection, current.scope, before.content_digest, before=before.serial, epoch=epoch)
    return before


def _can_be_rolled_back(connection: Connection, freeze: RevisionRecord) -> bool:
    """Whether a rollback could go back to something that is no freeze."""
    other = _newest_unfrozen(connection, freeze, epoch=freeze.epoch)
    return other is not None and other.version >= freeze.min_version


def _content_of(connection: Connection, revision: RevisionRecord) -> StoredContent:
    reference = manifest_of(revision).content
    if reference is None:
        raise RuntimeError("no revision without content is published")
    return StoredContent(reference, lambda: read_content(connection, revision))

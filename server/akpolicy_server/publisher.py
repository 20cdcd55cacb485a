"""Publishing: one change of one scope, whole or not at all.

Rules, in this order:

1. The fields are in bounds, the policies fit the schema, and hosts would open the content. Whatever parses policies
   does so before the write transaction begins.
2. In one write transaction: the caller's key is in force still; the org exists; a repeat of an idempotency key gets the
   first answer, or is refused if it asks for something else; the current version is the expected one, if one is
   expected.
3. The next version is signed, judged as the hosts will judge it, and stored with its content.
4. After the commit it is announced. Hosts that miss the announcement find it by themselves.

Versions of a scope therefore rise by one without gaps, whoever publishes at the same time, and a refused request leaves
no trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy.bundle import DEFAULT_OFFLINE_MAX_AGE_S, Manifest, OfflineFloor
from akpolicy.engine.files import Findings, PolicyFile, examine, read_policies
from akpolicy.envelope import PayloadType
from akpolicy.errors import IdempotencyKeyReused, OrgNotFound, VersionConflict
from akpolicy.scope import org_of
from akpolicy.signing import sign_document
from akpolicy_server.access import Caller, check_publishable_scope, require_publisher
from akpolicy_server.api_keys import require_in_force
from akpolicy_server.judging import ProposedContent, judge_for_hosts, propose_content
from akpolicy_server.orgs import FIRST_EPOCH, require_platform_key
from akpolicy_server.store.orgs import find_org, org_exists, platform_key_id
from akpolicy_server.store.revisions import (
    IdempotencyClaim,
    RevisionRecord,
    current_revision,
    find_by_claim,
    insert_revision,
    store_blob,
)
from akpolicy_server.times import MICROSECONDS, now_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy.engine.schema import CedarSchema
    from akpolicy_server.orders import PublishOrder
    from akpolicy_server.store.engine import Database
    from akpolicy_server.vault import Vault


@dataclass(frozen=True, slots=True)
class Published:
    """A stored and announced revision; `repeated`: it answers a repeat of an earlier request."""

    revision: RevisionRecord
    repeated: bool


class Publisher:
    """Validates and publishes. Thread-safe; blocks."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        clock: Clock,
        schema: CedarSchema,
        *,
        announce: Callable[[str], None],
        default_lifetime_s: int,
    ) -> None:
        """`announce` is told each scope that changed, after the commit, on the publishing thread."""
        self._database = database
        self._vault = vault
        self._clock = clock
        self._schema = schema
        self._announce = announce
        self._default_lifetime_s = default_lifetime_s

    def validate(self, caller: Caller, scope: str, files: Sequence[PolicyFile]) -> Findings:
        """Say what is wrong with policies; raise `PermissionDenied`, `InvalidField` or `OrgNotFound`."""
        require_publisher(caller, check_publishable_scope(scope))
        with self._database.read() as connection:
            require_org_of(connection, scope)
        return examine(files, self._schema)

    def publish(self, caller: Caller, order: PublishOrder) -> Published:
        """Publish a scope's whole policy.

        Raises:
            PermissionDenied: the caller may not publish this scope.
            Unauthenticated: the caller's key was revoked meanwhile.
            InvalidField: a field out of bounds.
            PolicySetInvalid: the policies, with every problem.
            OrgNotFound: the scope's org does not exist.
            VersionConflict: the scope is at another version than expected.
            IdempotencyKeyReused: the idempotency key was used for something else.
            TrustError: hosts would refuse the result, for example because their root expired.

        """
        require_publisher(caller, check_publishable_scope(order.scope))
        order.check()
        policies = read_policies(order.files, self._schema)
        published = self._commit(caller, order, propose_content(policies))
        if not published.repeated:
            self._announce(order.scope)
        return published

    def _commit(self, caller: Caller, order: PublishOrder, content: ProposedContent) -> Published:
        claim = None
        if order.idempotency_key:
            claim = IdempotencyClaim(caller.org or "", order.idempotency_key, order.digest())
        with self._database.write() as connection:
            # The upload and the check took their time; a key revoked meanwhile must not publish any more.
            require_in_force(connection, caller)
            require_org_of(connection, order.scope)
            if claim is not None and (first := _first_answer(connection, claim)) is not None:
                return Published(first, repeated=True)
            current = current_revision(connection, order.scope)
            _check_expected(order, current.version if current else 0)
            revision = self._sign(connection, caller, order, content, current)
            judge_for_hosts(
                connection, order.scope, revision.envelope, content, revision.published_at_us // MICROSECONDS
            )
            store_blob(connection, revision.content_digest, content.blob)
            insert_revision(connection, revision, claim)
        return Published(revision, repeated=False)

    def _sign(
        self,
        connection: Connection,
        caller: Caller,
        order: PublishOrder,
        content: ProposedContent,
        current: RevisionRecord | None,
    ) -> RevisionRecord:
        """Return the scope's next revision."""
        published_at_us = now_us(self._clock)
        now = published_at_us // MICROSECONDS
        manifest = _manifest(order, content, current, now, now + (order.lifetime_s or self._default_lifetime_s))
        signer = self._vault.load(_signing_key_id(connection, order.scope))
        envelope = sign_document(PayloadType.BUNDLE, manifest.to_bytes(), [signer])
        return RevisionRecord(
            scope=manifest.scope,
            epoch=manifest.epoch,
            version=manifest.version,
            digest=envelope.digest(),
            envelope=envelope,
            min_version=manifest.min_version,
            published_at_us=published_at_us,
            expires_at=manifest.expires_at,
            published_by=caller.key_id,
            message=order.message,
            policy_count=content.reference.policies,
            content_digest=bytes.fromhex(content.reference.digest),
            content_size=content.reference.size,
        )


def require_org_of(connection: Connection, scope: str) -> None:
    """Raise `OrgNotFound` unless the org of the scope exists; `global` has none."""
    org = org_of(scope)
    if org is not None and not org_exists(connection, org):
        raise OrgNotFound(f"there is no org `{org}`")


def _first_answer(connection: Connection, claim: IdempotencyClaim) -> RevisionRecord | None:
    found = find_by_claim(connection, claim)
    if found is None:
        return None
    revision, request_digest = found
    if request_digest != claim.request_digest:
        raise IdempotencyKeyReused(
            f"the idempotency key `{claim.key}` was used for another request, which made version {revision.version} "
            f"of `{revision.scope}`; choose a new key for a new change"
        )
    return revision


def _check_expected(order: PublishOrder, current: int) -> None:
    if order.expected_version is not None and order.expected_version != current:
        raise VersionConflict(
            f"`{order.scope}` is at version {current}, not at {order.expected_version}; look at what changed, then "
            f"publish with expected version {current}",
            current=current,
        )


def _signing_key_id(connection: Connection, scope: str) -> str:
    org = org_of(scope)
    if org is None:
        return require_platform_key(platform_key_id(connection))
    record = find_org(connection, org)
    if record is None:
        raise OrgNotFound(f"there is no org `{org}`")
    return record.bundle_key_id


def _manifest(
    order: PublishOrder, content: ProposedContent, current: RevisionRecord | None, now: int, expires_at: int
) -> Manifest:
    version = current.version + 1 if current else 1
    # How far back a rollback may go: to the previous version, unless this one forbids it.
    min_version = version if order.no_rollback or current is None else current.version
    max_age_s = order.offline_max_age_s or DEFAULT_OFFLINE_MAX_AGE_S
    return Manifest(
        type="bundle",
        spec=1,
        scope=order.scope,
        epoch=current.epoch if current else FIRST_EPOCH,
        version=version,
        issued_at=now,
        not_before=now,
        expires_at=expires_at,
        min_version=min_version,
        offline=OfflineFloor(mode=order.offline_mode.value, max_age_s=max_age_s),
        content=content.reference,
    )

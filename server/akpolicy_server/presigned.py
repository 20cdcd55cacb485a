"""Bundles that are signed elsewhere: prepared here, brought back with signatures, published.

Rules:

- A prepared bundle is what publishing would sign, to the byte, and nothing is stored for it. A default lifetime ends
  with the keys that can sign; one that was asked for and cannot be kept is refused before anybody signs.
- What comes back is read before it is verified, because only the manifest says whose root verifies it; it has at most
  4,096 bytes. Nothing is done by it but looking up that root: the judge verifies the bytes before anything is stored.
- The policies in its content are checked as any others: the owners of keys may have signed what they did not get here.
- It must be the next version of its scope and epoch. The very document that is current changes nothing.
- Of `global` it is for the orgs of its epoch whose roots let its signers; the others are passed over, loudly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from akpolicy.allocator import give_back
from akpolicy.bundle import Manifest, open_content
from akpolicy.engine.files import cut
from akpolicy.engine.source import PolicyText
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import (
    EpochMismatch,
    ExpiryExceedsKey,
    InvalidField,
    KeyExpired,
    KeyNotAuthorised,
    KeyNotYetValid,
    RootExpired,
    RootNotFound,
    ThresholdNotMet,
    TrustError,
    UnknownKey,
    VersionConflict,
)
from akpolicy.scope import GLOBAL
from akpolicy.strict_json import load
from akpolicy.trust.bundles import check_may_bring_schema
from akpolicy.trust.signatures import check_kind
from akpolicy_server.access import Caller, check_publishable_scope, require_publisher
from akpolicy_server.api_keys import require_in_force
from akpolicy_server.audience import groups_of, require_scope
from akpolicy_server.claims import claim_of, first_answer
from akpolicy_server.drafts import Reason, place_in
from akpolicy_server.freeze import refuse_unaware
from akpolicy_server.judging import (
    ProposedContent,
    content_of,
    judge_as_host,
    propose_content,
    refuse_ungranted_content,
)
from akpolicy_server.ledger import SHORTEST_GLOBAL_LIFETIME_S, give
from akpolicy_server.orders import check_expected
from akpolicy_server.publisher import Published, bundle_of
from akpolicy_server.room import require_room
from akpolicy_server.signatory import quorum_end
from akpolicy_server.store.revisions import (
    RevisionKind,
    RevisionRecord,
    current_revision,
    insert_revision,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy_server.audience import Group, Member
    from akpolicy_server.drafts import BundleDraft
    from akpolicy_server.intake import Intake
    from akpolicy_server.ledger import Change, Ledger
    from akpolicy_server.orders import EnvelopeOrder, PublishOrder
    from akpolicy_server.replacements import Outlines
    from akpolicy_server.schemas import Footing, Schemas
    from akpolicy_server.store.engine import Database

# With these an org's hosts say that its root does not stand behind the signatures.
_ROOTS_ELSEWHERE = (UnknownKey, KeyNotAuthorised, ThresholdNotMet, KeyExpired, KeyNotYetValid, RootExpired)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A bundle without signatures, its content, and the newest root of an org whose keys must sign it."""

    envelope: SignedEnvelope
    content: bytes
    root: SignedEnvelope
    current_version: int


class Presigned:
    """Prepares bundles for foreign keys, and publishes them. Thread-safe; blocks."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        intake: Intake,
        schemas: Schemas,
        outlines: Outlines,
        clock: Clock,
        *,
        default_lifetime_s: int,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._intake = intake
        self._schemas = schemas
        self._outlines = outlines
        self._clock = clock
        self._default_lifetime_s = default_lifetime_s

    def prepare(self, caller: Caller, order: PublishOrder) -> Prepared:
        """Return what `Publisher.publish` would sign; raises as it does, but for what the missing signatures hide."""
        require_publisher(caller, check_publishable_scope(order.scope))
        order.check()
        footing = self._schemas.footing_of(order)
        content = propose_content(self._intake.read(cut(order.sources.drain()), footing.schemas), footing.own)
        self._schemas.check_layers(footing)
        draft = bundle_of(order, content, Reason(RevisionKind.PUBLISH), self._default_lifetime_s)
        with self._database.read() as connection:
            require_in_force(connection, caller)
            require_scope(connection, order.scope)
            current = current_revision(connection, order.scope)
            check_expected(order.scope, order.expected_version, current.version if current else 0)
            refuse_unaware(connection, current, order.expected_version)
            require_room(connection, order.scope)
            groups = groups_of(connection, order.scope)
            if not groups:
                raise RootNotFound("no org has a root yet that says who signs `global`; create an org first")
            now = int(self._clock.now())
            first, expires_at = _signable(draft, groups[-1], now)
            place = place_in(connection, draft.scope, groups[-1].epoch, now, expires_at)
        document = draft.document(place)
        unsigned = SignedEnvelope(document.payload_type, document.payload, ())
        return Prepared(unsigned, content.blob, first.envelope, current.version if current else 0)

    def require_reach(self, caller: Caller, envelope: SignedEnvelope) -> Manifest:
        """Return what the envelope claims to be; raise `PermissionDenied` if the caller may not publish that.

        Raises a `TrustError` for what is no manifest, and `InvalidField`.
        """
        check_kind(envelope, PayloadType.BUNDLE)
        manifest = load(envelope.payload, Manifest)
        require_publisher(caller, check_publishable_scope(manifest.scope))
        return manifest

    def publish(self, caller: Caller, order: EnvelopeOrder) -> Published:
        """Publish a bundle that was signed elsewhere.

        Raises `PermissionDenied`, `Unauthenticated`, `InvalidField`, `OrgNotFound`, `RootNotFound`, `VersionConflict`,
        `IdempotencyKeyReused`, `PolicySetInvalid`, or the `TrustError` with which hosts would refuse it.
        """
        order.check()
        manifest = self.require_reach(caller, order.envelope)
        return self._schemas.settled(lambda: self._publish(caller, order, manifest))

    def _publish(self, caller: Caller, order: EnvelopeOrder, manifest: Manifest) -> Published:
        content, footing = self._open(manifest, order.content)
        give_back(content.reference.size)
        digest = bytes.fromhex(content.reference.digest)
        claim = claim_of(caller, order.idempotency_key, order.digest())
        self._outlines.note(content)
        self._outlines.warm(self._database, manifest.scope)
        with self._ledger.change(caller, dry_run=order.dry_run) as change:
            require_scope(change.connection, manifest.scope)
            repeated = first_answer(change.connection, claim)
            current = current_revision(change.connection, manifest.scope, manifest.epoch)
            if repeated is None and current is not None and current.digest == order.envelope.digest():
                repeated = current
            if repeated is not None:
                return Published(repeated, repeated=True, dry_run=order.dry_run)
            members = _members(change.connection, manifest)
            _require_next(manifest, current)
            self._schemas.require(change.connection, manifest.scope, digest, footing)
            accepting = _accepting(members, manifest, order.envelope, content, change.now)
            content.store(change.connection)
            record = _record(manifest, order, content, caller, change)
            revision = give(change, insert_revision(change.connection, record, claim), accepting)
            replacements = self._outlines.compare(change.connection, revision, current)
        return Published(revision, repeated=False, dry_run=order.dry_run, replacements=replacements)

    def _open(self, manifest: Manifest, blob: bytes) -> tuple[ProposedContent, Footing]:
        if manifest.content is None:
            raise InvalidField(
                "the bundle deletes its scope, which this version does not publish; freeze the org instead"
            )
        opened = open_content(blob, manifest.content)
        own = opened.content.schema_text
        if own is not None:
            check_may_bring_schema(manifest.scope)
        with self._database.read() as connection:
            footing = self._schemas.footing(connection, manifest.scope, own)
        policies = [PolicyText(entry.id, entry.text) for entry in opened.content.policies]
        self._intake.check(policies, footing.schemas)
        self._schemas.check_layers(footing)
        self._schemas.note(bytes.fromhex(opened.digest), footing)
        return content_of(blob, manifest.content, policies), footing


def _signable(draft: BundleDraft, group: Group, now: int) -> tuple[Member, int]:
    """Return the first org whose keys can sign the bundle, and when it ends.

    Raises why they cannot, or not for so long, if none can; for one org's own scope that org must.
    """
    found: list[tuple[Member, int]] = []
    refusals: list[TrustError] = []
    for member in group.members:
        try:
            found.append((member, _signable_until(member, draft, now)))
        except TrustError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found[0][0], min(end for _, end in found)


def _signable_until(member: Member, draft: BundleDraft, now: int) -> int:
    role = draft.role(member.root)
    if role is None:
        raise KeyNotAuthorised(f"the root of `{member.org}` lets nobody sign {draft.duty.what}")
    end = quorum_end(member.root, role, now)
    if end is None or (draft.scope == GLOBAL and end < now + SHORTEST_GLOBAL_LIFETIME_S):
        raise KeyExpired(
            f"too few keys that may sign {draft.duty.what} by the root of `{member.org}` are valid long enough; "
            "publish a root that names new ones"
        )
    expires_at = now + draft.lifetime_s
    if end < expires_at and draft.is_lifetime_asked:
        raise ExpiryExceedsKey(
            f"the keys that sign {draft.duty.what} by the root of `{member.org}` end at {end}, and the bundle would "
            f"end at {expires_at}; ask for a shorter lifetime"
        )
    return min(end, expires_at)


def _members(connection: Connection, manifest: Manifest) -> tuple[Member, ...]:
    """Return the orgs whose roots are of the bundle's epoch."""
    groups = {group.epoch: group for group in groups_of(connection, manifest.scope)}
    for epoch in groups.keys() - {manifest.epoch}:
        if manifest.epoch in groups:
            log.warning("published without the orgs of another epoch", scope=manifest.scope, epoch=epoch)
    if manifest.epoch not in groups:
        raise EpochMismatch(
            f"bundle has epoch {manifest.epoch}; the roots that get `{manifest.scope}` have {sorted(groups) or 'none'}"
        )
    return groups[manifest.epoch].members


def _require_next(manifest: Manifest, current: RevisionRecord | None) -> None:
    version = current.version if current else 0
    if manifest.version != version + 1:
        raise VersionConflict(
            f"`{manifest.scope}` is at version {version} by now, and this bundle is version {manifest.version}; "
            "prepare it again and have it signed again",
            current=version,
        )


def _accepting(
    members: tuple[Member, ...], manifest: Manifest, envelope: SignedEnvelope, content: ProposedContent, now: int
) -> list[Member]:
    """Return the orgs whose hosts accept the bundle; raise the `TrustError` of the first if none do."""
    accepting: list[Member] = []
    refusals: list[TrustError] = []
    for member in members:
        try:
            verified = judge_as_host(member, envelope, now)
        except _ROOTS_ELSEWHERE as error:
            if manifest.scope != GLOBAL:
                raise
            log.warning("published without the hosts of an org", org=member.org, reason=str(error))
            refusals.append(error)
            continue
        refuse_ungranted_content(member, verified, content)
        accepting.append(member)
    if not accepting:
        raise refusals[0]
    return accepting


def _record(
    manifest: Manifest, order: EnvelopeOrder, content: ProposedContent, caller: Caller, change: Change
) -> RevisionRecord:
    return RevisionRecord(
        scope=manifest.scope,
        epoch=manifest.epoch,
        version=manifest.version,
        kind=RevisionKind.PUBLISH,
        digest=order.envelope.digest(),
        envelope=order.envelope,
        min_version=manifest.min_version,
        published_at_us=change.now_us,
        issued_at=manifest.issued_at,
        expires_at=manifest.expires_at,
        lifetime_s=manifest.expires_at - manifest.issued_at,
        published_by=caller.key_id,
        message=order.message,
        policy_count=content.reference.policies,
        content_digest=bytes.fromhex(content.reference.digest),
        content_size=content.reference.size,
    )

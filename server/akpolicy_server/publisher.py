"""Publishing policies: one change of one scope, signed by this server.

Rules, in this order:

1. The fields are in bounds, the policies fit the schemas that they have to, and so does every layer that would come
   under another schema (`schemas`); hosts would open the content. Whatever parses policies does so before the write
   transaction begins, which looks whether what was to be fit is still so.
2. In one write transaction (`ledger`): the caller's key is in force still; the org exists; a repeat of an idempotency
   key gets the first answer, or is refused if it asks for something else; the current version is the expected one, if
   one is expected.
3. The next version is signed, judged as the hosts will judge it, stored with its content, counted and announced.

Versions of a scope therefore rise by one without gaps, whoever publishes at the same time, and a refused request leaves
no trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy.allocator import give_back
from akpolicy.bundle import DEFAULT_OFFLINE_MAX_AGE_S, OfflineFloor
from akpolicy.engine.caveats import caveats_of
from akpolicy.engine.files import cut
from akpolicy_server.access import Caller, check_publishable_scope, require_publisher
from akpolicy_server.audience import require_scope
from akpolicy_server.claims import claim_of, first_answer
from akpolicy_server.drafts import BundleDraft, Floor, Reason
from akpolicy_server.freeze import refuse_unaware
from akpolicy_server.judging import propose_content
from akpolicy_server.orders import check_expected
from akpolicy_server.replacements import NO_REPLACEMENTS
from akpolicy_server.store.revisions import RevisionKind, current_revision
from akpolicy_server.submissions import Submission

if TYPE_CHECKING:
    from akpolicy.engine.files import Findings
    from akpolicy.errors import Problem
    from akpolicy_server.intake import Intake
    from akpolicy_server.judging import ContentToJudge, ProposedContent
    from akpolicy_server.ledger import Ledger
    from akpolicy_server.orders import PublishOrder, Sources
    from akpolicy_server.replacements import Outlines, Replacements
    from akpolicy_server.schemas import Footing, Schemas
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.revisions import RevisionRecord


@dataclass(frozen=True, slots=True)
class Published:
    """A stored and announced revision.

    `repeated`: it answers a repeat of an earlier request. `dry_run`: it is what would have been stored. A repeat says
    nothing of what it replaced. `warnings`: what may not do what its author means.
    """

    revision: RevisionRecord
    repeated: bool
    dry_run: bool = False
    replacements: Replacements = NO_REPLACEMENTS
    warnings: tuple[Problem, ...] = ()


class Publisher:
    """Validates and publishes. Thread-safe; blocks.

    `default_lifetime_s` is for bundles whose publisher does not say.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        intake: Intake,
        schemas: Schemas,
        outlines: Outlines,
        *,
        default_lifetime_s: int,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._intake = intake
        self._schemas = schemas
        self._outlines = outlines
        self._default_lifetime_s = default_lifetime_s

    def validate(self, caller: Caller, scope: str, sources: Sources) -> Findings:
        """Say what is wrong with policies; raise `PermissionDenied`, `InvalidField` or `OrgNotFound`."""
        require_publisher(caller, check_publishable_scope(scope))
        with self._database.read() as connection:
            require_scope(connection, scope)
            footing = self._schemas.footing(connection, scope, self._schemas.own(connection, scope))
        return self._intake.examine(cut(sources.drain()), footing.schemas)

    def publish(self, caller: Caller, order: PublishOrder) -> Published:
        """Publish a scope's whole policy.

        Raises:
            PermissionDenied: the caller may not publish this scope.
            Unauthenticated: the caller's key was revoked meanwhile.
            InvalidField: a field out of bounds.
            PolicySetInvalid: the policies, with every problem; or layers that the schema would not fit.
            SchemaInvalid: the schema cannot be read.
            SchemaUnsupported: hosts could not use the schema.
            OrgNotFound: the scope's org does not exist.
            RootNotFound: the org waits for its first root.
            VersionConflict: the scope is at another version than expected.
            OrgFrozen: the org is frozen, and no version is expected.
            IdempotencyKeyReused: the idempotency key was used for something else.
            SignersMissing: other keys must sign.
            TrustError: hosts would refuse the result, for example because their root expired.

        """
        require_publisher(caller, check_publishable_scope(order.scope))
        order.check()
        submission = Submission(order.sources)
        return self._schemas.settled(lambda: self._publish(caller, order, submission))

    def _publish(self, caller: Caller, order: PublishOrder, submission: Submission) -> Published:
        footing = self._schemas.footing_of(order)
        content, warnings = self._propose(submission, footing)
        give_back(content.reference.size)
        digest = bytes.fromhex(content.reference.digest)
        self._schemas.note(digest, footing)
        claim = claim_of(caller, order.idempotency_key, order.digest())
        reason = Reason(RevisionKind.PUBLISH, order.message, caller.key_id, claim)
        self._outlines.note(content)
        self._outlines.warm(self._database, order.scope)
        with self._ledger.change(caller, dry_run=order.dry_run) as change:
            require_scope(change.connection, order.scope)
            if (first := first_answer(change.connection, claim)) is not None:
                return Published(first, repeated=True, dry_run=order.dry_run, warnings=warnings)
            current = current_revision(change.connection, order.scope)
            check_expected(order.scope, order.expected_version, current.version if current else 0)
            refuse_unaware(change.connection, current, order.expected_version)
            self._schemas.require_wanted(change.connection, order, digest, footing)
            revision = self._ledger.commit(change, bundle_of(order, content, reason, self._default_lifetime_s))
            replacements = self._outlines.compare(change.connection, revision, current)
        return Published(revision, repeated=False, dry_run=order.dry_run, replacements=replacements, warnings=warnings)

    def _propose(self, submission: Submission, footing: Footing) -> tuple[ProposedContent, tuple[Problem, ...]]:
        """Return the content of the policies, and warnings; from here on they are nowhere else."""
        policies = self._intake.read(submission.findings(), footing.schemas)
        content = propose_content(policies, footing.own)
        self._schemas.check_layers(footing)
        submission.encoded(content)
        return content, caveats_of(policies)


def bundle_of(order: PublishOrder, content: ContentToJudge, reason: Reason, default_lifetime_s: int) -> BundleDraft:
    """Return the bundle that an order asks for."""
    max_age_s = order.offline_max_age_s or DEFAULT_OFFLINE_MAX_AGE_S
    return BundleDraft(
        scope=order.scope,
        content=content,
        offline=OfflineFloor(mode=order.offline_mode.value, max_age_s=max_age_s),
        floor=Floor.ITSELF if order.no_rollback else Floor.PREVIOUS,
        lifetime_s=order.lifetime_s or default_lifetime_s,
        is_lifetime_asked=order.lifetime_s > 0,
        reason=reason,
    )

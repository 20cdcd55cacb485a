"""A freeze, or its end, that is signed where the keys are: on the machine of whoever asks for it.

Rules:

- What the server prepared is held against what was asked for (`prepared`). A freeze has the one policy that forbids
  everything.
- The end of a freeze has the content of the newest version before it. That version and each one since must be a bundle
  of this very scope that one of these keys signed, and none may be missing: a server that leaves some out, or says that
  it rolled back, would have an older policy signed anew. Where that cannot be shown, people publish files instead.
- A freeze keeps the schema that the org has, its end the one of the content that comes back: other layers fit these.
- What is signed is shown first; at a terminal the end of a freeze is asked about, a freeze is not: it is urgent.
- Whether an org is frozen the server knows best: a freeze that hosts dropped with its keys, or that a rollback could
  end, is signed anew.
- An org for which nothing is published can be frozen: hosts would else decide by `global` alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from akpolicy.cli.output import print_note
from akpolicy.cli.prepared import FIRST_VERSION
from akpolicy.errors import BadAnswer, KeyNotAuthorised, ServerRefused, TrustError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.bundle import Manifest
    from akpolicy.client.publishing import PublishingClient
    from akpolicy.client.publishing_types import FreezeState, PublishTerms, RevisionContent
    from akpolicy.engine.files import PolicyFile
    from akpolicy.signing import Signer

    Policies = list[tuple[str, str]]

# How many versions are looked through for what was before a freeze.
MAX_LOOKED_BACK: Final = 1000

_BY_HAND: Final = (
    "publish its policies from their files with `akpolicy policy publish --unsigned --expected-version N`, where N is "
    "the current version"
)


def set_here(
    client: PublishingClient, org: str, frozen: bool, message: str, keys: Sequence[str], *, yes: bool
) -> FreezeState:
    """Freeze an org or end that, with a bundle that these keys sign.

    Raises `BadAnswer` for what the server should not have sent, `KeyNotAuthorised`, `UsageError`, and what opening a
    key and publishing raise.
    """
    from akpolicy.cli.policy_proposals import describe
    from akpolicy.cli.prepared import proposal_of
    from akpolicy.cli.signing import open_keys, require_complete, sign_own
    from akpolicy.client.publishing_types import FreezeState
    from akpolicy.scope import org_scope

    scope = org_scope(org)
    with open_keys(keys) as signers:
        current = _current(client, scope)
        if not frozen and current is not None and not _is_frozen(current):
            return FreezeState(current.revision, changed=False)
        policies, schema = _freeze_policies(), current.schema if current is not None else None
        if not frozen:
            policies, schema = _policies_before(client, scope, signers)
        terms = _terms(current, schema, frozen=frozen)
        proposal = proposal_of(client.prepare_bundle(scope, _files(policies), terms), scope, policies, terms)
        # A freeze is urgent, and there is nothing to ask about: it forbids.
        proposal = sign_own(proposal, signers, describe(proposal), yes=yes or frozen)
    require_complete(proposal)
    published = client.publish_envelope(proposal.envelope, _blob(policies, schema), message=message)
    return FreezeState(published.revision, changed=not published.repeated)


def _current(client: PublishingClient, scope: str) -> RevisionContent | None:
    """Return what is current for a scope, or None if nothing is."""
    try:
        return client.revision(scope)
    except ServerRefused as error:
        # If it is the org that is not there, whatever comes next is refused too.
        if error.status != "NOT_FOUND":
            raise
        return None


def _freeze_policies() -> Policies:
    from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID

    return [(FREEZE_POLICY_ID, FREEZE_POLICY)]


def _policies_before(client: PublishingClient, scope: str, signers: Sequence[Signer]) -> tuple[Policies, str | None]:
    """Return policies and schema of the newest version that is no freeze; these keys must have signed all since."""
    above: Manifest | None = None
    for info in client.history(scope, MAX_LOOKED_BACK):
        content = client.revision(scope, info.version)
        manifest = _signed_manifest(content, scope, signers)
        if above is not None and not _follow(manifest, above):
            raise KeyNotAuthorised(
                f"versions are missing between {manifest.version} and {above.version} of `{scope}`, so that nobody can "
                f"tell which was the last before the freeze; {_BY_HAND}"
            )
        if not _is_frozen(content):
            print_note(f"the policies of version {manifest.version}, {_issued(manifest)}, come back")
            return _pairs(content), content.schema
        above = manifest
    raise UsageError(f"none of the last {MAX_LOOKED_BACK} versions of `{scope}` is anything but a freeze; {_BY_HAND}")


def _signed_manifest(content: RevisionContent, scope: str, signers: Sequence[Signer]) -> Manifest:
    """Return what was signed as a revision; raise `KeyNotAuthorised` unless one of the signers signed this content."""
    from akpolicy.bundle import Manifest
    from akpolicy.envelope import PayloadType
    from akpolicy.strict_json import load
    from akpolicy.trust.signatures import check_kind, verified_signers

    version, envelope = content.revision.version, content.envelope
    try:
        check_kind(envelope, PayloadType.BUNDLE)
        verified_signers(envelope, {signer.public_key.key_id: signer.public_key for signer in signers})
        manifest = load(envelope.payload, Manifest)
    except TrustError as error:
        raise KeyNotAuthorised(
            f"none of these keys signed version {version} of `{scope}` as a bundle ({error.message}); look "
            f"through `akpolicy policy history` for the version before the freeze, and {_BY_HAND}"
        ) from error
    if manifest.scope != scope:
        raise BadAnswer(f"the server sent a bundle of `{manifest.scope}` as version {version} of `{scope}`")
    digest = hashlib.sha256(_blob(_pairs(content), content.schema)).hexdigest()
    if manifest.content is None or manifest.content.digest != digest:
        raise BadAnswer(f"the policies that the server sent are not those that were signed as version {version}")
    return manifest


def _follow(manifest: Manifest, above: Manifest) -> bool:
    """Whether `above` is the next version after `manifest`, in its epoch or as the first of a later one."""
    if manifest.epoch == above.epoch:
        return above.version == manifest.version + 1
    return manifest.epoch < above.epoch and above.version == FIRST_VERSION


def _issued(manifest: Manifest) -> str:
    from akpolicy.cli.clock import now
    from akpolicy.instants import instant

    return f"issued {instant(manifest.issued_at, now())}"


def _is_frozen(content: RevisionContent) -> bool:
    from akpolicy.freeze import is_freeze

    return is_freeze(_pairs(content))


def _pairs(content: RevisionContent) -> Policies:
    return [(policy.id, policy.text) for policy in content.policies]


def _blob(policies: Policies, schema: str | None) -> bytes:
    from akpolicy.bundle import encode_content

    return encode_content(policies, schema)


def _files(policies: Policies) -> list[PolicyFile]:
    """Return a file for each policy: one without an `@id` keeps its id as the file's name."""
    from akpolicy.engine.files import PolicyFile

    return [PolicyFile(f"{policy_id}.cedar", text.encode()) for policy_id, text in policies]


def _terms(current: RevisionContent | None, schema: str | None, *, frozen: bool) -> PublishTerms:
    """Return the terms: on top of what is current, with its offline floor, and with a schema or none."""
    from akpolicy.bundle import Manifest, OfflineMode
    from akpolicy.client.publishing_types import PublishTerms
    from akpolicy.strict_json import load

    if current is None:
        return PublishTerms(expected_version=0, no_rollback=frozen)
    floor = load((current.original or current.envelope).payload, Manifest).offline
    return PublishTerms(
        expected_version=current.revision.version,
        offline_mode=OfflineMode(floor.mode),
        offline_max_age_s=floor.max_age_s,
        no_rollback=frozen,
        schema=schema,
        default_schema=schema is None,
    )

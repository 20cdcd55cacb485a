"""What a server prepared to be signed elsewhere, held against what was asked for.

Rules:

- Who signs is the one that hosts believe, so the server is not taken at its word: the bundle is of the scope that was
  asked for, without signatures, with exactly these policies, and with the schema that was named or none.
- Its terms are those that were asked for, as far as they were: offline floor, lifetime, no rollback, version. A version
  that runs ahead, or a floor that is too low, would outlive the server that wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from akpolicy.bundle import Manifest
    from akpolicy.client.publishing_types import Prepared, PublishTerms
    from akpolicy.proposal import Proposal

FIRST_VERSION: Final = 1


def proposal_of(prepared: Prepared, scope: str, policies: Sequence[tuple[str, str]], terms: PublishTerms) -> Proposal:
    """Return what the server prepared as a proposal; raise `BadAnswer` if it is something else than was asked for.

    `policies` are `(id, text)`, in their order.
    """
    from akpolicy.bundle import Manifest, encode_content
    from akpolicy.errors import BadAnswer
    from akpolicy.proposal import make_proposal

    proposal = make_proposal(prepared.envelope, root=prepared.root, content=prepared.content)
    document = proposal.document
    if not isinstance(document, Manifest) or document.scope != scope or proposal.envelope.signatures:
        raise BadAnswer(f"the server prepared {proposal.subject}, which is not the unsigned bundle of `{scope}`")
    _check_schema(proposal, terms)
    if proposal.content is None or proposal.content.blob != encode_content(list(policies), terms.schema):
        raise BadAnswer(f"the server prepared other policies for `{scope}` than it was given; do not sign them")
    for wrong in _other_terms(document, terms, prepared.current_version):
        raise BadAnswer(f"the server prepared a bundle of `{scope}` {wrong}, which was not asked for; do not sign it")
    return proposal


def _check_schema(proposal: Proposal, terms: PublishTerms) -> None:
    """Raise `UsageError` for a schema that nobody here has seen: a signer has to know by what hosts decide."""
    from akpolicy.errors import UsageError

    text = proposal.content.content.schema_text if proposal.content else None
    if text is not None and terms.schema is None and not terms.default_schema:
        raise UsageError(
            "the org has a schema of its own, which its policies bring along; sign only one that you know: give it "
            "with `--schema FILE` (`akpolicy policy show --schema` prints it), or go back with `--default-schema`"
        )


def _other_terms(manifest: Manifest, terms: PublishTerms, current_version: int) -> list[str]:
    """Return what the manifest says other than the terms ask for."""
    wrong = []
    current = current_version if terms.expected_version is None else terms.expected_version
    # In a new epoch versions begin anew.
    if manifest.version not in (current + 1, FIRST_VERSION):
        wrong.append(f"with version {manifest.version} after version {current}")
    if terms.no_rollback and manifest.min_version != manifest.version:
        wrong.append(f"that lets a rollback go back to version {manifest.min_version}")
    if terms.offline_mode is not None and manifest.offline.mode != terms.offline_mode:
        wrong.append(f"with the offline mode `{manifest.offline.mode}`")
    if terms.offline_max_age_s and manifest.offline.max_age_s != terms.offline_max_age_s:
        wrong.append(f"for hosts that are offline for {manifest.offline.max_age_s} seconds")
    if terms.lifetime_s and manifest.expires_at - manifest.issued_at != terms.lifetime_s:
        wrong.append(f"with a lifetime of {manifest.expires_at - manifest.issued_at} seconds")
    return wrong

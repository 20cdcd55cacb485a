"""What becomes of an org's layers when its root changes.

Rules:

- A layer that the new root still supports stays as it is. One that it does not support, because its keys are gone or
  the epoch rose, is signed anew with the keys that the new root names, if this server holds them.
- What it cannot sign anew is dropped: hosts drop it as soon as they have the root. Only of an older epoch with keys in
  good order they keep it, until something of the new epoch is published.
- It is judged what hosts hold, as they judge it; to an org that had another revision so far, or none, as something new.
- So of `global`, of the org, and of each of its teams and users that was ever published.
- `global` is shared by all orgs of an epoch: if it has to be signed anew, all of them get the new version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from akpolicy.errors import AkpolicyError, KeyNotAuthorised, SignerError, SignersMissing, TrustError
from akpolicy.scope import GLOBAL, org_scope
from akpolicy_server.audience import member_of
from akpolicy_server.drafts import renewal_of
from akpolicy_server.judging import judge_as_host, refuse_ungranted_content
from akpolicy_server.ledger import give
from akpolicy_server.store.layers import Layer, drop_layer, find_layer, layers_of
from akpolicy_server.store.revisions import RevisionRecord, current_revision, read_content

if TYPE_CHECKING:
    from akpolicy_server.audience import Member
    from akpolicy_server.ledger import Change, Ledger

log = structlog.get_logger(__name__)


@dataclass
class Resigned:
    """The revisions that were signed anew, and why scopes were dropped."""

    revisions: list[RevisionRecord] = field(default_factory=list)
    dropped: dict[str, AkpolicyError] = field(default_factory=dict)


def resign(change: Change, ledger: Ledger, org: str) -> Resigned:
    """Bring an org's layers in line with its newest root, in the transaction that stored that root."""
    outcome = Resigned()
    layers = layers_of(change.connection, org)
    member = member_of(change.connection, org, layers)
    # The org's own may have been published for nobody yet, `global` for other orgs; all else was given to this org.
    for scope in sorted({GLOBAL, org_scope(org), *layers}):
        newest = current_revision(change.connection, scope)
        if newest is None:
            continue
        candidate = current_revision(change.connection, scope, member.root.epoch)
        is_current = candidate is not None and candidate.content_digest == newest.content_digest
        layer = layers.get(scope)
        if candidate is not None and is_current and _stands(change, member, candidate, layer):
            if layer is None or not layer.in_force or layer.revision.serial != candidate.serial:
                give(change, candidate, [member])
            continue
        try:
            outcome.revisions.append(_sign_anew(change, ledger, member, newest))
        except (TrustError, SignersMissing, SignerError) as error:
            log.warning("hosts of an org lose a layer", org=org, scope=scope, reason=str(error))
            outcome.dropped[scope] = error
            if layer is not None and not _stands(change, member, layer.revision, layer):
                drop_layer(change.connection, org, scope)
    return outcome


def _sign_anew(change: Change, ledger: Ledger, member: Member, newest: RevisionRecord) -> RevisionRecord:
    """Sign a scope anew for an org; raise why that cannot be, and then nobody gets a new version."""
    draft = renewal_of(newest, lambda: read_content(change.connection, newest))
    ledger.quorum(draft, member, change.now)
    touched = set(change.touched)
    try:
        with change.connection.begin_nested():
            revision = ledger.commit(change, draft, epochs={member.root.epoch})
            layer = find_layer(change.connection, member.org, draft.scope)
            if layer is None or layer.revision.serial != revision.serial:
                raise KeyNotAuthorised(f"what others would take of `{draft.scope}`, hosts of `{member.org}` would not")
    except (TrustError, SignersMissing, SignerError):
        change.touched = touched
        raise
    return revision


def _stands(change: Change, member: Member, revision: RevisionRecord, layer: Layer | None) -> bool:
    """Whether hosts that follow the newest root keep the revision, or take it if they do not have it."""
    is_held = layer is not None and layer.revision.serial == revision.serial
    content = renewal_of(revision, lambda: read_content(change.connection, revision)).content
    try:
        verified = judge_as_host(member, revision.envelope, change.now, original=revision.original, held=is_held)
        refuse_ungranted_content(member, verified, content)
    except TrustError:
        return False
    return True

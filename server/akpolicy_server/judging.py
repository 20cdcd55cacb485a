"""The server's own judgement: what no host of an org would accept is not published.

Rules:

- The judge is the hosts' (`akpolicy.trust.Judge`), given what a host that is up to date has: the org's anchor, its
  roots, and the marks of what is current in each of its scopes.
- A bundle of `org/X` is judged for X; one of `global` for every org, because each has a root of its own. An org whose
  root has expired cannot keep the others from a new `global`: its hosts deny everything until they get a new root.
- Content does not depend on the org. It is opened as hosts open it, once and before any transaction: parsing megabytes
  must not keep other writers waiting. It never brings a schema.
- A refusal names the org and keeps the judge's error as its class says it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from akpolicy.bundle import describe_content, encode_content, open_content
from akpolicy.engine.files import permit_ids
from akpolicy.errors import InvalidField, RootExpired, RootMissing, TrustError
from akpolicy.keys import AnchorSet, TrustAnchor
from akpolicy.limits import MAX_CONTENT_BYTES
from akpolicy.scope import GLOBAL, org_of, org_scope
from akpolicy.trust import Judge, Mark, refuse_ungranted
from akpolicy_server.store.orgs import OrgRecord, all_orgs, find_org, roots_after
from akpolicy_server.store.revisions import current_revision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from akpolicy.bundle import ContentReference
    from akpolicy.engine.source import PolicyText
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import VerifiedManifest


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProposedContent:
    """Content that hosts would open: the blob, what a manifest says of it, and the ids of its permits."""

    blob: bytes
    reference: ContentReference
    permits: tuple[str, ...]


def propose_content(policies: Sequence[PolicyText]) -> ProposedContent:
    """Return the content of a bundle with these policies; opens no transaction.

    Raises `InvalidField` if it is too large, and the `TrustError` or `PolicyError` with which hosts would refuse it.
    """
    blob = encode_content([(policy.id, policy.text) for policy in policies])
    if len(blob) > MAX_CONTENT_BYTES:
        raise InvalidField(f"the content would have {len(blob)} bytes, more than {MAX_CONTENT_BYTES}: split it")
    reference = describe_content(blob, len(policies))
    open_content(blob, reference)
    return ProposedContent(blob, reference, permit_ids(policies))


def judge_for_hosts(
    connection: Connection, scope: str, envelope: SignedEnvelope, content: ProposedContent, now: int
) -> None:
    """Raise the `TrustError` with which a host of any org that gets `scope` would refuse the bundle.

    `now` is in epoch seconds.
    """
    for record in _orgs(connection, org_of(scope)):
        try:
            judge = judge_of(connection, record, now)
        except RootExpired as error:
            if scope != GLOBAL:
                raise
            log.warning("published without the hosts of an org", org=record.org, error=str(error))
            continue
        verified = judge_manifest_as_host(judge, record.org, envelope, now)
        with _refusals_of(record.org):
            refuse_ungranted(verified, content.permits)


def judge_of(connection: Connection, record: OrgRecord, now: int) -> Judge:
    """Return the judge that an up-to-date host of the org has; raise a `TrustError` about its roots."""
    marks = {}
    for scope in (GLOBAL, org_scope(record.org)):
        current = current_revision(connection, scope)
        if current is not None:
            marks[scope] = Mark(current.epoch, current.version, current.digest.hex(), current.min_version)
    judge = Judge(record.org, AnchorSet((TrustAnchor(record.root_key),)), marks=marks)
    for root in roots_after(connection, record.org, 0):
        with _refusals_of(record.org):
            judge.trust_root(root.envelope, now)
    if judge.root is None:
        raise RootMissing(f"the org `{record.org}` has no root; restore the database from a backup")
    return judge


def judge_manifest_as_host(judge: Judge, org: str, envelope: SignedEnvelope, now: int) -> VerifiedManifest:
    """Judge a manifest; a refusal says whose hosts it would be."""
    with _refusals_of(org):
        return judge.judge_manifest(envelope, now)


@contextmanager
def _refusals_of(org: str) -> Iterator[None]:
    try:
        yield
    except TrustError as error:
        raise type(error)(f"hosts of the org `{org}` would refuse it: {error.message}") from error


def _orgs(connection: Connection, org: str | None) -> list[OrgRecord]:
    if org is None:
        return all_orgs(connection)
    record = find_org(connection, org)
    return [] if record is None else [record]

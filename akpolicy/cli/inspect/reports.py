"""From a recognised thing to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from akpolicy.bundle import describe_content, open_content
from akpolicy.cli.contents import check_enforceable, policies_in
from akpolicy.cli.document_text import MAX_SHOWN_POLICIES, Facts, document_facts, key_table, policy_lines
from akpolicy.cli.inspect.checks import check_signed
from akpolicy.cli.inspect.given import Given, with_parts
from akpolicy.cli.inspect.recognise import (
    Blob,
    Broken,
    Chain,
    IndexText,
    Payload,
    Revision,
    Signed,
    Thing,
    sha256,
)
from akpolicy.cli.inspect.report import Check, Report, failed, not_checked, ok
from akpolicy.cli.output import counted
from akpolicy.errors import PolicyError, TrustError
from akpolicy.proposal import Proposal
from akpolicy.proposal_progress import progress_of
from akpolicy.root import Root
from akpolicy.root_difference import differences, short_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.cli.inspect.recognise import SignedDocument


def report_on(thing: Thing, title: str, given: Given) -> Report:
    """Return what is to be said of a thing, judged by what was given and by what comes with it."""
    given = with_parts(given, thing)
    match thing:
        case Signed():
            report = signed_report(thing, title, given)
        case Payload(document):
            report = _payload_report(document, title, given)
        case Blob():
            report = blob_report(thing, title, is_named=sha256(thing.data) in given.named)
        case IndexText():
            report = index_report(thing, title, is_named=thing.index.digest in given.named)
        case Chain(roots):
            parts = [signed_report(root, f"root {n}", given) for n, root in enumerate(roots, 1)]
            report = Report(title, f"{counted(roots, 'root')}, oldest first", parts=parts)
        case Revision():
            report = _revision_report(thing, title, given)
        case Broken(problem):
            report = Report(title, "broken", checks=[failed(problem)])
        case Proposal():
            report = _proposal_report(thing, title, given)
    return report


def signed_report(signed: Signed, title: str, given: Given) -> Report:
    """Return the report of a signed document."""
    envelope = signed.envelope
    report = Report(title, f"signed {signed.kind}" if signed.document else signed.kind)
    report.facts = [("digest", envelope.digest().hex())]
    report.facts += document_facts(signed.document, given.now) if signed.document else []
    report.facts += [("signed by", short_id(entry.key_id)) for entry in envelope.signatures]
    report.body = _tables(signed.document, given)
    report.data = {
        "payload_type": envelope.payload_type,
        "digest": envelope.digest().hex(),
        "document": _plain(signed.document),
        "signatures": [entry.key_id for entry in envelope.signatures],
    }
    report.checks = list(check_signed(signed, given))
    return report


def blob_report(blob: Blob, title: str, *, is_named: bool) -> Report:
    """Return the report of a content blob; `is_named` if a manifest at hand names it."""
    digest = sha256(blob.data)
    policies = policies_in(blob.content)
    report = Report(title, "content")
    report.facts = [("digest", digest), ("size", f"{len(blob.data)} bytes"), ("policies", str(len(policies)))]
    schema = blob.content.schema_text
    if schema is not None:
        report.facts.append(("schema", f"its own, {len(schema)} characters, digest {sha256(schema.encode('utf-8'))}"))
    report.body = ["\n".join(policy_lines(policies)), *(policy.text for policy in policies[:MAX_SHOWN_POLICIES])]
    report.data = {
        "digest": digest,
        "size": len(blob.data),
        "policies": [{"id": policy.id, "text": policy.text} for policy in policies],
        "schema": schema,
    }
    try:
        open_content(blob.data, describe_content(blob.data, len(policies)))
        check_enforceable(blob.content)
    except (TrustError, PolicyError) as error:
        report.checks.append(failed(error))
    else:
        report.checks.append(ok("its policies can be enforced"))
    if not is_named:
        report.checks.append(not_checked("who signed it: no manifest names it here; inspect that, `--with` this"))
    return report


def index_report(thing: IndexText, title: str, *, is_named: bool) -> Report:
    """Return the report of an index; `is_named` if a heartbeat at hand names it."""
    index = thing.index
    report = Report(title, f"index of {counted(list(index.lines), 'scope')}")
    report.facts = [("digest", index.digest), ("size", f"{len(index.text)} bytes")]
    lines = [f"{line.scope}  version {line.version} (epoch {line.epoch})  {line.digest}" for line in index.in_order]
    report.body = ["\n".join(lines)] if lines else []
    report.data = {
        "digest": index.digest,
        "lines": [
            {"scope": line.scope, "epoch": line.epoch, "version": line.version, "digest": line.digest}
            for line in index.in_order
        ],
    }
    if not is_named:
        report.checks.append(not_checked("who signed it: no heartbeat names it here; inspect that, `--with` this"))
    return report


def _revision_report(revision: Revision, title: str, given: Given) -> Report:
    parts = [signed_report(revision.signed, "signed", given)]
    parts += [signed_report(revision.original, "original", given)] if revision.original else []
    parts.append(blob_report(revision.blob, "content", is_named=True))
    return Report(title, "published revision", parts=parts)


def _payload_report(document: SignedDocument, title: str, given: Given) -> Report:
    report = Report(title, f"{document.type}, without an envelope", facts=document_facts(document, given.now))
    report.body = _tables(document, given)
    report.data = {"document": _plain(document)}
    report.checks = [not_checked("who signed it: a payload alone has no signatures")]
    return report


def _proposal_report(proposal: Proposal, title: str, given: Given) -> Report:
    report = Report(title, f"proposal of {proposal.subject}", facts=_proposal_facts(proposal, given))
    if isinstance(proposal.document, Root):
        before = proposal.root.document if proposal.root else None
        report.body = ["\n".join(["changes", *(f"  {line}" for line in differences(before, proposal.document))])]
    report.body += _tables(proposal.document, given)
    report.data = {
        "document": _plain(proposal.document),
        "signatures": [entry.key_id for entry in proposal.envelope.signatures],
    }
    report.checks = list(_progress_checks(proposal, given, report.data))
    if proposal.root is not None:
        report.parts.append(signed_report(Signed(proposal.root.envelope, proposal.root.document), "root", given))
    if proposal.content is not None:
        blob = Blob(proposal.content.blob, proposal.content.content)
        report.parts.append(blob_report(blob, "content", is_named=True))
    return report


def _proposal_facts(proposal: Proposal, given: Given) -> Facts:
    facts = document_facts(proposal.document, given.now)
    return facts + [("signed by", short_id(entry.key_id)) for entry in proposal.envelope.signatures]


def _progress_checks(proposal: Proposal, given: Given, data: dict[str, Any]) -> Iterator[Check]:
    if proposal.content is not None:
        yield ok("its content is what the manifest names")
    try:
        progress = progress_of(proposal, given.now)
    except TrustError as error:
        yield failed(error)
        return
    data["progress"] = progress.to_json()
    for role in progress.roles:
        yield not_checked(str(role)) if role.missing else ok(str(role))
    if progress.refusal is not None:
        yield failed(progress.refusal)
    elif progress.complete:
        yield ok("hosts that trust the root in the file would accept it")


def _tables(document: SignedDocument | None, given: Given) -> list[str]:
    return [key_table(document, given.now)] if isinstance(document, Root) else []


def _plain(document: SignedDocument | None) -> dict[str, Any] | None:
    return None if document is None else document.model_dump(mode="json", by_alias=True)

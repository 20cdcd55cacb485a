"""Bundles whose keys are not on the server: prepared there, signed with `akpolicy policy sign`, published as signed.

What the server prepares is not taken at its word (`prepared`): its content must be what the engine here makes of the
files, on the terms that were asked for, and who signs sees what the manifest says before a key is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.files import read_policy_files
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import KeysOption, OutputOption, YesOption, examples
from akpolicy.cli.output import OutputFormat, print_note, printable, uploading
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.cli.connection import Connection
    from akpolicy.cli.publish import BundleTerms
    from akpolicy.client.publishing_types import Published
    from akpolicy.proposal import Proposal


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `policy`."""
    app.command(
        epilog=examples(
            "akpolicy policy sign acme.proposal.json --key file:bundle-1.pem",
            "akpolicy policy sign acme.proposal.json --key 'pkcs11:token=acme;object=bundle-2' --yes --output json",
        )
    )(grouped(sign))


def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proposal, as `publish --unsigned` wrote it.")],
    *,
    key: KeysOption = None,
    anchors: Anchors,
    yes: YesOption = False,
    output: OutputOption = "text",
) -> None:
    """Sign a bundle's proposal in place, after showing what it says and checking its policies, offline.

    Says who else must sign. Exit code 0 also if signatures are still missing.
    """
    from akpolicy.cli.proposal_files import read_proposal, require_bundle
    from akpolicy.cli.signing import sign_in_place

    proposal = read_proposal(file)
    require_bundle(file, proposal)
    check_policies_of(proposal)
    sign_in_place(file, proposal, key or [], describe(proposal), anchors=anchors, yes=yes, output=output)


def prepare(
    connection: Connection,
    scope: str,
    files: list[Path],
    terms: BundleTerms,
    message: str,
    out: Path,
    output: OutputFormat,
) -> None:
    """Have the server prepare a bundle and write it as a proposal."""
    from akpolicy.cli.prepared import proposal_of
    from akpolicy.cli.proposal_files import check_new, write_new
    from akpolicy.cli.signing import print_progress
    from akpolicy.engine.files import read_policies
    from akpolicy.engine.schema import load_default_schema

    if message:
        raise UsageError("`--message` belongs to the publish; give it with `policy publish --envelope`")
    agreed = terms.publish_terms(message="", idempotency_key="")
    sources = read_policy_files(files)
    check_new(out)
    size = sum(len(source.data) for source in sources)
    with connection.open() as client, uploading(f"preparing {scope}", size) as progress:
        prepared = client.prepare_bundle(scope, sources, agreed, progress)
    policies = [(policy.id, policy.text) for policy in read_policies(sources, load_default_schema())]
    proposal = proposal_of(prepared, scope, policies, agreed)
    write_new(out, proposal)
    print_note(printable(describe(proposal)))
    print_progress(out, proposal, output)


def publish_envelope(
    connection: Connection, file: Path, message: str, idempotency_key: str | None, *, dry_run: bool
) -> Published:
    """Publish a completed proposal; raise the `TrustError` with which a host would refuse it, before it is sent."""
    from akpolicy.cli.proposal_files import read_proposal, require_bundle
    from akpolicy.cli.publish import keep_key_on_failure, new_unless
    from akpolicy.cli.signing import require_complete

    proposal = read_proposal(file)
    require_bundle(file, proposal)
    require_complete(proposal)
    content = proposal.content.blob if proposal.content else b""
    chosen = new_unless(idempotency_key, dry_run=dry_run)
    with (
        connection.open() as client,
        keep_key_on_failure(chosen),
        uploading(f"publishing {proposal.subject}", len(content)),
    ):
        return client.publish_envelope(
            proposal.envelope, content, message=message, idempotency_key=chosen, dry_run=dry_run
        )


def check_policies_of(proposal: Proposal) -> None:
    """Raise `PolicySetInvalid` unless the engine accepts the policies, `KeyNotAuthorised` if they may not permit."""
    from akpolicy.cli.contents import check_enforceable
    from akpolicy.errors import KeyNotAuthorised

    if proposal.content is None:
        return
    permits = check_enforceable(proposal.content.content)
    if permits and any(not getattr(role.role, "grants", True) for role in proposal.signer_roles()):
        raise KeyNotAuthorised(f"policy `{permits[0]}` permits, but the signers of {proposal.subject} may only forbid")


def describe(proposal: Proposal) -> str:
    """Return what a bundle's proposal says, for the person who is asked to sign it."""
    from akpolicy.cli.clock import now
    from akpolicy.cli.contents import policies_in
    from akpolicy.cli.document_text import aligned, document_facts, policy_lines

    policies = policies_in(proposal.content.content) if proposal.content else []
    lines = [proposal.subject, aligned(document_facts(proposal.document, now())), *policy_lines(policies)]
    return "\n".join([*lines, "`akpolicy inspect` shows the policies themselves"])

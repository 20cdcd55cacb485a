"""Bundles whose keys are not on the server: prepared there, signed with `akpolicy policy sign`, published as signed.

What the server prepares is not taken at its word (`prepared`): its content must be what the engine here makes of the
files, on the terms that were asked for, and who signs sees what the manifest says before a key is used.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.files import read_policy_files
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import KeysOption, OutputOption, YesOption, examples
from akpolicy.cli.output import OutputFormat, print_note, print_warnings, printable, uploading
from akpolicy.cli.schema_options import SchemaOption
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.cli.connection import Connection
    from akpolicy.client.publishing_types import Published, PublishTerms
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
    schema: SchemaOption = None,
    yes: YesOption = False,
    output: OutputOption = "text",
) -> None:
    """Sign a bundle's proposal in place, after showing what it says and checking its policies, offline.

    The policies of a team or user are checked by the schema of their org, which --schema names if it has its own.

    Says who else must sign. Exit code 0 also if signatures are still missing.
    """
    from akpolicy.cli.proposal_files import read_proposal, require_bundle
    from akpolicy.cli.signing import sign_in_place

    proposal = read_proposal(file)
    require_bundle(file, proposal)
    check_policies_of(proposal, schema)
    sign_in_place(file, proposal, key or [], describe(proposal), anchors=anchors, yes=yes, output=output)


def prepare(
    connection: Connection,
    scope: str,
    files: list[Path],
    agreed: PublishTerms,
    out: Path,
    output: OutputFormat,
) -> None:
    """Have the server prepare a bundle and write it as a proposal."""
    from akpolicy.cli.prepared import proposal_of
    from akpolicy.cli.proposal_files import check_new, write_new
    from akpolicy.cli.signing import print_progress
    from akpolicy.engine.caveats import caveats_of
    from akpolicy.engine.files import cut_policies

    sources = read_policy_files(files)
    check_new(out)
    size = sum(len(source.data) for source in sources)
    with connection.open() as client, uploading(f"preparing {scope}", size) as progress:
        prepared = client.prepare_bundle(scope, sources, agreed, progress)
    policies = cut_policies(sources)
    proposal = proposal_of(prepared, scope, [(policy.id, policy.text) for policy in policies], agreed)
    write_new(out, proposal)
    print_warnings(caveats_of(policies))
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


def check_policies_of(proposal: Proposal, schema: Path | None = None) -> None:
    """Raise `PolicySetInvalid` unless the engine accepts the policies, `KeyNotAuthorised` if they may not permit.

    `schema` is the file of the org's own schema, for the policies of its teams and users.
    """
    from akpolicy.cli.contents import check_enforceable
    from akpolicy.cli.schema_options import read_schema_file
    from akpolicy.errors import KeyNotAuthorised
    from akpolicy.scope import is_member_scope

    if proposal.content is None:
        return
    if schema is not None and not is_member_scope(_scope_of(proposal)):
        raise UsageError("`--schema` is for the policies of a team or user; those of an org bring their schema along")
    text = None if schema is None else read_schema_file(schema)
    permits = check_enforceable(proposal.content.content, text)
    if permits and any(not getattr(role.role, "grants", True) for role in proposal.signer_roles()):
        raise KeyNotAuthorised(f"policy `{permits[0]}` permits, but the signers of {proposal.subject} may only forbid")


def describe(proposal: Proposal) -> str:
    """Return what a bundle's proposal says, for the person who is asked to sign it."""
    from akpolicy.cli.clock import now
    from akpolicy.cli.contents import policies_in
    from akpolicy.cli.document_text import aligned, document_facts, policy_lines

    policies = policies_in(proposal.content.content) if proposal.content else []
    facts = document_facts(proposal.document, now()) + _schema_facts(proposal)
    lines = [proposal.subject, aligned(facts), *policy_lines(policies)]
    return "\n".join([*lines, "`akpolicy inspect` shows the policies themselves"])


def _schema_facts(proposal: Proposal) -> list[tuple[str, str]]:
    """Return which schema a bundle's content brings, where that is said."""
    text = proposal.content.content.schema_text if proposal.content else None
    if text is None:
        return []
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return [("schema", f"its own, for all layers of the org: {len(text)} characters, SHA-256 {digest}")]


def _scope_of(proposal: Proposal) -> str:
    from akpolicy.bundle import Manifest

    return proposal.document.scope if isinstance(proposal.document, Manifest) else ""

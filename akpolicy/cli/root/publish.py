"""`akpolicy root publish`: a root with enough signatures, to the server and from there to the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import DryRunOption, OutputOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_note, print_text, printable, working

if TYPE_CHECKING:
    from akpolicy.client.publishing import PublishingClient
    from akpolicy.client.publishing_types import PublishedRoot
    from akpolicy.proposal import Proposal


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root publish acme-root-2.json --dry-run",
            "akpolicy root publish acme-root-2.json --output json | jq -r '.dropped[]'",
        )
    )(grouped(publish))


def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proposal with enough signatures.")],
    *,
    dry_run: DryRunOption = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Publish a signed root. It is judged here first, then by the server, both as hosts will.

    Prints which scopes the server signed anew because of it, and which ones hosts drop until they are published again.
    Publishing the newest root again changes nothing.
    """
    from akpolicy.cli.proposal_files import read_proposal, require_root
    from akpolicy.cli.signing import require_complete

    proposal = read_proposal(file)
    require_root(file, proposal)
    require_complete(proposal)
    with connection.open() as client:
        publish_root(client, proposal, output, dry_run=dry_run)


def publish_root(client: PublishingClient, proposal: Proposal, output: OutputFormat, *, dry_run: bool = False) -> None:
    """Publish a complete proposal of a root and print what follows from it."""
    with working(f"publishing {proposal.subject}"):
        published = client.publish_root(proposal.org, proposal.envelope, dry_run=dry_run)
    if output == "json":
        print_json(
            {**_as_json(published), "org": proposal.org, "dry_run": dry_run, "trust_anchors": _anchors(proposal)}
        )
        return
    print_text(printable(_as_text(published, proposal, dry_run=dry_run)))
    for scope in published.dropped:
        print_note(printable(f"no host enforces {scope} from then on: publish it again, {_republish(scope)}"))
    if _new_root_keys(proposal):
        print_note(_advice(proposal))


def _as_text(published: PublishedRoot, proposal: Proposal, *, dry_run: bool) -> str:
    verb = "would publish" if dry_run else "published"
    again = " (it was published before)" if published.repeated else ""
    lines = [f"{verb} root version {published.version} of {proposal.org}{again}"]
    lines += [f"signed anew  {entry.scope} version {entry.version}" for entry in published.signed_anew]
    lines += [f"dropped      {scope}" for scope in published.dropped]
    return "\n".join(lines)


def _as_json(published: PublishedRoot) -> dict[str, object]:
    anew = [
        {"scope": entry.scope, "epoch": entry.epoch, "version": entry.version, "digest": entry.digest}
        for entry in published.signed_anew
    ]
    return {
        "version": published.version,
        "repeated_request": published.repeated,
        "signed_anew": anew,
        "dropped": list(published.dropped),
    }


def _republish(scope: str) -> str:
    return f"`akpolicy policy publish FILES --scope {scope}`"


def _anchors(proposal: Proposal) -> list[str]:
    """Return the root keys of a proposed root as trust anchors."""
    [*_, own] = proposal.signer_roles()
    return [own.keys[key_id].anchor for key_id in own.role.keys]


def _advice(proposal: Proposal) -> str:
    [*_, own] = proposal.signer_roles()
    lines = [
        "hosts that run follow by themselves; for hosts that you set up from now on:",
        "  [enterprise.trust_anchors]",
    ]
    lines += ["  keys = [" + ", ".join(f'"{anchor}"' for anchor in _anchors(proposal)) + "]"]
    return "\n".join(lines + ([f"  threshold = {own.role.threshold}"] if own.role.threshold > 1 else []))


def _new_root_keys(proposal: Proposal) -> bool:
    roles = [set(role.role.keys) for role in proposal.signer_roles()]
    return len(roles) == 1 or roles[0] != roles[1]

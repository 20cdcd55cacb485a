"""`akpolicy root sign`: signatures for a root, by whoever holds a root key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import KeysOption, OutputOption, YesOption, examples

if TYPE_CHECKING:
    from akpolicy.proposal import Proposal


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root sign acme-root-2.json --key file:root.pem",
            "akpolicy root sign acme-root-2.json --key file:old.pem --key file:new.pem --yes",
            "akpolicy root sign acme-root-2.json --key file:root.pem --anchor ed25519:...",
        )
    )(grouped(sign))


def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proposal, as `root init` or `propose` wrote it.")],
    *,
    key: KeysOption = None,
    anchors: Anchors,
    yes: YesOption = False,
    output: OutputOption = "text",
) -> None:
    """Sign a root's proposal in place, after showing what it changes. No server is needed.

    Says who else must sign: for a next root enough keys of the root before it, and enough of its own. Exit code 0 also
    if signatures are still missing.
    """
    from akpolicy.cli.proposal_files import read_proposal, require_root
    from akpolicy.cli.signing import sign_in_place

    proposal = read_proposal(file)
    require_root(file, proposal)
    sign_in_place(file, proposal, key or [], describe(proposal), anchors=anchors, yes=yes, output=output)


def describe(proposal: Proposal) -> str:
    """Return what a root's proposal changes, for the person who is asked to sign it."""
    from akpolicy.root import Root
    from akpolicy.root_difference import differences

    before = proposal.root.document if proposal.root else None
    lines = differences(before, proposal.document) if isinstance(proposal.document, Root) else []
    return "\n".join([proposal.subject, *(f"  {line}" for line in lines)])

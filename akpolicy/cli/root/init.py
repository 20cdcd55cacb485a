"""`akpolicy root init`: an org whose root keys are in its owners' hands from the first root on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import print_note, printable, working
from akpolicy.errors import BadAnswer, UsageError
from akpolicy.limits import MAX_SIGNATURES

if TYPE_CHECKING:
    from akpolicy.client.publishing_types import CreatedOrg
    from akpolicy.keys import PublicKey
    from akpolicy.proposal import Proposal


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root init --org acme --root-key ed25519:... --out acme-root-1.json",
            "akpolicy root init --org acme --root-key ed25519:... --root-key ed25519:... --root-key ed25519:... \\",
            "    --threshold 2 --out acme-root-1.json",
        )
    )(grouped(init))


def init(
    *,
    org: Annotated[str, typer.Option(metavar="NAME", help="The new org.")],
    root_key: Annotated[
        list[str], typer.Option(metavar="ed25519:...", help="The public half of a root key. May be repeated.")
    ],
    threshold: Annotated[
        int, typer.Option(min=1, max=MAX_SIGNATURES, metavar="N", help="How many root keys must sign a root.")
    ] = 1,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the first root, to be signed.")],
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Create an org with your own root keys, and write its first root as a proposal.

    Nothing can be published for the org before `root sign` and `root publish`. Needs a platform admin's API key. Asking
    again with the same root keys gets the same root.
    """
    from akpolicy.cli.proposal_files import check_new, write_new
    from akpolicy.cli.root.changes import read_key
    from akpolicy.cli.root.sign import describe
    from akpolicy.cli.signing import print_progress

    keys = [read_key(text, "--root-key") for text in root_key]
    check_new(out)
    with connection.open() as client, working(f"creating {org}"):
        created = client.create_org(org, [key.anchor for key in keys], threshold)
    proposal = _asked_for(created, keys, threshold)
    write_new(out, proposal)
    print_note(printable(describe(proposal)))
    print_progress(out, proposal, output)


def _asked_for(created: CreatedOrg, keys: list[PublicKey], threshold: int) -> Proposal:
    """Return the first root as a proposal.

    Raises `UsageError` if it is published already, `BadAnswer` unless it has the root role that was asked for.
    """
    from akpolicy.proposal import make_proposal
    from akpolicy.root import Root

    if created.unsigned_root is None and created.root_version:
        raise UsageError(
            f"the org `{created.org}` has root version {created.root_version} already, from these root keys; look at "
            "it with `akpolicy root show`, and make the next one with `akpolicy root propose`"
        )
    if created.unsigned_root is None:
        raise BadAnswer("the server sent no root to be signed; is it an akpolicy server of this version?")
    proposal = make_proposal(created.unsigned_root)
    root = proposal.document
    asked = (created.org, 1, sorted(key.key_id for key in keys), threshold)
    if (
        not isinstance(root, Root)
        or (root.org, root.version, sorted(root.roles.root.keys), root.roles.root.threshold) != asked
    ):
        raise BadAnswer("the server sent another root than the one that was asked for; do not sign it")
    return proposal

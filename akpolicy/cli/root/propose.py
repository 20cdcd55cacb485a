"""`akpolicy root propose`: the next root of an org, to be signed by those who hold its root keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akpolicy.cli.anchors import Belief
from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import print_note, printable
from akpolicy.cli.root.changes import RootChanges
from akpolicy.cli.root.making import RootLife, next_proposal


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root propose --org acme --anchor ed25519:... --out acme-root-2.json",
            "akpolicy root propose --org acme --anchor ed25519:... --new-online-key bundle --replace --out r.json",
            "akpolicy root propose --org acme --anchor ed25519:... --add-key root=ed25519:... \\",
            "    --threshold root=2 --out r.json",
            "akpolicy root propose --org acme --anchor ed25519:... --add-key bundle:org/acme/team/red=ed25519:... \\",
            "    --grants org/acme/team/red=no --out r.json",
            "akpolicy root propose --org acme --anchor ed25519:... --revoke 0123456789ab --expires 90d --out r.json",
        )
    )(grouped(propose))


def propose(
    *,
    org: Annotated[str, typer.Option(metavar="NAME", help="The org.")],
    changes: RootChanges,
    life: RootLife,
    belief: Belief,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the proposal.")],
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Write the next root as a proposal: the newest one with your changes.

    The way from the anchor to the newest root is verified as a host does. Without changes, the next root only lives
    longer. Roles are root, heartbeat, bundle and rollback (of the org), bundle:global, bundle:org/NAME/team/TEAM and
    the like. Options that take a value may be repeated.
    """
    from akpolicy.cli.proposal_files import check_new, write_new
    from akpolicy.cli.root.fetch import newest_root
    from akpolicy.cli.root.sign import describe
    from akpolicy.cli.signing import print_progress

    changes.check()
    life.check()
    anchors = belief.chosen()
    check_new(out)
    with connection.open() as client:
        current = newest_root(client, org, anchors)
        proposal = next_proposal(client, current, life, lambda new_key: changes.changes(current.document, new_key))
    write_new(out, proposal)
    print_note(printable(describe(proposal)))
    print_progress(out, proposal, output)

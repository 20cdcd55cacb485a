"""`akpolicy org`: the orgs of a policy server."""

from __future__ import annotations

from typing import Annotated

import typer

from akpolicy.cli import freeze
from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import (
    OutputOption,
    examples,
)
from akpolicy.cli.output import print_json, print_text, working

app = typer.Typer(help="Manage orgs.", no_args_is_help=True)
freeze.add_to(app)


@app.command(
    epilog=examples("akpolicy org create acme", "akpolicy org create acme --output json | jq -r .trust_anchor")
)
@grouped
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 63 of A-Z a-z 0-9 _ -.")],
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Create an org with its keys, and print the trust anchor for its sidecars.

    Needs a platform admin's API key.
    """
    with connection.open() as client, working("creating"):
        created = client.create_org(name)
    if output == "json":
        print_json(created.to_json())
    else:
        print_text(
            f"org           {created.org}\ntrust anchor  {created.trust_anchor}\nroot version  {created.root_version}"
        )

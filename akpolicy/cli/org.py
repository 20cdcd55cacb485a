"""`akpolicy org`: the orgs of a policy server."""

from __future__ import annotations

from typing import Annotated

import typer

from akpolicy.cli.connection import connect
from akpolicy.cli.options import (
    ApiKeyFileOption,
    CaFileOption,
    ClientCertFileOption,
    ClientKeyFileOption,
    OutputOption,
    ServerOption,
    examples,
)
from akpolicy.cli.output import print_json, print_text, working

app = typer.Typer(help="Manage orgs.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `create` a command of its own; a group of one command would become that command."""


@app.command(
    epilog=examples("akpolicy org create acme", "akpolicy org create acme --output json | jq -r .trust_anchor")
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 63 of A-Z a-z 0-9 _ -.")],
    server: ServerOption = None,
    api_key_file: ApiKeyFileOption = None,
    ca_file: CaFileOption = None,
    client_cert_file: ClientCertFileOption = None,
    client_key_file: ClientKeyFileOption = None,
    output: OutputOption = "text",
) -> None:
    """Create an org with its keys, and print the trust anchor for its sidecars.

    Needs a platform admin's API key.
    """
    with connect(server, api_key_file, ca_file, client_cert_file, client_key_file) as client, working("creating"):
        created = client.create_org(name)
    if output == "json":
        print_json(created.to_json())
    else:
        print_text(
            f"org           {created.org}\ntrust anchor  {created.trust_anchor}\nroot version  {created.root_version}"
        )

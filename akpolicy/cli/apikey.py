"""`akpolicy apikey`: who may talk to a policy server."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import (
    OutputOption,
    examples,
)
from akpolicy.cli.output import print_json, print_note, print_text, working
from akpolicy.errors import UsageError

app = typer.Typer(help="Manage API keys.", no_args_is_help=True)

Role = Literal["admin", "publisher", "host"]


@app.command(
    epilog=examples(
        "akpolicy apikey create --org acme --role publisher",
        "akpolicy apikey create --org acme --role host --host-id build-7",
    )
)
@grouped
def create(
    *,
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    org: Annotated[str, typer.Option(metavar="NAME", help="The org that it belongs to.")] = "",
    platform: Annotated[bool, typer.Option("--platform", help="A key of the platform, beyond all orgs.")] = False,
    host_id: Annotated[str, typer.Option(metavar="ID", help="For the role host: the one host it speaks for.")] = "",
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Create an API key and print its secret, once: the server keeps only a hash.

    Needs an admin's API key.
    """
    if (role == "host") != bool(host_id):
        raise UsageError("a key with the role host needs `--host-id ID`, and no other key has one")
    if platform == bool(org):
        raise UsageError("say whose key it is: either `--org NAME` or `--platform`")
    with connection.open() as client, working("creating"):
        created = client.create_api_key(org=org, role=role, host_id=host_id, description=description)
    if output == "json":
        print_json({"key_id": created.key_id, "secret": created.secret})
    else:
        print_text(f"key id  {created.key_id}\nsecret  {created.secret}")
        print_note("keep the secret now: it is not shown again")


@app.command(epilog=examples("akpolicy apikey revoke 0123456789abcdef"))
@grouped
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's public id.")],
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Revoke an API key at once and for good; streams that it opened end."""
    from akpolicy.client.publishing_types import rfc3339

    key_id = _without_secret(key_id)
    with connection.open() as client, working("revoking"):
        revoked_at = rfc3339(client.revoke_api_key(key_id))
    if output == "json":
        print_json({"key_id": key_id, "revoked_at": revoked_at})
    else:
        print_text(f"revoked  {key_id}  since {revoked_at}")


def _without_secret(text: str) -> str:
    """Return the id of a key that was given whole (`akp_<id>_<secret>`): the secret must not travel."""
    prefix, _, rest = text.partition("_")
    return rest.partition("_")[0] if prefix == "akp" else text

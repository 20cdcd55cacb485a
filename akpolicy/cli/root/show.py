"""`akpolicy root show`: the newest root of an org, and who may sign what by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import print_json, print_note, print_text, printable, working

if TYPE_CHECKING:
    from akpolicy.trust import TrustedRoot


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root show --org acme --anchor ed25519:...",
            "akpolicy root show --org acme --output json | jq -r '.keys[] | select(.roles == [\"root\"]) | .key_id'",
            "akpolicy root show --org acme --output json > acme-roots.json",
        )
    )(grouped(show))


def show(
    *,
    org: Annotated[str, typer.Option(metavar="NAME", help="The org.")],
    anchors: Anchors,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Print the newest root: its roles, and its keys with validity and revocation.

    With --anchor the way to it is verified. JSON has all roots of the org besides, as `akpolicy inspect --root` takes
    them.
    """
    from akpolicy.cli.clock import now
    from akpolicy.root_chain import follow

    with connection.open() as client, working(f"fetching the roots of {org}"):
        roots = [root.envelope for root in client.roots(org)]
    newest = follow(org, roots, anchors.parsed() if anchors.given else None, now())
    if output == "json":
        chain = [envelope.to_dsse_json() for envelope in roots]
        print_json({**root_json(newest), "verified": anchors.given, "chain": chain})
        return
    print_text(printable(root_text(newest, now())))
    if not anchors.given:
        print_note("not verified: this is what the server says; give `--anchor ed25519:...`")


def root_text(root: TrustedRoot, now: float) -> str:
    """Return a root for people."""
    from akpolicy.cli.document_text import aligned, key_table, root_facts

    document = root.document
    anchors = [("anchor", root.keys[key_id].anchor) for key_id in document.roles.root.keys]
    return f"{aligned([*root_facts(document, now), *anchors])}\n\n{key_table(document, now)}"


def root_json(root: TrustedRoot) -> dict[str, object]:
    """Return a root as plain values; times are RFC 3339."""
    from akpolicy.instants import rfc3339_of
    from akpolicy.root_draft import roles_of

    document, roles = root.document, roles_of(root.document)
    return {
        "org": document.org,
        "version": document.version,
        "epoch": document.epoch,
        "digest": root.digest,
        "issued_at": rfc3339_of(document.issued_at),
        "expires_at": rfc3339_of(document.expires_at),
        "min_sidecar": document.min_sidecar,
        "trust_anchors": [root.keys[key_id].anchor for key_id in document.roles.root.keys],
        "roles": [
            {
                "role": str(name),
                "threshold": role.threshold,
                "keys": list(role.keys),
                "grants": getattr(role, "grants", True),
            }
            for name, role in roles.items()
        ],
        "keys": [
            {
                "key_id": key_id,
                "public_key": root.keys[key_id].anchor,
                "roles": [str(name) for name, role in roles.items() if key_id in role.keys],
                "valid_from": rfc3339_of(entry.valid_from),
                "valid_until": rfc3339_of(entry.valid_until),
            }
            for key_id, entry in document.keys.items()
        ],
        "revoked": {key_id: rfc3339_of(since) for key_id, since in document.revoked.items()},
        "envelope": root.envelope.to_dsse_json(),
    }

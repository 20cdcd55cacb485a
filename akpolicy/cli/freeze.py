"""`akpolicy org freeze` and `unfreeze`: every host of an org denies everything, until that is ended.

Rules:

- The server does it if it holds the keys of the org's bundles. If not, and keys are given here, the same bundle is
  prepared there, signed here (`freeze_here`) and published: one command either way.
- Asking for what is so already changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import KeysOption, MessageOption, OutputOption, YesOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_note, print_text, printable, working
from akpolicy.errors import ServerRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.client.publishing_types import FreezeState

OrgArgument = Annotated[str, typer.Argument(metavar="ORG", help="The org.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `org`."""
    app.command(
        epilog=examples(
            "akpolicy org freeze acme --message 'agent credentials leaked'",
            "akpolicy org freeze acme --key file:bundle.pem",
        )
    )(grouped(freeze))
    app.command(
        epilog=examples(
            "akpolicy org unfreeze acme --message 'credentials replaced'",
            "akpolicy org unfreeze acme --key file:bundle.pem --output json",
        )
    )(grouped(unfreeze))


def freeze(
    org: OrgArgument,
    *,
    message: MessageOption = "",
    key: KeysOption = None,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Make every host of an org deny everything, in its next version. No rollback goes behind it.

    With --key, the bundle is signed here if the server lacks the keys. An org that is frozen stays so.
    """
    _set(connection, org, True, message, key or [], output)


def unfreeze(
    org: OrgArgument,
    *,
    message: MessageOption = "",
    key: KeysOption = None,
    yes: YesOption = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """End a freeze: publish the policies from before it as the next version.

    With --key, the bundle is signed here if the server lacks the keys, after showing what comes back. An org that is
    not frozen stays so.
    """
    _set(connection, org, False, message, key or [], output, yes=yes)


def _set(
    connection: Connection,
    org: str,
    frozen: bool,
    message: str,
    keys: Sequence[str],
    output: OutputFormat,
    *,
    yes: bool = False,
) -> None:
    from akpolicy.cli.freeze_here import set_here

    with connection.open() as client:
        try:
            with working(f"{'freezing' if frozen else 'unfreezing'} {org}"):
                state = client.set_freeze(org, frozen, message)
        except ServerRefused as error:
            if error.status != "FAILED_PRECONDITION" or not keys:
                if error.status == "FAILED_PRECONDITION":
                    print_note("if the server lacks the keys, give yours: `--key URI`")
                raise
            print_note(printable(f"{error}; signing here"))
            state = set_here(client, org, frozen, message, keys, yes=yes)
    _print_state(state, org, frozen, output)


def _print_state(state: FreezeState, org: str, frozen: bool, output: OutputFormat) -> None:
    if output == "json":
        print_json({"org": org, "frozen": frozen, "changed": state.changed, "revision": state.revision.to_json()})
        return
    what = "frozen: every host denies everything" if frozen else "not frozen"
    since = "" if state.changed else " already"
    print_text(f"{org} is{since} {what}\nversion  {state.revision.version}\ndigest   {state.revision.digest}")

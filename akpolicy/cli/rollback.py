"""`akpolicy policy rollback`: back to an earlier content, in one command."""

from __future__ import annotations

from typing import Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import (
    DryRunOption,
    IdempotencyKeyOption,
    MessageOption,
    OutputOption,
    examples,
)
from akpolicy.cli.output import working
from akpolicy.cli.publish import keep_key_on_failure, new_unless, print_published
from akpolicy.cli.scope_choice import ScopeChoice
from akpolicy.limits import MAX_JSON_INT


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `policy`."""
    app.command(
        epilog=examples(
            "akpolicy policy rollback --org acme --message 'version 8 locked everybody out'",
            "akpolicy policy rollback --org acme --to 5 --expected-version 8",
            "akpolicy policy rollback --scope global --dry-run",
        )
    )(grouped(rollback))


def rollback(
    *,
    target: ScopeChoice,
    to: Annotated[
        int,
        typer.Option(
            "--to",
            min=0,
            max=MAX_JSON_INT,
            metavar="N",
            help="The version to restore; 0 is the one before this content.",
        ),
    ] = 0,
    expected_version: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_JSON_INT, metavar="N", help="Roll back only if this is the current version."),
    ] = None,
    message: MessageOption = "",
    idempotency_key: IdempotencyKeyOption = None,
    dry_run: DryRunOption = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Publish a new version with the content of an earlier one, signed by the server's rollback key.

    Hosts refuse what the current version forbids to go back to (`min_version` in `policy history`).
    """
    chosen = target.chosen()
    key = new_unless(idempotency_key, dry_run=dry_run)
    with connection.open() as client, keep_key_on_failure(key), working(f"rolling back {chosen}"):
        published = client.rollback(
            chosen,
            to,
            expected_version=expected_version,
            message=message,
            idempotency_key=key,
            dry_run=dry_run,
        )
    print_published(published, output)

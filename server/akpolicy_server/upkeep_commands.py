"""Commands that look after a server's database: `akpolicy-server backup`, `restore` and `prune`.

They are typed at the machine, as the server's user, and need no API key.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.clock import SystemClock
from akpolicy.errors import UsageError
from akpolicy.instants import rfc3339_of
from akpolicy_server.command_line import Output, errors_for_people
from akpolicy_server.settings import ServerSettings

if TYPE_CHECKING:
    from akpolicy_server.restoring import Restored

BACKUP_EXAMPLES: Final = """
Examples:

  akpolicy-server backup --config /var/lib/akpolicy-server/server.toml /backup/akpolicy-monday.sqlite3
"""

RESTORE_EXAMPLES: Final = """
Examples:

  akpolicy-server restore --config /var/lib/akpolicy-server/server.toml /backup/akpolicy-monday.sqlite3
"""

PRUNE_EXAMPLES: Final = """
Examples:

  akpolicy-server prune --config /var/lib/akpolicy-server/server.toml --dry-run

  akpolicy-server prune --config /var/lib/akpolicy-server/server.toml
"""

Config = Annotated[Path, typer.Option(help="Settings file (TOML).")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command, examples in ((backup, BACKUP_EXAMPLES), (restore, RESTORE_EXAMPLES), (prune, PRUNE_EXAMPLES)):
        app.command(epilog=examples)(command)


def backup(
    file: Annotated[Path, typer.Argument(help="A new file; one that is there is not replaced.")],
    config: Config,
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TEXT,
) -> None:
    """Copy the database to a new file (0600), whether or not the server runs, and check the copy.

    It has all that is published and every API key's hash, and no signing key: keep `data/keys` too, encrypted.
    """
    from akpolicy_server.database_file import copy_database, sqlite_file  # noqa: PLC0415 - only where it is needed
    from akpolicy_server.progress import ProgressLine  # noqa: PLC0415

    with errors_for_people(), closing(ProgressLine()) as progress:
        settings = ServerSettings.load(config, env=os.environ)
        source = sqlite_file(settings.server.resolved_database_url)
        size = copy_database(source, file.absolute(), progress, is_live=True)
    if output is Output.JSON:
        typer.echo(json.dumps({"file": str(file.absolute()), "bytes": size}))
    else:
        typer.echo(f"{file}: {size} bytes, checked")


def restore(
    file: Annotated[Path, typer.Argument(help="What `akpolicy-server backup` made.")],
    config: Config,
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TEXT,
) -> None:
    """Put a backup in place of the database, which is kept beside it. The server must not run.

    Hosts take nothing older than what they have: docs/operations/backup.md says how to go on.
    """
    from akpolicy_server.progress import ProgressLine  # noqa: PLC0415 - only where it is needed
    from akpolicy_server.restoring import restore as put_back  # noqa: PLC0415

    with errors_for_people(), closing(ProgressLine()) as progress:
        restored = put_back(ServerSettings.load(config, env=os.environ), file.absolute(), SystemClock(), progress)
    typer.echo(_as_json(restored) if output is Output.JSON else _as_text(restored))


def prune(
    config: Config,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would go.")] = False,
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TEXT,
) -> None:
    """Remove old revisions as [server.retention] says; the server may run, and does the same once a day.

    What hosts get, what a rollback could return to within the window, and what a host reports stays.
    """
    from akpolicy_server.pruning import Pruning  # noqa: PLC0415 - only where it is needed
    from akpolicy_server.store.engine import Database  # noqa: PLC0415

    with errors_for_people():
        server = ServerSettings.load(config, env=os.environ).server
        if not server.retention.days:
            raise UsageError("[server.retention] keeps everything; set `days` in it")
        with closing(Database(server.resolved_database_url)) as database:
            pruned = Pruning(database, server.retention, SystemClock()).once(dry_run=dry_run)
    if output is Output.JSON:
        typer.echo(json.dumps({**asdict(pruned), "dry_run": dry_run}))
    else:
        would = "would go" if dry_run else "gone"
        what = f"{pruned.revisions} revisions of {pruned.scopes} scopes {would}"
        typer.echo(f"{what}, {pruned.content_bytes} bytes of content")


def _as_json(restored: Restored) -> str:
    return json.dumps(
        {
            "database": str(restored.database),
            "kept": None if restored.kept is None else str(restored.kept),
            "orgs": restored.orgs,
            "last_published_at": restored.last_published_at,
        }
    )


def _as_text(restored: Restored) -> str:
    last = "never" if restored.last_published_at is None else rfc3339_of(restored.last_published_at)
    lines = [f"{restored.database}: {restored.orgs} orgs, last publish {last}"]
    if restored.kept is not None:
        lines.append(f"The database that was there is {restored.kept}.")
    lines.append("If anything was published since, hosts refuse what is here: raise the epoch of each org next.")
    return "\n".join(lines)

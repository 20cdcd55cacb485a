"""`akpolicy-server hosts`: refuse a host by its id, whatever it shows, and take that back.

The commands write into the server's database; servers that run look there with each sweep (`keep_alive_seconds`).
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.clock import SystemClock
from akpolicy.errors import StartupError
from akpolicy.instants import rfc3339_of
from akpolicy_server.command_line import Output, errors_for_people
from akpolicy_server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy_server.denied_hosts import DeniedHosts

DENY_EXAMPLES: Final = """
Examples:

  akpolicy-server hosts deny --config /var/lib/akpolicy-server/server.toml --org acme --host-id laptop-1 --reason stolen
"""
ALLOW_EXAMPLES: Final = """
Examples:

  akpolicy-server hosts allow --config /var/lib/akpolicy-server/server.toml --org acme --host-id laptop-1
"""
LIST_EXAMPLES: Final = """
Examples:

  akpolicy-server hosts denied --config /var/lib/akpolicy-server/server.toml --output json
"""

Config = Annotated[Path, typer.Option(help="Settings file (TOML).")]
Org = Annotated[str, typer.Option(help="The org that the host belongs to.")]
HostId = Annotated[str, typer.Option(help="The host's id, as its certificate or API key names it.")]

app = typer.Typer(help="Refuse hosts by their ids, whatever they show.", rich_markup_mode=None)


@app.command(epilog=DENY_EXAMPLES)
def deny(
    config: Config,
    org: Org,
    host_id: HostId,
    reason: Annotated[str, typer.Option(help="Why; shown by `hosts denied`.")] = "",
) -> None:
    """Refuse a host: its open streams end within one sweep, and no certificate or API key of it lets it in."""
    from akpolicy_server.store.hosts import HostKey  # noqa: PLC0415 - help must be quick

    with errors_for_people(), _opened(config) as hosts:
        record = hosts.deny(HostKey(org, host_id), reason)
    typer.echo(f"{record.org}/{record.host_id} is refused since {_instant(record.denied_at_us)}")


@app.command(epilog=ALLOW_EXAMPLES)
def allow(config: Config, org: Org, host_id: HostId) -> None:
    """Let a refused host in again, by whatever it shows."""
    from akpolicy_server.store.hosts import HostKey  # noqa: PLC0415 - help must be quick

    with errors_for_people(), _opened(config) as hosts:
        hosts.allow(HostKey(org, host_id))
    typer.echo(f"{org}/{host_id} is refused no more")


@app.command(epilog=LIST_EXAMPLES)
def denied(
    config: Config,
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TEXT,
) -> None:
    """List the hosts that are refused."""
    with errors_for_people(), _opened(config) as hosts:
        found = hosts.all()
    if output is Output.JSON:
        shown = [asdict(record) | {"denied_at": _instant(record.denied_at_us)} for record in found]
        typer.echo(json.dumps(shown, indent=2))
        return
    for record in found:
        typer.echo(f"{record.org}/{record.host_id}  {_instant(record.denied_at_us)}  {record.reason}".rstrip())


@contextmanager
def _opened(config: Path) -> Iterator[DeniedHosts]:
    """Open the database of a server that may be running; raise `ConfigError`, `StartupError` or `StoreUnavailable`."""
    from akpolicy_server.denied_hosts import DeniedHosts  # noqa: PLC0415 - help must be quick
    from akpolicy_server.store.engine import Database  # noqa: PLC0415
    from akpolicy_server.store.migrate import is_newest  # noqa: PLC0415

    section = ServerSettings.load(config, env=os.environ).server
    database = Database(section.resolved_database_url)
    try:
        with database.read() as connection:
            if not is_newest(connection):
                raise StartupError("the database is not of this version; start the server once, and try again")
        yield DeniedHosts(database, SystemClock())
    finally:
        database.close()


def _instant(at_us: int) -> str:
    from akpolicy_server.times import MICROSECONDS  # noqa: PLC0415 - help must be quick

    return rfc3339_of(at_us // MICROSECONDS)

"""The program `akpolicy-server`: options, exit codes, errors for people.

Exit codes: 0 done, or stopped as asked; 1 refused, or cannot start; 2 wrong options or configuration.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations when the program runs
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy import __version__
from akpolicy.addresses import HostPort
from akpolicy.allocator import CONNECTION_BUFFER_BYTES, map_large_blocks
from akpolicy.clock import SystemClock
from akpolicy.errors import UsageError
from akpolicy.signing import key_file_uri
from akpolicy.telemetry import configure_logging
from akpolicy_server import hosts_command
from akpolicy_server.command_line import EXIT_FAILED, Output, errors_for_people
from akpolicy_server.settings import ServerSettings
from akpolicy_server.upkeep_commands import add_to

if TYPE_CHECKING:
    from akpolicy_server.installation import Installation

PROGRAM: Final = "akpolicy-server"

EXAMPLES: Final = """
Examples:

  akpolicy-server init --dir /var/lib/akpolicy-server --org acme

  akpolicy-server --config /var/lib/akpolicy-server/server.toml

SIGTERM stops it; open streams are told to come back.
"""

INIT_EXAMPLES: Final = """
Examples:

  akpolicy-server init --dir ./server --org acme

  akpolicy-server init --dir ./server --org acme --org globex --output json

  akpolicy-server init --dir ./server --org acme --database-url postgresql://akpolicy@db.internal/akpolicy
"""

CHECK_EXAMPLES: Final = """
Examples:

  akpolicy-server check --config /var/lib/akpolicy-server/server.toml

  akpolicy-server check --config /var/lib/akpolicy-server/server.toml --strict --output json
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(hosts_command.app, name="hosts")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def server(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML), as `init` makes one.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write addresses and pid there as JSON once everything serves.")
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Publish, sign and distribute Cedar policies to the sidecars of many hosts."""
    if context.invoked_subcommand is not None:
        return
    with errors_for_people():
        if config is None:
            raise UsageError("--config is missing; make a configuration with `akpolicy-server init --dir DIR`")
        _run(config, ready_file)


def _run(config: Path, ready_file: Path | None) -> None:
    settings = ServerSettings.load(config, env=os.environ)
    configure_logging(settings.log.level, settings.log.format, PROGRAM)
    # gRPC's own lines on standard error would break the log's form; what matters is raised or logged here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Only now: what is wrong with the settings is said without loading everything.
    from akpolicy_server.app import run  # noqa: PLC0415

    map_large_blocks(CONNECTION_BUFFER_BYTES)
    asyncio.run(run(settings, SystemClock(), ready_file))


@app.command(epilog=INIT_EXAMPLES)
def init(
    directory: Annotated[Path, typer.Option("--dir", help="Where to put everything; made if it is not there.")],
    org: Annotated[list[str] | None, typer.Option(help="An org to create; may be given several times.")] = None,
    listen: Annotated[str, typer.Option(help="Address for sidecars and operators (loopback; port 0: any).")] = (
        "127.0.0.1:8180"
    ),
    metrics_listen: Annotated[str, typer.Option(help="Address for /metrics and health; empty for none.")] = (
        "127.0.0.1:8181"
    ),
    database_url: Annotated[
        str, typer.Option(help="An empty PostgreSQL database, `postgresql://...`; without it a file in the directory.")
    ] = "",
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TEXT,
) -> None:
    """Set up a server: configuration, database, keys, orgs and an admin's API key."""
    from akpolicy_server.installation import install  # noqa: PLC0415 - as in `_run`

    with errors_for_people():
        made = install(
            directory,
            tuple(org or ()),
            listen=_address("--listen", listen),
            metrics_listen=_address("--metrics-listen", metrics_listen) if metrics_listen else None,
            clock=SystemClock(),
            database_url=_postgresql_url(database_url),
        )
    typer.echo(_as_json(made) if output is Output.JSON else _as_text(made))


@app.command(epilog=CHECK_EXAMPLES)
def check(
    config: Annotated[Path, typer.Option(help="Settings file (TOML).")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is something to see to.")] = False,
    output: Annotated[Output, typer.Option(help="What to print.")] = Output.TEXT,
) -> None:
    """Look through configuration, database, keys and TLS files as a start would, and say what there is to see to.

    Changes nothing and makes no file; the server may be running. Exit code 1 if the server could not start, 2 if its
    configuration is wrong.
    """
    from akpolicy_server.checking import look_through  # noqa: PLC0415 - as in `_run`

    with errors_for_people():
        concerns = look_through(ServerSettings.load(config, env=os.environ), SystemClock())
    if output is Output.JSON:
        typer.echo(json.dumps([asdict(concern) for concern in concerns], indent=2))
    for concern in concerns if output is Output.TEXT else ():
        typer.echo(f"{concern.org or 'server'}: {concern.message}{f' (key {concern.key})' if concern.key else ''}")
    if output is Output.TEXT and not concerns:
        typer.echo("nothing to see to")
    if strict and concerns:
        raise typer.Exit(EXIT_FAILED)


def _address(option: str, text: str) -> HostPort:
    try:
        return HostPort.parse(text)
    except ValueError as error:
        raise UsageError(f"{option} `{text}` {error}") from None


def _postgresql_url(text: str) -> str:
    from akpolicy_server.store.postgresql import connection_info, is_url  # noqa: PLC0415 - as in `_run`

    if text and not is_url(text):
        raise UsageError("--database-url must begin with `postgresql://`; leave it out for a file in the directory")
    try:
        connection_info(text)
    except ValueError as error:
        raise UsageError(f"--database-url {error}") from None
    return text


def _as_json(made: Installation) -> str:
    orgs = [
        {
            "org": created.org,
            "trust_anchor": created.trust_anchor,
            "root_key_file": str(made.root_key_files[created.org]),
        }
        for created in made.orgs
    ]
    return json.dumps(
        {"config": str(made.config), "server": made.server, "admin_api_key": made.admin_api_key, "orgs": orgs}, indent=2
    )


def _as_text(made: Installation) -> str:
    lines = [
        f"Made {made.config} with database and keys beside it.",
        "",
        "Every key is 1-of-1, and the root keys lie on this machine too: who takes it can sign any policy.",
        "",
        "The platform admin's API key, shown only now:",
        "",
        f"  {made.admin_api_key}",
    ]
    for created in made.orgs:
        root_key = shlex.quote(key_file_uri(made.root_key_files[created.org]))
        lines += [
            "",
            f"For each sidecar of `{created.org}`, in its sidecar.toml:",
            "",
            "  [enterprise]",
            "  enabled = true",
            f'  policy_server = "{made.server}"',
            f'  org_id = "{created.org}"',
            '  api_key_env = "AKPOLICY_HOST_KEY"',
            "",
            "  [enterprise.trust_anchors]",
            f'  keys = ["{created.trust_anchor}"]',
            "",
            f"The root key of `{created.org}` is {made.root_key_files[created.org]}.",
            "Replace it by a key that is kept off this machine (the command makes one, in a file to take away):",
            "",
            f"  akpolicy root rotate --org {created.org} --key {root_key} --new-key-file {created.org}-root.pem",
        ]
    org = made.orgs[0].org if made.orgs else "ORG"
    lines += ["", "Next:", "", f"  akpolicy-server --config {shlex.quote(str(made.config))}"]
    lines += [f"  export AKPOLICY_SERVER={made.server} AKPOLICY_API_KEY={made.admin_api_key}"]
    lines += [] if made.orgs else [f"  akpolicy org create {org}"]
    lines += [f"  akpolicy apikey create --org {org} --role host --host-id HOST"]
    return "\n".join(lines)


add_to(app)


def main() -> None:
    """Run the program with the arguments of the command line."""
    app(prog_name=PROGRAM)


if __name__ == "__main__":
    main()

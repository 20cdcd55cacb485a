"""The program `akpolicy-sidecar`: options, exit codes, errors for people.

Exit codes: 0 stopped as asked (or not enabled), 1 cannot start, 2 wrong options or configuration.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when the program runs
from typing import Annotated

import structlog
import typer

from akpolicy import __version__
from akpolicy.allocator import map_large_blocks
from akpolicy.errors import AkpolicyError, ConfigError
from akpolicy.telemetry import configure_logging
from akpolicy_sidecar.settings import SidecarSettings

PROGRAM = "akpolicy-sidecar"
EXIT_FAILED = 1
EXIT_USAGE = 2

EXAMPLES = """
Examples:

  akpolicy-sidecar --config /etc/akpolicy/sidecar.toml

  AKPOLICY_HOST_KEY=... akpolicy-sidecar --config sidecar.toml --ready-file /run/akpolicy/ready.json

  akpolicy-sidecar --config /etc/akpolicy/sidecar.toml --take-over

--take-over replaces a sidecar that runs, without refusing a call.
SIGTERM stops it, SIGHUP reopens the audit log after a rotation.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
log = structlog.get_logger(__name__)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.command(epilog=EXAMPLES)
def sidecar(
    config: Annotated[Path, typer.Option(help="Settings file (TOML).")],
    ready_file: Annotated[
        Path | None, typer.Option(help="Write addresses and pid there as JSON once everything serves.")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace the sidecar that runs with this state directory, if one does.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Enforce signed policies on this host: verify, cache, and answer Authorize on a Unix socket."""
    try:
        _run(config, ready_file, take_over=take_over)
    except ConfigError as error:
        _fail(error, EXIT_USAGE)
    except AkpolicyError as error:
        _fail(error, EXIT_FAILED)


def _run(config: Path, ready_file: Path | None, *, take_over: bool) -> None:
    settings = SidecarSettings.load(config, env=os.environ)
    if not settings.enterprise.enabled:
        typer.echo(f"{PROGRAM}: [enterprise] enabled = false in `{config}`, so there is nothing to do")
        return
    configure_logging(settings.log.level, settings.log.format, PROGRAM)
    if settings.enterprise.jwks_url:
        log.warning("jwks_url is set, but verified identities are not available in this version; identities are stated")
    # gRPC's own lines on standard error would break the log's form; what matters is raised or logged here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Only now: what is wrong with the settings is said without loading everything.
    from akpolicy_sidecar.app import run  # noqa: PLC0415

    map_large_blocks()
    run(settings, ready_file, take_over=take_over)


def _fail(error: AkpolicyError, code: int) -> None:
    typer.echo(f"error: {error}", err=True)
    sys.exit(code)


def main() -> None:
    """Run the program with the arguments of the command line."""
    app(prog_name=PROGRAM)


if __name__ == "__main__":
    main()

"""`akpolicy`, the operator's command line.

Rules:

- Exit codes: 0 done, 1 refused or failed, 2 wrong usage (a wrong option, file name or setting).
- The answer goes to standard output, everything else to standard error. An expected error is one line that begins with
  `error:`, with the single mistakes below it; a traceback means a bug.
- `--output json` prints what a program can read, wherever a person would pipe it.
- Secrets come from the environment or from files, never from options: options are visible to every user of a machine.
- Commands import what they need when they run, so that help and completion are quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from akpolicy import __version__
from akpolicy.cli.output import EXIT_FAILED, EXIT_USAGE, print_error
from akpolicy.errors import AkpolicyError, ConfigError, UsageError

# As what Python shows bytes of an argument that are no UTF-8 (PEP 383).
_BYTES_FIRST = 0xDC80
_BYTES_LAST = 0xDCFF

_TOP_HELP = """Manage signed policies for AI agent sandboxes, and ask what they allow.

Connection: --server or AKPOLICY_SERVER, and an API key in AKPOLICY_API_KEY or --api-key-file.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    # gRPC's own lines on standard error would stand before the error that says what to do.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the locale has no character for becomes an escape, not a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command (the process's own if `arguments` is None) and return its exit code."""
    try:
        _require_text(sys.argv[1:] if arguments is None else arguments)
        build_app()(None if arguments is None else list(arguments), prog_name="akpolicy")
    except AkpolicyError as error:
        print_error(error)
        return EXIT_USAGE if isinstance(error, (UsageError, ConfigError)) else EXIT_FAILED
    except BrokenPipeError:
        # Who read the answer has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        print_error(AkpolicyError(f"cannot go on: {error}"))
        return EXIT_FAILED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    return 0


def _require_text(arguments: Sequence[str]) -> None:
    """Raise `UsageError` for bytes that are no text: nothing that is sent, signed or printed could have them."""
    for argument in arguments:
        if not argument.isprintable() and any(_BYTES_FIRST <= ord(char) <= _BYTES_LAST for char in argument):
            shown = os.fsencode(argument).decode("utf-8", "replace")
            raise UsageError(f"the argument `{shown}` is not UTF-8; write it as UTF-8, or rename the file")


def build_app() -> typer.Typer:
    """Return the tree of commands; a group is added here and nowhere else."""
    from akpolicy.cli import (
        apikey,
        authorize,
        demo,
        evaluate,
        fleet,
        inspect,
        keys,
        org,
        permissions,
        policy,
        policy_format,
        policy_proposals,
        policy_testing,
        publish,
        revisions,
        rollback,
        root,
    )

    app = typer.Typer(
        help=_TOP_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,  # plain text: examples stay as they are written, and help is quick
        pretty_exceptions_enable=False,  # those show local variables, and so secrets
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 120},
    )
    app.callback()(_top)
    app.add_typer(keys.app, name="keys")
    app.add_typer(org.app, name="org")
    app.add_typer(root.app, name="root")
    app.add_typer(apikey.app, name="apikey")
    policies = typer.Typer(help="Check, test, sign, publish, roll back and look at policies.", no_args_is_help=True)
    policy.add_to(policies)
    policy_testing.add_to(policies)
    policy_format.add_to(policies)
    publish.add_to(policies)
    policy_proposals.add_to(policies)
    rollback.add_to(policies)
    revisions.add_to(policies)
    app.add_typer(policies, name="policy")
    app.add_typer(fleet.app, name="fleet")
    authorize.add_to(app)
    permissions.add_to(app)
    evaluate.add_to(app)
    inspect.add_to(app)
    demo.add_to(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"akpolicy {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options before the command; `--version` ends the program by itself."""

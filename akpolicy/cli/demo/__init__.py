"""`akpolicy demo`: the main job end to end, with real processes, in a directory of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import EXIT_FAILED, print_json, print_note

_HELP = """See a policy travel from an operator to a decision, on this machine.

Starts a real server and a real sidecar for each of two orgs in a temporary directory, publishes the example policies,
asks twelve questions, publishes a change and times it, has a middleman alter a bundle and a host refuse it, replaces an
org's root key under running decisions, kills the server and goes on from cache, then prints the sidecars' decision
metrics.

Exit code 1 if anything is not as expected.

"""


def add_to(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("demo", help=_HELP + examples("akpolicy demo", "akpolicy demo --keep", "akpolicy demo -o json"))(_demo)


def _demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running and print commands to try.")] = False,
    output: OutputOption = "text",
) -> None:
    # Only this command needs these, and they take a moment.
    from rich.console import Console

    from akpolicy.cli.demo.findings import summary
    from akpolicy.cli.demo.report import show
    from akpolicy.cli.demo.run import run

    findings, notes = run(keep=keep, say=lambda text: print_note(f"· {text}"))
    if output == "json":
        print_json(summary(findings))
    else:
        show(Console(), findings)
    for note in notes:
        print_note(note)
    if not findings.as_expected:
        raise typer.Exit(EXIT_FAILED)

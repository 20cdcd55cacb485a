"""`akpolicy inspect`: what a file or a directory says, and how much of that can be believed.

Rules:

- Read-only, offline, and safe on any file: nothing that a document says reaches a terminal unescaped.
- The report says exactly what was verified, what failed (with the error's stable code) and what was not checked, with
  what is missing to check it.
- Exit code 0 if nothing that was checked failed, 1 if something did.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import EXIT_FAILED
from akpolicy.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        name="inspect",
        epilog=examples(
            "akpolicy inspect acme-root-2.json --anchor ed25519:...",
            "akpolicy inspect bundle.json --root acme-roots.json --anchor ed25519:... --with content.json",
            "akpolicy inspect acme.proposal.json --output json | jq .progress",
            "akpolicy inspect heartbeat.bin --root acme-roots.json --config /etc/akpolicy/sidecar.toml",
        ),
    )(inspect)


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR", help="An envelope, a proposal, a payload, a content, an index; a state_dir."
        ),
    ],
    *,
    anchor: Annotated[
        list[str] | None,
        typer.Option("--anchor", metavar="ed25519:...", help="A trust anchor that verifies roots. May be repeated."),
    ] = None,
    threshold: Annotated[
        int, typer.Option("--threshold", min=1, metavar="N", help="How many of the anchors must have signed.")
    ] = 1,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="A sidecar's configuration, for its anchors and org."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A signed root, or several as `root show` prints them. May be repeated."),
    ] = None,
    companion: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", metavar="FILE", help="What belongs to it: content, index, the original of a rollback. Repeatable."
        ),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Judge as of then, such as 2026-01-31T09:00:00Z.")
    ] = None,
    output: OutputOption = "text",
) -> None:
    """Print what a signed document, or a file of this system, says, and verify it as far as what you give allows.

    Without anchors and roots, only the form and the times are checked; the report says so.
    """
    from akpolicy.cli.clock import now
    from akpolicy.cli.inspect.directory import inspect_directory
    from akpolicy.cli.inspect.given import gather, read_thing
    from akpolicy.cli.inspect.reports import report_on

    given = gather(
        now=now() if at is None else read_time(at),
        anchors=anchor or [],
        threshold=threshold,
        root_files=root or [],
        config=config,
        companions=companion or [],
    )
    report = inspect_directory(path, given) if path.is_dir() else report_on(read_thing(path), str(path), given)
    if output == "json":
        # Escapes, not characters: nothing that a document says reaches a terminal.
        typer.echo(json.dumps(report.to_json(), ensure_ascii=True, indent=2))
    else:
        typer.echo(report.text())
    if not report.good:
        raise typer.Exit(EXIT_FAILED)


def read_time(text: str) -> int:
    """Read RFC 3339 as whole epoch seconds; raise `UsageError`."""
    from datetime import datetime

    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise UsageError(f"`--at {text}` is no time; write for example `2026-01-31T09:00:00Z`")
    return int(time.timestamp())

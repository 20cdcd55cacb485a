"""`akpolicy policy format`: policies in Cedar's usual layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.cli.files import STDIN, read_policy_files
from akpolicy.cli.options import PolicyFilesArgument, examples
from akpolicy.cli.output import EXIT_FAILED, print_note
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.engine.files import PolicyFile

DEFAULT_WIDTH: Final = 100
DEFAULT_INDENT: Final = 2


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `policy`."""
    app.command(
        name="format",
        epilog=examples(
            "akpolicy policy format policies.cedar --write",
            "akpolicy policy format policies/ --check",
            "akpolicy policy format - < policies.cedar",
        ),
    )(format_policies)


def format_policies(
    *,
    files: PolicyFilesArgument,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell which files would change; exit code 1 if any.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Change the files in place of printing.")] = False,
    line_width: Annotated[int, typer.Option(min=20, max=1000, metavar="N", help="Columns of a line.")] = DEFAULT_WIDTH,
    indent: Annotated[int, typer.Option(min=1, max=16, metavar="N", help="Columns of a level.")] = DEFAULT_INDENT,
) -> None:
    """Lay policies out as Cedar does. Comments and annotations stay, and so does what every policy means."""
    from akpolicy.engine.layout import formatted

    if check and write:
        raise UsageError("give either `--check` or `--write`")
    read = read_policy_files(files)
    if write and any(path == STDIN for path in files):
        raise UsageError("standard input cannot be written; leave `--write` out")
    changed = 0
    for file in read:
        before = _text(file)
        after = formatted(before, file.name, line_width=line_width, indent=indent)
        changed += before != after
        if check or write:
            if before != after:
                print_note(f"{'would change' if check else 'changed'} {file.name}")
            if write and before != after:
                Path(file.name).write_text(after, encoding="utf-8")
        else:
            sys.stdout.write(after)
    if check and changed:
        raise typer.Exit(EXIT_FAILED)


def _text(file: PolicyFile) -> str:
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{file.name}` is not UTF-8 (byte {error.start}); save it as UTF-8") from error

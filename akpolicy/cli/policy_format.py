"""`akpolicy policy format`: policies in Cedar's usual layout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.cli.files import STDIN, read_policy_files, read_rewritten_files
from akpolicy.cli.options import PolicyFilesArgument, examples
from akpolicy.cli.output import EXIT_FAILED, print_note, printable
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
    from akpolicy.cli.policy_layout import laid_out

    if check and write:
        raise UsageError("give either `--check` or `--write`")
    if write and STDIN in files:
        raise UsageError("standard input cannot be written; leave `--write` out")
    found = read_rewritten_files(files) if write else []
    read = [file for _, file in found] if write else read_policy_files(files)
    # All before the first is printed or written: half of a change is nobody's wish.
    texts = [_text(file) for file in read]
    laid = [
        laid_out(text, file.name, line_width=line_width, indent=indent) for text, file in zip(texts, read, strict=True)
    ]
    changed = [position for position, text in enumerate(texts) if text != laid[position]]
    if not check and not write:
        _print("".join(laid))
    for position in changed if check or write else ():
        if write:
            found[position][0].replace(laid[position].encode("utf-8"))
        print_note(f"{'would change' if check else 'changed'} {read[position].name}")
    if check and changed:
        raise typer.Exit(EXIT_FAILED)


def _text(file: PolicyFile) -> str:
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{file.name}` is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _print(text: str) -> None:
    """Print policies as UTF-8, whatever the locale says: a file that this goes to is read as UTF-8."""
    if sys.stdout is None:  # the descriptor was closed when the program began
        raise UsageError("standard output is closed; give it, or `--write` or `--check`")
    shown = printable(text) if sys.stdout.isatty() else text
    sys.stdout.flush()
    sys.stdout.buffer.write(shown.encode("utf-8"))
    sys.stdout.buffer.flush()

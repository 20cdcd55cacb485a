"""How commands print: answers to standard output, errors and progress to standard error.

Rules:

- What others wrote (policies, messages) reaches a terminal without its control characters: they could rewrite what the
  operator sees. A pipe or a file gets the bytes as they are. In JSON they are always escapes, which mean the same.
- Progress shows only where a person watches: standard error is a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, TextIO

import typer

from akpolicy.errors import AkpolicyError, PolicyError, Problem, ServerRefused

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

OutputFormat = Literal["text", "json"]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def print_text(text: str) -> None:
    """Print an answer for a person."""
    typer.echo(printable(text) if is_terminal(sys.stdout) else text)


def print_json(value: object, *, compact: bool = False) -> None:
    """Print an answer for a program: one document, or with `compact` one line of several."""
    # Where standard output cannot hold every character, escapes of JSON can; those of Python would be none.
    narrow = not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=narrow, indent=None if compact else 2)
    # All others stand in strings, where the encoder leaves these as they are.
    typer.echo(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_note(text: str) -> None:
    """Say something that is not the answer."""
    typer.echo(printable(text) if is_terminal(sys.stderr) else text, err=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person watches; there is no stream if its descriptor was closed when the program began."""
    return stream is not None and stream.isatty()


def print_error(error: AkpolicyError) -> None:
    """Print an error with the mistakes it carries."""
    problems = error.problems if isinstance(error, (PolicyError, ServerRefused)) else ()
    if isinstance(error, PolicyError):
        print_note(f"error: {counted(problems, 'problem')} in the policies")
    elif isinstance(error, ServerRefused) and problems:
        # Its message is the first problem over again.
        print_note(f"error: the server refused the policies ({error.status})")
    else:
        print_note(f"error: {error}")
    for problem in problems:
        print_note(f"  {problem}")


def printable(text: str) -> str:
    """Return `text` with control characters and changes of writing direction as escapes."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def counted(things: Sequence[object], noun: str) -> str:
    """Return `1 problem` or `3 problems`, also for policies and files."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{len(things)} {noun if len(things) == 1 else plural}"


def print_warnings(warnings: Iterable[Problem]) -> None:
    """Print what may not do what its author means; it is not the answer."""
    for warning in warnings:
        print_note(f"warning: {warning}")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return columns, as wide as their widest cell; the last one is not padded."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something is going on that may take a while."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def uploading(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how far an upload is; the caller is given a function to call with each number of bytes that went up."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda count: progress.advance(task, count)

"""What the program's commands share: how they answer, and how they say that they cannot."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import typer

from akpolicy.errors import AkpolicyError, ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class Output(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turn an error into a line on standard error and an exit code."""
    try:
        yield
    except AkpolicyError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError | UsageError) else EXIT_FAILED)

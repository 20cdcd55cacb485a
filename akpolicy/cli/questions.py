"""Authorization requests as an operator writes them: options, or a file with one JSON object a line.

Rules:

- A value of `NAME=VALUE` is JSON if it parses as JSON, else the text as it is: `max_memory_mb=512` is a number,
  `runtime=python` a text, `image='"3.12"'` a text too.
- JSON as everywhere in akpolicy: integers only, no null, no field twice.
- A mistake is a `UsageError` that names the option, or the file and line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from akpolicy.cli.option_groups import OptionGroup
from akpolicy.errors import RequestInvalid, TrustError, UsageError
from akpolicy.limits import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from akpolicy.engine.request import AuthorizationRequest, CedarValue, Principal, Resource

STDIN: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and the line of the file that it stands on (0: it was given by options)."""

    request: AuthorizationRequest
    line: int = 0


@dataclass(frozen=True)
class SubjectOptions(OptionGroup):
    """Who asks, and about which sandbox."""

    principal: Annotated[str | None, typer.Option(metavar="ID", help="Who asks.")] = None
    org: Annotated[str | None, typer.Option(metavar="NAME", help="The org of who asks.")] = None
    email: Annotated[str, typer.Option(metavar="ADDRESS")] = ""
    role: Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated.")] = None
    team: Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be repeated.")] = None
    mfa: Annotated[bool, typer.Option("--mfa", help="Who asks has shown a second factor.")] = False
    resource: Annotated[str | None, typer.Option(metavar="ID", help="The sandbox.")] = None
    resource_type: Annotated[str, typer.Option("--type", metavar="TYPE", help="The resource's type.")] = "Sandbox"
    resource_team: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A team that the resource belongs to. May be repeated.")
    ] = None
    attr: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An attribute of the resource: JSON, or a bare word. May be repeated."),
    ] = None

    def required(self) -> dict[str, str | None]:
        """Return the options without which there is no question."""
        return {"--principal": self.principal, "--org": self.org, "--resource": self.resource}

    def subjects(self) -> tuple[Principal, Resource]:
        """Return who asks and about what; raise `UsageError` for what is missing or wrong."""
        from akpolicy.engine.request import Principal, Resource

        given = _complete(self.required())
        return (
            Principal(
                given["--principal"],
                given["--org"],
                self.email,
                tuple(self.role or ()),
                tuple(self.team or ()),
                self.mfa,
            ),
            Resource(
                given["--resource"],
                self.resource_type,
                teams=tuple(self.resource_team or ()),
                attributes=_pairs(self.attr or (), "--attr"),
            ),
        )


SocketOption = Annotated[
    Path | None,
    typer.Option(envvar="AKPOLICY_SOCKET", metavar="PATH", help="The sidecar's socket. Without it: its default."),
]
TimeoutOption = Annotated[float, typer.Option(min=0.01, max=60, metavar="SECONDS", help="Deadline of a call.")]


def from_options(subjects: SubjectOptions, action: str | None, context: Sequence[str]) -> Question:
    """Return the request that options describe; raise `UsageError` for what is missing or wrong."""
    from akpolicy.engine.request import AuthorizationRequest

    asked = {"--principal": subjects.principal, "--org": subjects.org, "--action": action}
    given = _complete({**asked, "--resource": subjects.resource}, "; or give `--request FILE`")
    principal, resource = subjects.subjects()
    return Question(AuthorizationRequest(principal, given["--action"], resource, _pairs(context, "--context")))


def _complete(options: Mapping[str, str | None], advice: str = "") -> dict[str, str]:
    given = {name: value for name, value in options.items() if value}
    if missing := [name for name in options if name not in given]:
        raise UsageError(f"missing {', '.join(f'`{name}`' for name in missing)}{advice}")
    return given


def from_lines(file: Path, options: Mapping[str, str | None]) -> Iterator[Question]:
    """Yield the requests of a file (`-`: standard input); `options` are those that cannot go with it."""
    if given := [name for name, value in options.items() if value]:
        raise UsageError(f"give either `--request` or `{given[0]}`")
    if file == STDIN:
        if sys.stdin is None:  # the descriptor was closed when the program began
            raise UsageError("standard input is closed; name a file")
        yield from _read(sys.stdin.buffer, "stdin")
        return
    try:
        with file.open("rb") as opened:
            yield from _read(opened, str(file))
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error


def _read(stream: BinaryIO, name: str) -> Iterator[Question]:
    from akpolicy.engine.request import request_from_json
    from akpolicy.strict_json import load_object

    number = 0
    while line := stream.readline(MAX_MESSAGE_BYTES + 1):
        number += 1
        if len(line) > MAX_MESSAGE_BYTES:
            raise UsageError(f"{name}:{number}: the line has more than {MAX_MESSAGE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            yield Question(request_from_json(load_object(line)), number)
        except (TrustError, RequestInvalid) as error:
            raise UsageError(f"{name}:{number}: {error.message}") from error


def _pairs(texts: Sequence[str], option: str) -> dict[str, CedarValue]:
    from akpolicy.engine.values import value_from_json

    pairs: dict[str, CedarValue] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise UsageError(f"`{option} {text}` must be `NAME=VALUE`")
        if name in pairs:
            raise UsageError(f'`{option} {name}=...` is given twice; a list is written `{name}=\'["a", "b"]\'`')
        try:
            pairs[name] = value_from_json(_json_or_text(value), f"{option} {name}")
        except RequestInvalid as error:
            raise UsageError(f"{error.message}; a text is written `{name}='\"{value}\"'`") from error
    return pairs


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

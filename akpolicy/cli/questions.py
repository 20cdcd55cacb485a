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
from typing import TYPE_CHECKING, BinaryIO, Final

from akpolicy.errors import RequestInvalid, TrustError, UsageError
from akpolicy.limits import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from akpolicy.engine.request import AuthorizationRequest, CedarValue

STDIN: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and the line of the file that it stands on (0: it was given by options)."""

    request: AuthorizationRequest
    line: int = 0


def from_options(
    required: Mapping[str, str | None],
    *,
    email: str,
    roles: Sequence[str],
    teams: Sequence[str],
    mfa_verified: bool,
    resource_type: str,
    attributes: Sequence[str],
    context: Sequence[str],
) -> Question:
    """Return the request that options describe; `required` has `--principal`, `--org`, `--action` and `--resource`."""
    from akpolicy.engine.request import AuthorizationRequest, Principal, Resource

    given = {name: value for name, value in required.items() if value}
    if missing := [name for name in required if name not in given]:
        raise UsageError(f"missing {', '.join(f'`{name}`' for name in missing)}; or give `--request FILE`")
    return Question(
        AuthorizationRequest(
            Principal(given["--principal"], given["--org"], email, tuple(roles), tuple(teams), mfa_verified),
            given["--action"],
            Resource(given["--resource"], resource_type, attributes=_pairs(attributes, "--attr")),
            _pairs(context, "--context"),
        )
    )


def from_lines(file: Path, options: Mapping[str, str | None]) -> Iterator[Question]:
    """Yield the requests of a file (`-`: standard input); `options` are those that cannot go with it."""
    if given := [name for name, value in options.items() if value]:
        raise UsageError(f"give either `--request` or `{given[0]}`")
    if file == STDIN:
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

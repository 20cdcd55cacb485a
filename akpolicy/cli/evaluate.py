"""`akpolicy eval`: Cedar on files, without a server and without a sidecar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.cli.options import examples
from akpolicy.cli.output import EXIT_FAILED, print_json
from akpolicy.errors import RequestInvalid, UsageError
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from akpolicy.engine.evaluation import Policies, World

STDIN: Final = Path("-")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        name="eval",
        epilog=examples(
            "akpolicy eval --policies p.cedar --schema s.cedarschema --entities e.json --requests r.jsonl",
            "akpolicy eval --policies p.cedar --requests r.jsonl --no-strict | jq -r .decision",
        ),
    )(evaluate)


def evaluate(
    *,
    policies: Annotated[Path, typer.Option(metavar="FILE", help="Policies, in Cedar's syntax or its JSON form.")],
    requests: Annotated[
        Path, typer.Option(metavar="FILE", help="Requests in Cedar's JSON form, one a line; - is standard input.")
    ],
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The schema, in Cedar's syntax or its JSON form.")
    ] = None,
    entities: Annotated[Path | None, typer.Option(metavar="FILE", help="Entities in Cedar's JSON form.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            help="Deny if a forbid cannot be evaluated, and refuse what does not fit the schema; "
            "--no-strict is Cedar as it is."
        ),
    ] = True,
) -> None:
    """Evaluate requests by any policies, schema and entities, and print one JSON decision a line.

    A line has `decision` (allow or deny), `reasons` (names of policies) and `errors`; one that cannot be evaluated has
    `error` and `line`. Policies are called by their @id, or policy0, policy1, ... by their place. Exit code 0 if every
    request was evaluated, 1 if not.
    """
    from akpolicy.engine.evaluation import Policies, World
    from akpolicy.engine.foreign import read_schema

    filed = Policies.read(_text(policies))
    parsed = read_schema(_text(schema)) if schema is not None else None
    world = World(_text(entities) if entities is not None else "[]", parsed, strict=strict)
    refused = 0
    for line, text in _lines(requests):
        refused += not _print(filed, world, line, text, strict=strict)
    if refused:
        raise typer.Exit(EXIT_FAILED)


def _print(policies: Policies, world: World, line: int, text: bytes, *, strict: bool) -> bool:
    from akpolicy.engine.evaluation import answer
    from akpolicy.engine.foreign import read_request

    try:
        found = answer(policies, world, read_request(text), strict=strict)
    except RequestInvalid as error:
        print_json({"error": error.message, "line": line}, compact=True)
        return False
    shown: dict[str, object] = {
        "decision": found.effect.value,
        "reasons": list(found.reasons),
        "errors": list(found.errors),
    }
    if found.failed_forbid:
        shown["failed_forbid"] = found.failed_forbid
    print_json(shown, compact=True)
    return True


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with sys.stdin.buffer if file == STDIN else file.open("rb") as opened:
            number = 0
            while line := opened.readline(MAX_MESSAGE_BYTES + 1):
                number += 1
                if len(line) > MAX_MESSAGE_BYTES:
                    raise UsageError(f"{file}:{number}: the line has more than {MAX_MESSAGE_BYTES} bytes")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_CONTENT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{file}`: {error.strerror}") from error
    if len(data) > MAX_CONTENT_BYTES:
        raise UsageError(f"`{file}` has more than {MAX_CONTENT_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{file}` is not UTF-8 (byte {error.start}); save it as UTF-8") from error

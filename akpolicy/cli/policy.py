"""`akpolicy policy validate`; the rest of the group is in `publish`, `policy_proposals`, `rollback` and `revisions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.files import read_policy_files
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, PolicyFilesArgument, examples
from akpolicy.cli.output import (
    EXIT_FAILED,
    OutputFormat,
    counted,
    print_json,
    print_note,
    print_text,
    print_warnings,
    uploading,
    working,
)
from akpolicy.cli.schema_options import SchemaOption, read_schema_file, schema_of
from akpolicy.cli.scope_choice import ScopeChoice
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.client.publishing_types import Validation
    from akpolicy.engine.files import PolicyFile


@dataclass(frozen=True)
class ServerToAsk(Connection):
    """A connection that is not wanted unless it is named here: AKPOLICY_SERVER alone does not count."""

    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Ask this server. Without it: check here, offline.")
    ] = None


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `policy`."""
    app.command(
        epilog=examples(
            "akpolicy policy validate policies/",
            "akpolicy policy validate a.cedar b.cedar --output json | jq '.problems[].message'",
            "akpolicy policy validate policies/ --schema acme.cedarschema",
            "akpolicy policy validate a.cedar --server https://policy:8180 --org acme",
        )
    )(grouped(validate))


def validate(
    files: PolicyFilesArgument,
    *,
    target: ScopeChoice,
    schema: SchemaOption = None,
    connection: ServerToAsk,
    output: OutputOption = "text",
) -> None:
    """Say what is wrong with policies; nothing is changed.

    Prints one line a problem, `file:line: code: policy: message`. Exit code 1 if there is one. Warnings are of policies
    that can be published and yet may not do what their author means.
    """
    sources = read_policy_files(files)
    if connection.server is None and target.is_made:
        raise UsageError(
            "a scope is of use only with `--server`: offline, every scope has the same rules; leave it out"
        )
    if connection.server is None:
        with working(f"checking {counted(sources, 'file')}"):
            result = check_offline(sources, schema)
    elif schema is not None:
        raise UsageError("`--schema` is for the check here, offline; a server knows the schema of the org")
    else:
        chosen = target.chosen()
        size = sum(len(file.data) for file in sources)
        with connection.open() as client, uploading("validating", size) as progress:
            result = client.validate(chosen, sources, progress)
    _print_validation(result, sources, output)
    if result.problems:
        raise typer.Exit(EXIT_FAILED)


def check_offline(files: Sequence[PolicyFile], schema: Path | None = None) -> Validation:
    """Check as a server does, with the file of an org's own schema or the packaged one; report all mistakes."""
    from akpolicy.client.publishing_types import Validation
    from akpolicy.engine.files import cut, examine

    found = examine(cut(files), schema_of(None if schema is None else read_schema_file(schema)))
    return Validation(
        found.problems, tuple(policy.id for policy in found.policies), len(found.policies), found.warnings
    )


def _print_validation(result: Validation, files: Sequence[PolicyFile], output: OutputFormat) -> None:
    if output == "json":
        print_json(
            {
                "valid": not result.problems,
                "problems": [problem.to_json() for problem in result.problems],
                "policy_ids": list(result.policy_ids),
                "warnings": [problem.to_json() for problem in result.warnings],
            }
        )
        return
    print_warnings(result.warnings)
    for problem in result.problems:
        print_text(str(problem))
    if result.problems:
        print_note(f"error: {counted(result.problems, 'problem')} in {counted(files, 'file')}")
    else:
        policies = f"{result.policy_count} {'policy' if result.policy_count == 1 else 'policies'}"
        print_text(f"ok: {policies} in {counted(files, 'file')}")

"""Schemas of orgs as an operator names them: an org can have its own in place of the packaged one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.option_groups import OptionGroup
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

SchemaOption = Annotated[
    Path | None,
    typer.Option("--schema", metavar="FILE", help="The org's own schema. Without it: the packaged one."),
]


@dataclass(frozen=True)
class SchemaTerms(OptionGroup):
    """The options that say which schema an org is to have."""

    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", metavar="FILE", help="Give the org this schema of its own. Without it: the one that it has."
        ),
    ] = None
    default_schema: Annotated[
        bool, typer.Option("--default-schema", help="Let the org go back to the packaged schema.")
    ] = False

    @property
    def is_given(self) -> bool:
        """Whether any of the options is given."""
        return self != SchemaTerms()

    def text(self, scope: str) -> str | None:
        """Return the text of the org's own schema, None without one; raise `UsageError` where there is no choice."""
        from akpolicy.scope import GLOBAL, is_member_scope

        if self.schema is not None and self.default_schema:
            raise UsageError("`--schema` and `--default-schema` exclude each other")
        if self.is_given and (scope == GLOBAL or is_member_scope(scope)):
            raise UsageError(f"`{scope}` has no schema of its own; give it with the policies of the org")
        return None if self.schema is None else read_schema_file(self.schema)


def read_schema_file(path: Path) -> str:
    """Return the text of a schema; raise `UsageError` for a file that cannot be one."""
    from akpolicy.cli.proposal_files import read_bytes
    from akpolicy.limits import MAX_SCHEMA_BYTES

    try:
        text = read_bytes(path, MAX_SCHEMA_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"`{path}` is not UTF-8; save the schema as UTF-8") from None
    if not text.strip():
        raise UsageError(f"`{path}` is blank; name the file of the schema")
    return text


def schema_of(text: str | None) -> CedarSchema:
    """Return an org's own schema, the packaged one for None; raise `SchemaInvalid` or `SchemaUnsupported`."""
    from akpolicy.engine.host_schema import read_host_schema
    from akpolicy.engine.schema import load_default_schema

    return load_default_schema() if text is None else read_host_schema(text)

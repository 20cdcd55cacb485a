"""`akpolicy policy history` and `show`: what was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import (
    OutputOption,
    examples,
)
from akpolicy.cli.output import print_json, print_text, table, working
from akpolicy.cli.scope_choice import ScopeChoice
from akpolicy.errors import UsageError
from akpolicy.limits import MAX_JSON_INT

if TYPE_CHECKING:
    from akpolicy.client.publishing_types import PublishedPolicy, RevisionContent, RevisionInfo

_SHORT_DIGEST = 12


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `policy`."""
    app.command(
        epilog=examples(
            "akpolicy policy history --org acme",
            "akpolicy policy history --org acme --output json | jq -r '.[].version'",
        )
    )(grouped(history))
    app.command(
        epilog=examples(
            "akpolicy policy show --org acme",
            "akpolicy policy show --org acme --version 3 > acme-3.cedar",
            "akpolicy policy show --org acme --output json | jq .envelope",
            "akpolicy policy show --org acme --schema > acme.cedarschema",
        )
    )(grouped(show))


def history(
    *,
    target: ScopeChoice,
    limit: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="At most this many.")] = 20,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """List what was published, newest first."""
    chosen = target.chosen()
    with connection.open() as client, working("asking"):
        revisions = client.history(chosen, limit)
    if output == "json":
        print_json([revision.to_json() for revision in revisions])
    else:
        print_text(_history_text(revisions) if revisions else f"nothing is published for {chosen}")


def show(
    *,
    target: ScopeChoice,
    version: Annotated[int, typer.Option(min=0, max=MAX_JSON_INT, metavar="N", help="Which one; 0 is the newest.")] = 0,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the org's own schema that came with it, in place of the policies.")
    ] = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Print the policies of a revision as Cedar, ready to be published again.

    JSON has the details, the signed manifest (a DSSE envelope) and the policies. Signatures are not verified here:
    sidecars do that, and `akpolicy inspect` if you give it the JSON.
    """
    chosen = target.chosen()
    with connection.open() as client, working("fetching"):
        content = client.revision(chosen, version)
    if schema and content.schema is None:
        raise UsageError(f"version {content.revision.version} of {chosen} brings no schema of its own")
    if output == "json":
        print_json(content.to_json())
    elif schema:
        print_text((content.schema or "").rstrip("\n"))
    else:
        print_text(cedar_text(content))


def _history_text(revisions: Sequence[RevisionInfo]) -> str:
    from akpolicy.client.publishing_types import rfc3339

    return table(
        ("VERSION", "KIND", "PUBLISHED", "EXPIRES", "POLICIES", "DIGEST", "BY", "MESSAGE"),
        [
            (
                str(revision.version),
                _kind(revision),
                rfc3339(revision.published_at),
                rfc3339(revision.expires_at),
                str(revision.policy_count),
                revision.digest[:_SHORT_DIGEST],
                revision.published_by or "(server)",
                " ".join(revision.message.split()),
            )
            for revision in revisions
        ],
    )


def _kind(revision: RevisionInfo) -> str:
    return f"{revision.kind.value} to {revision.restores_version}" if revision.restores_version else revision.kind.value


def cedar_text(content: RevisionContent) -> str:
    """Return a revision's policies as one file that can be published again."""
    revision = content.revision
    head = f"// {revision.scope} version {revision.version}, digest {revision.digest}"
    if content.schema is not None:
        head += "\n// With a schema of its own, which `akpolicy policy show --schema` prints"
    return "\n\n".join([head, *(_with_id(policy) for policy in content.policies)])


def _with_id(policy: PublishedPolicy) -> str:
    """Return a policy's text with its id; a policy that was alone in its file may have taken the file's name."""
    from akpolicy.engine.tokens import head, pieces

    text = policy.text.strip()
    outline = next(pieces(text), None)
    if outline is None or head(text, outline.first).id is not None:
        return text
    return f'{text[: outline.first]}@id("{policy.id}")\n{text[outline.first :]}'

"""`akpolicy policy publish`: policies for the server to sign, to be signed elsewhere, or signed already."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.durations import seconds
from akpolicy.cli.files import read_policy_files
from akpolicy.cli.option_groups import OptionGroup, grouped
from akpolicy.cli.options import (
    DryRunOption,
    IdempotencyKeyOption,
    MessageOption,
    OutputOption,
    examples,
    named_path,
)
from akpolicy.cli.output import OutputFormat, print_json, print_note, print_text, print_warnings, uploading
from akpolicy.cli.schema_options import SchemaTerms
from akpolicy.cli.scope_choice import ScopeChoice
from akpolicy.errors import ClientError, ServerRefused, UsageError
from akpolicy.limits import MAX_JSON_INT

if TYPE_CHECKING:
    from akpolicy.client.publishing_types import Published, PublishTerms

# The values of `akpolicy.bundle.OfflineMode`, which is not imported only to print help.
OfflineModeName = Literal["fail_closed", "cached_with_expiry", "cached_indefinite", "default_policy"]

# Statuses that say that nothing was published.
_DEFINITE: Final = frozenset(
    {
        "ABORTED",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)


MAX_SHOWN_REPLACEMENTS: Final = 20


@dataclass(frozen=True)
class BundleTerms(OptionGroup):
    """The options that say what a bundle is to say of itself."""

    offline_mode: Annotated[
        OfflineModeName | None, typer.Option(help="The most lenient mode of hosts that cannot reach the server.")
    ] = None
    offline_max_age: Annotated[
        str, typer.Option(metavar="TIME", help="How old policy may grow on such a host, such as 24h.")
    ] = "24h"
    lifetime: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long it is valid, such as 30d, unless the server renews it, as it does what it can sign. "
            "Default: the server's.",
        ),
    ] = None
    no_rollback: Annotated[bool, typer.Option("--no-rollback", help="Forbid a later return to what was before.")] = (
        False
    )
    expected_version: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_JSON_INT, metavar="N", help="Publish only on top of this version (0: nothing published yet)."
        ),
    ] = None

    def publish_terms(
        self,
        *,
        message: str,
        idempotency_key: str,
        dry_run: bool = False,
        schema: str | None = None,
        default_schema: bool = False,
    ) -> PublishTerms:
        """Return the terms of a publish; raise `UsageError` for a time that is none."""
        from akpolicy.bundle import OfflineMode
        from akpolicy.client.publishing_types import PublishTerms

        return PublishTerms(
            message=message,
            expected_version=self.expected_version,
            idempotency_key=idempotency_key,
            offline_mode=None if self.offline_mode is None else OfflineMode(self.offline_mode),
            offline_max_age_s=seconds(self.offline_max_age, "--offline-max-age"),
            lifetime_s=seconds(self.lifetime, "--lifetime") if self.lifetime is not None else 0,
            no_rollback=self.no_rollback,
            dry_run=dry_run,
            schema=schema,
            default_schema=default_schema,
        )


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `policy`."""
    app.command(
        epilog=examples(
            "akpolicy policy publish policies/ --org acme --message 'allow ssh to admins'",
            "akpolicy policy publish a.cedar --org acme --expected-version 3",
            "akpolicy policy publish a.cedar --org acme --dry-run",
            "akpolicy policy publish a.cedar --org acme --team platform",
            "akpolicy policy publish a.cedar --org acme --schema acme.cedarschema",
            "akpolicy policy publish base.cedar --scope global --offline-mode fail_closed --lifetime 7d",
            "akpolicy policy publish a.cedar --org acme --unsigned --out acme.proposal.json",
            "akpolicy policy publish --envelope acme.proposal.json",
        )
    )(grouped(publish))


def publish(  # noqa: PLR0913 - one parameter an option
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=named_path,
            metavar="FILES",
            help="Cedar files; a directory means its *.cedar files; - is standard input.",
        ),
    ] = None,
    *,
    target: ScopeChoice,
    message: MessageOption = "",
    terms: BundleTerms,
    schemas: SchemaTerms,
    idempotency_key: IdempotencyKeyOption = None,
    dry_run: DryRunOption = False,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Only write what is to be signed to --out, for `policy sign`.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where --unsigned writes the proposal.")] = None,
    envelope: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Publish a proposal that `policy sign` completed.")
    ] = None,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Publish policies as the whole policy of an org, of one of its teams or users, or of everybody (`global`).

    An org may have a schema of its own in place of the packaged one; everything that its hosts enforce must fit it.

    What was published before is replaced. The server checks, signs, stores and announces them; hosts then fetch them.
    Every problem is shown if it refuses them.

    Where the server does not hold the keys: --unsigned writes a proposal, `policy sign` signs it, --envelope publishes
    it.
    """
    from akpolicy.cli import policy_proposals

    if unsigned != (out is not None):
        raise UsageError("`--unsigned` and `--out FILE` go together")
    if envelope is not None:
        if files or target.is_made or unsigned or terms != BundleTerms() or schemas.is_given:
            raise UsageError("`--envelope` publishes what was signed as it is; give no files, scope or terms with it")
        published = policy_proposals.publish_envelope(connection, envelope, message, idempotency_key, dry_run=dry_run)
        print_published(published, output)
        return
    if not files:
        raise UsageError("no policies are named; give files, or `--envelope FILE`")
    chosen = target.chosen()
    schema = {"schema": schemas.text(chosen), "default_schema": schemas.default_schema}
    if out is not None:
        _refuse_terms_of_a_publish(message, dry_run=dry_run)
        agreed = terms.publish_terms(message="", idempotency_key="", **schema)  # type: ignore[arg-type] # by name
        policy_proposals.prepare(connection, chosen, files, agreed, out, output)
        return
    key = new_unless(idempotency_key, dry_run=dry_run)
    agreed = terms.publish_terms(message=message, idempotency_key=key, dry_run=dry_run, **schema)  # type: ignore[arg-type] # by name
    print_published(_send(connection, chosen, files, agreed), output)


def _refuse_terms_of_a_publish(message: str, *, dry_run: bool) -> None:
    if dry_run:
        raise UsageError("`--unsigned` publishes nothing; leave out `--dry-run`")
    if message:
        raise UsageError("`--message` belongs to the publish; give it with `policy publish --envelope`")


def _send(connection: Connection, scope: str, files: list[Path], terms: PublishTerms) -> Published:
    sources = read_policy_files(files)
    size = sum(len(file.data) for file in sources)
    with (
        connection.open() as client,
        keep_key_on_failure(terms.idempotency_key),
        uploading(f"publishing {scope}", size) as progress,
    ):
        return client.publish(scope, sources, terms, progress)


def new_unless(idempotency_key: str | None, *, dry_run: bool) -> str:
    """Return the idempotency key of a request: the one that was given, else a new one; none for a dry run."""
    if idempotency_key is not None:
        return idempotency_key
    return "" if dry_run else uuid.uuid4().hex


@contextmanager
def keep_key_on_failure(idempotency_key: str) -> Iterator[None]:
    """Show the idempotency key where the server may have published all the same."""
    try:
        yield
    except ClientError as error:
        indefinite = not isinstance(error, ServerRefused) or error.status not in _DEFINITE
        if idempotency_key and indefinite:
            print_note(
                "should the server have received it, it may be published all the same; "
                f"to repeat this safely: --idempotency-key {idempotency_key}"
            )
        raise


def _print_replacements(what: str, names: tuple[str, ...], count: int) -> None:
    """Print permits of broader layers, the first of them."""
    shown = list(names[:MAX_SHOWN_REPLACEMENTS])
    if count > len(shown):
        shown.append(f"and {count - len(shown)} more")
    for number, name in enumerate(shown):
        print_text(f"{'' if number else what:<9} {name}")


def print_published(published: Published, output: OutputFormat) -> None:
    """Print the answer to a publish, a rollback or a dry run of one."""
    from akpolicy.client.publishing_types import rfc3339

    revision = published.revision
    if output != "json":
        print_warnings(published.warnings)
    if output == "json":
        print_json(published.to_json())
        return
    again = " (this very request had published it before)" if published.repeated else ""
    restored = f", with the content of version {revision.restores_version}" if revision.restores_version else ""
    verb = "would publish" if published.dry_run else "published"
    print_text(
        f"{verb} {revision.scope} version {revision.version}{restored}{again}\n"
        f"policies  {revision.policy_count} ({revision.content_size} bytes)\n"
        f"digest    {revision.digest}\n"
        f"expires   {rfc3339(revision.expires_at)}"
    )
    _print_replacements("replaces", published.replaces, published.replaces_count)
    _print_replacements("unshadows", published.unshadows, published.unshadows_count)
    if published.dry_run:
        print_note("hosts would accept it; nothing was stored, because this is a dry run")

"""`akpolicy policy validate` and `publish`; what looks at revisions is in `akpolicy.cli.revisions`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from akpolicy.cli.connection import choose_scope, connect
from akpolicy.cli.files import read_policy_files
from akpolicy.cli.options import (
    ApiKeyFileOption,
    CaFileOption,
    ClientCertFileOption,
    ClientKeyFileOption,
    OrgOption,
    OutputOption,
    PolicyFilesArgument,
    ScopeOption,
    ServerOption,
    examples,
)
from akpolicy.cli.output import (
    EXIT_FAILED,
    OutputFormat,
    counted,
    print_json,
    print_note,
    print_text,
    problem_json,
    uploading,
    working,
)
from akpolicy.errors import ClientError, ServerRefused, UsageError

if TYPE_CHECKING:
    from akpolicy.client.publishing_types import Published, PublishTerms, Validation
    from akpolicy.engine.files import PolicyFile

# The values of `akpolicy.bundle.OfflineMode`, which is not imported only to print help.
OfflineModeName = Literal["fail_closed", "cached_with_expiry", "cached_indefinite", "default_policy"]

# Statuses that say that nothing was published.
_DEFINITE: Final = frozenset(
    {
        "ABORTED",
        "ALREADY_EXISTS",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `policy`."""
    app.command(
        epilog=examples(
            "akpolicy policy validate policies/",
            "akpolicy policy validate a.cedar b.cedar --output json | jq '.problems[].message'",
            "akpolicy policy validate a.cedar --server https://policy:8180 --org acme",
        )
    )(validate)
    app.command(
        epilog=examples(
            "akpolicy policy publish policies/ --org acme --message 'allow ssh to admins'",
            "akpolicy policy publish a.cedar --org acme --expected-version 3",
            "akpolicy policy publish base.cedar --scope global --offline-mode fail_closed --lifetime 7d",
        )
    )(publish)


# --- validate ---------------------------------------------------------------------------------------------------------


def validate(  # noqa: PLR0913 - one parameter an option
    files: PolicyFilesArgument,
    *,
    org: OrgOption = None,
    scope: ScopeOption = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Ask this server. Without it: check here, offline.")
    ] = None,
    api_key_file: ApiKeyFileOption = None,
    ca_file: CaFileOption = None,
    client_cert_file: ClientCertFileOption = None,
    client_key_file: ClientKeyFileOption = None,
    output: OutputOption = "text",
) -> None:
    """Say what is wrong with policies; nothing is changed.

    Prints one line a problem, `file:line: code: policy: message`. Exit code 1 if there is one.
    """
    sources = read_policy_files(files)
    if server is None and (org is not None or scope is not None):
        raise UsageError(
            "`--org` and `--scope` are of use only with `--server`: offline, every scope has the same rules"
        )
    if server is not None:
        scope = choose_scope(org, scope)
    if server is None or scope is None:
        with working(f"checking {counted(sources, 'file')}"):
            result = check_offline(sources)
    else:
        size = sum(len(file.data) for file in sources)
        with (
            connect(server, api_key_file, ca_file, client_cert_file, client_key_file) as client,
            uploading("validating", size) as progress,
        ):
            result = client.validate(scope, sources, progress)
    _print_validation(result, sources, output)
    if result.problems:
        raise typer.Exit(EXIT_FAILED)


def check_offline(files: Sequence[PolicyFile]) -> Validation:
    """Check as a server does, with the schema of the package; report the mistakes of all files."""
    from akpolicy.client.publishing_types import Validation
    from akpolicy.engine.files import examine
    from akpolicy.engine.schema import load_default_schema

    found = examine(files, load_default_schema())
    return Validation(found.problems, tuple(policy.id for policy in found.policies), len(found.policies))


def _print_validation(result: Validation, files: Sequence[PolicyFile], output: OutputFormat) -> None:
    if output == "json":
        print_json(
            {
                "valid": not result.problems,
                "problems": [problem_json(problem) for problem in result.problems],
                "policy_ids": list(result.policy_ids),
            }
        )
        return
    for problem in result.problems:
        print_text(str(problem))
    if result.problems:
        print_note(f"error: {counted(result.problems, 'problem')} in {counted(files, 'file')}")
    else:
        policies = f"{result.policy_count} {'policy' if result.policy_count == 1 else 'policies'}"
        print_text(f"ok: {policies} in {counted(files, 'file')}")


# --- publish ----------------------------------------------------------------------------------------------------------


def publish(  # noqa: PLR0913 - one parameter an option
    files: PolicyFilesArgument,
    *,
    org: OrgOption = None,
    scope: ScopeOption = None,
    message: Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the history.")] = "",
    expected_version: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Publish only on top of this version (0: nothing published yet)."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Makes a repeat safe. Without it: a new one, shown if needed.")
    ] = None,
    offline_mode: Annotated[
        OfflineModeName | None, typer.Option(help="The most lenient mode of hosts that cannot reach the server.")
    ] = None,
    offline_max_age: Annotated[
        str, typer.Option(metavar="TIME", help="How old policy may grow on such a host, such as 24h.")
    ] = "24h",
    lifetime: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the policy is valid, such as 30d. Default: the server's."),
    ] = None,
    no_rollback: Annotated[
        bool, typer.Option("--no-rollback", help="Forbid a later return to what was before.")
    ] = False,
    server: ServerOption = None,
    api_key_file: ApiKeyFileOption = None,
    ca_file: CaFileOption = None,
    client_cert_file: ClientCertFileOption = None,
    client_key_file: ClientKeyFileOption = None,
    output: OutputOption = "text",
) -> None:
    """Publish policies as the whole policy of an org or of everybody (`global`).

    What was published before is replaced. The server checks, signs, stores and announces them; hosts then fetch them.
    Every problem is shown if it refuses them.
    """
    from akpolicy.bundle import OfflineMode
    from akpolicy.client.publishing_types import PublishTerms

    terms = PublishTerms(
        message=message,
        expected_version=expected_version,
        idempotency_key=idempotency_key if idempotency_key is not None else uuid.uuid4().hex,
        offline_mode=None if offline_mode is None else OfflineMode(offline_mode),
        offline_max_age_s=seconds(offline_max_age, "--offline-max-age"),
        lifetime_s=seconds(lifetime, "--lifetime") if lifetime is not None else 0,
        no_rollback=no_rollback,
    )
    chosen = choose_scope(org, scope)
    sources = read_policy_files(files)
    size = sum(len(file.data) for file in sources)
    with (
        connect(server, api_key_file, ca_file, client_cert_file, client_key_file) as client,
        _keep_key_on_failure(terms),
        uploading(f"publishing {chosen}", size) as progress,
    ):
        published = client.publish(chosen, sources, terms, progress)
    _print_published(published, output)


@contextmanager
def _keep_key_on_failure(terms: PublishTerms) -> Iterator[None]:
    """Show the idempotency key where the server may have published all the same."""
    try:
        yield
    except ClientError as error:
        if not isinstance(error, ServerRefused) or error.status not in _DEFINITE:
            print_note(
                "should the server have received it, it may be published all the same; "
                f"to repeat this safely: --idempotency-key {terms.idempotency_key}"
            )
        raise


def _print_published(published: Published, output: OutputFormat) -> None:
    from akpolicy.client.publishing_types import rfc3339

    revision = published.revision
    if output == "json":
        print_json({**revision.to_json(), "repeated_request": published.repeated})
        return
    again = " (this very request had published it before)" if published.repeated else ""
    print_text(
        f"published {revision.scope} version {revision.version}{again}\n"
        f"policies  {revision.policy_count} ({revision.content_size} bytes)\n"
        f"digest    {revision.digest}\n"
        f"expires   {rfc3339(revision.expires_at)}"
    )


def seconds(text: str, option: str) -> int:
    """Read `90`, `90s`, `15m`, `24h` or `30d` as seconds; raise `UsageError` naming the option."""
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"`{option} {text}` is no time; write for example `90s`, `15m`, `24h` or `30d`")
    return int(found[1]) * _SECONDS[found[2]]

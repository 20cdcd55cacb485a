"""`akpolicy fleet`: what an org's hosts enforce, by their own account.

Rules:

- A version is enforced when hosts are connected and none of them is older. Hosts that are gone are shown, and count for
  nothing: nobody can say what they do.
- Waiting outlives a restart of the server: it asks again until its time is up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.durations import seconds
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import EXIT_FAILED, OutputFormat, counted, print_json, print_note, print_text, table, working
from akpolicy.errors import FieldInvalid, ServerUnreachable, UsageError
from akpolicy.limits import MAX_JSON_INT

if TYPE_CHECKING:
    from akpolicy.client.fleet_types import FleetStatus, HostStatus, ScopeStatus

RETRY_S: Final = 1.0
DEFAULT_TIMEOUT: Final = "5m"

app = typer.Typer(help="See what hosts enforce, and wait for it.", no_args_is_help=True)

RequiredOrg = Annotated[str | None, typer.Option("--org", metavar="NAME", help="The org.")]
ScopesOption = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="SCOPE", help="Look at this scope; repeat for more. Default: global, the org's."),
]


@app.command(
    epilog=examples(
        "akpolicy fleet status --org acme",
        "akpolicy fleet status --org acme --version 7",
        "akpolicy fleet status --wait org=acme version=7 --timeout 2m",
        "akpolicy fleet status --org acme --scope org/acme/team/red --output json | jq '.scopes[0].hosts_behind'",
    )
)
@grouped
def status(
    *,
    org: RequiredOrg = None,
    scope: ScopesOption = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_JSON_INT, metavar="N", help="Exit with 1 if a connected host is older than this."),
    ] = None,
    wait: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="org=NAME version=N", help="Wait until no connected host is older; exit with 1 if not."),
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait, for example 90s, 15m or 2h.")
    ] = DEFAULT_TIMEOUT,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Show how many hosts enforce what they are given.

    --version and --wait are about the org's own scope, or the one that --scope names.
    """
    if wait is not None:
        if org is not None or version is not None:
            raise UsageError("`--wait` names the org and the version itself; leave out `--org` and `--version`")
        org, version = _waited_for(wait)
    wanted = _wanted(org, scope, version)
    if wait is None:
        with connection.open() as client, working("asking"):
            found = client.fleet_status(wanted[0], scope or ())
    else:
        with working(f"waiting for version {version} of {wanted[1]}"):
            found = _watch(connection, wanted, scope or (), version or 0, seconds(timeout, "--timeout"))
    _print_status(found, output)
    if version is not None and not found.enforces(wanted[1], version):
        print_note(f"error: {_missing(found, wanted[1], version)}")
        raise typer.Exit(EXIT_FAILED)


@app.command(
    epilog=examples(
        "akpolicy fleet hosts --org acme",
        "akpolicy fleet hosts --org acme --behind --output json | jq -r '.[].host_id'",
    )
)
@grouped
def hosts(
    *,
    org: RequiredOrg = None,
    behind: Annotated[
        bool, typer.Option("--behind", help="Only those that lack or refuse something, or are gone.")
    ] = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """List hosts: whether they are there, what each lacks and since when, and what it refused."""
    name = _wanted(org, None, None)[0]
    with connection.open() as client, working("asking"):
        found = [
            host
            for host in client.hosts(name)
            if not behind or host.scopes_behind or host.refusals or not host.connected
        ]
    if output == "json":
        print_json([host.to_json() for host in found])
    else:
        print_text(_hosts_text(found) if found else f"no host of {name}{' lacks anything' if behind else ''}")


def _waited_for(pairs: tuple[str, str]) -> tuple[str, int]:
    """Read `org=NAME version=N`, in any order."""
    values = dict(pair.partition("=")[::2] for pair in pairs)
    version = values.get("version", "")
    is_number = version.isascii() and version.isdigit() and 0 < int(version) <= MAX_JSON_INT
    if set(values) != {"org", "version"} or not is_number:
        raise UsageError(f"`--wait {' '.join(pairs)}` cannot be read; write `--wait org=NAME version=N`")
    return values["org"], int(version)


def _wanted(org: str | None, scopes: list[str] | None, version: int | None) -> tuple[str, str]:
    """Return the org, and the scope that a version is of."""
    from akpolicy.scope import check_scope, is_org_name, org_scope

    if org is None:
        raise UsageError("name an org with `--org NAME`")
    if not is_org_name(org):
        raise UsageError(f"`{org}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends")
    try:
        checked = [check_scope(scope) for scope in scopes or ()]
    except FieldInvalid as error:
        raise UsageError(error.message) from None
    if version is not None and len(checked) > 1:
        raise UsageError("a version is of one scope; name one `--scope`")
    return org, checked[0] if checked else org_scope(org)


def _watch(
    connection: Connection, wanted: tuple[str, str], scopes: list[str] | tuple[()], version: int, timeout_s: float
) -> FleetStatus:
    """Return the status that has the version, or the last one when the time is up."""
    last: FleetStatus | None = None
    for found in _statuses(connection, wanted[0], scopes, time.monotonic() + timeout_s):
        last = found
        if found.enforces(wanted[1], version):
            break
    if last is None:
        raise ServerUnreachable("the server did not answer in the time that was given; see whether it runs")
    return last


def _statuses(connection: Connection, org: str, scopes: list[str] | tuple[()], ends_at: float) -> Iterator[FleetStatus]:
    """Yield statuses until the time is up, from one server after the other."""
    with connection.open() as client:
        while (left := ends_at - time.monotonic()) > 0:
            try:
                yield from client.watch_fleet(org, scopes, timeout=left)
            except ServerUnreachable:
                time.sleep(min(RETRY_S, max(0.0, ends_at - time.monotonic())))


def _missing(found: FleetStatus, scope: str, version: int) -> str:
    if not found.hosts_connected:
        return f"no host of {found.org} is connected, so none is known to enforce {scope} version {version}"
    status = next(status for status in found.scopes if status.scope == scope)
    if status.current is None or status.current.version < version:
        newest = f"the newest is {status.current.version}" if status.current else "nothing is published"
        return f"{scope} has no version {version}; {newest}"
    return f"{scope} version {version} is not enforced everywhere: a connected host has version {status.oldest_version}"


# --- words ------------------------------------------------------------------------------------------------------------


def _print_status(found: FleetStatus, output: OutputFormat) -> None:
    if output == "json":
        print_json(found.to_json())
        return
    software = ", ".join(f"{version}: {count}" for version, count in found.software.items())
    print_text(f"{found.org}: {_hosts(found.hosts_connected)} connected, {found.hosts_gone} gone")
    if software:
        print_text(f"software  {software}")
    print_text(table(_STATUS_HEADER, [_scope_row(scope) for scope in found.scopes]))


_STATUS_HEADER: Final = ("SCOPE", "VERSION", "PUBLISHED", "CURRENT", "BEHIND", "REFUSING", "OLDEST")
_HOSTS_HEADER: Final = ("HOST", "STATE", "SEEN", "MODE", "SOFTWARE", "ROOT", "BEHIND", "LAG", "REFUSES")


def _scope_row(scope: ScopeStatus) -> tuple[str, ...]:
    from akpolicy.client.publishing_types import rfc3339

    if scope.current is None or scope.published_at is None:
        return (scope.scope, "-", "-", "-", "-", "-", "-")
    counts = (scope.hosts_current, scope.hosts_behind, scope.hosts_refusing, scope.oldest_version)
    return (scope.scope, str(scope.current.version), rfc3339(scope.published_at), *map(str, counts))


def _hosts_text(found: list[HostStatus]) -> str:
    from akpolicy.client.publishing_types import rfc3339

    rows = [
        (
            host.host_id,
            "connected" if host.connected else "gone",
            rfc3339(host.last_seen_at),
            host.update_mode,
            host.software_version,
            str(host.root_version),
            f"{host.scopes_behind}/{host.scopes}",
            f"{host.lag_s}s",
            ", ".join(f"{refusal.scope or 'host'}: {refusal.code}" for refusal in host.refusals) or "-",
        )
        for host in found
    ]
    return table(_HOSTS_HEADER, rows)


def _hosts(count: int) -> str:
    return counted(range(count), "host")

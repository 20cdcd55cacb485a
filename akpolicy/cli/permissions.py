"""`akpolicy permissions`: what a sandbox may have, by the policies of this host."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from akpolicy.cli.option_groups import OptionGroup, grouped
from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import EXIT_FAILED, print_json, print_text
from akpolicy.cli.questions import SocketOption, SubjectOptions, TimeoutOption
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.client import GrantedPermissions, Permissions

ProfileName = Literal["permissive", "moderate", "restrictive"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "akpolicy permissions --principal alice --org acme --role developer --resource ml-project \\",
            "    --attr agent_type=claude --attr runtime=python --profile moderate",
            "akpolicy permissions --principal alice --org acme --resource box --network --max-memory-mb 4096 -o json",
        )
    )(permissions)


@dataclass(frozen=True)
class WantedOptions(OptionGroup):
    """What the sandbox asks for."""

    profile: Annotated[
        ProfileName | None, typer.Option(help="A named set of permissions, in place of the single ones.")
    ] = None
    network: Annotated[bool, typer.Option("--network", help="Reach the network.")] = False
    mount_cwd: Annotated[bool, typer.Option("--mount-cwd", help="Mount the working directory; needs --cwd.")] = False
    mount_home: Annotated[bool, typer.Option("--mount-home", help="Mount the home directory; needs --home.")] = False
    pass_env: Annotated[bool, typer.Option("--pass-env", help="Pass environment variables in.")] = False
    allow_privileged: Annotated[bool, typer.Option("--allow-privileged", help="Run privileged.")] = False
    read_only_root: Annotated[bool, typer.Option("--read-only-root", help="Do with a read-only root.")] = False
    max_memory_mb: Annotated[int | None, typer.Option(min=1, metavar="MB", help="Do with so much memory.")] = None
    max_cpu_percent: Annotated[int | None, typer.Option(min=1, metavar="PERCENT", help="Do with so much CPU.")] = None
    seccomp: Annotated[str | None, typer.Option(metavar="NAME", help="Do with this seccomp profile.")] = None

    def wanted(self) -> ProfileName | Permissions:
        """Return the profile, or the single permissions; raise `UsageError` for both."""
        from akpolicy.client import Permissions

        single = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "profile"}
        if self.profile is None:
            return Permissions(**single)
        if given := [name for name, value in single.items() if value]:
            raise UsageError(f"give either `--profile` or `--{given[0].replace('_', '-')}`")
        return self.profile


@grouped
def permissions(
    *,
    subjects: SubjectOptions,
    wanted: WantedOptions,
    cwd: Annotated[str, typer.Option(metavar="PATH", help="The working directory, absolute.")] = "",
    home: Annotated[str, typer.Option(metavar="PATH", help="The home directory, absolute.")] = "",
    socket: SocketOption = None,
    timeout: TimeoutOption = 1.0,
    output: OutputOption = "text",
) -> None:
    """Ask what a sandbox may have of what it asks for, and print which policy takes what away.

    Exit code 0 if it may run (perhaps with less than it asks for), 1 if not.
    """
    from akpolicy.client import PolicyClient, find_socket

    principal, resource = subjects.subjects()
    asked = wanted.wanted()
    with PolicyClient(socket or find_socket(os.environ), timeout=timeout) as client:
        granted = client.get_permissions(principal, resource, asked, cwd=cwd, home=home)
    if output == "json":
        print_json(granted.to_json())
    else:
        print_text(permissions_text(granted))
    if not granted.granted:
        raise typer.Exit(EXIT_FAILED)


def permissions_text(granted: GrantedPermissions) -> str:
    """Return permissions for people: a line a field, and what took something away."""
    lines = ["granted" if granted.granted else "refused"]
    taken = {one.field: one for one in granted.restrictions}
    if granted.granted:
        for name, value in asdict(granted.permissions).items():
            note = f"  asked for {_shown(taken[name].requested)}: {taken[name].message}" if name in taken else ""
            lines.append(f"  {name:<17} {_shown(value):<9}{note}".rstrip())
    else:
        lines += [f"  {one.field:<17} {one.message}" for one in granted.restrictions]
    return "\n".join(lines)


def _shown(value: object) -> str:
    return {True: "yes", False: "no", None: "-"}[value] if value is None or isinstance(value, bool) else str(value)

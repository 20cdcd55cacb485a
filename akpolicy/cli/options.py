"""Options that several commands share, and how help shows examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akpolicy.cli.output import OutputFormat
from akpolicy.errors import UsageError


def named_path(text: str) -> Path:
    """Return a file or directory as it was named; an empty name, as of an unset variable, is not the directory here."""
    if not text:
        raise UsageError("the name of a file is empty; `.` means the directory here")
    return Path(text)


ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", envvar="AKPOLICY_SERVER", metavar="URL", help="The policy server, such as https://policy:8180."
    ),
]
ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        envvar="AKPOLICY_API_KEY_FILE",
        metavar="FILE",
        help="A file with the API key. Without it: AKPOLICY_API_KEY.",
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option("--ca-file", envvar="AKPOLICY_CA_FILE", metavar="FILE", help="Certificates that verify the server."),
]
ClientCertFileOption = Annotated[
    Path | None,
    typer.Option(
        "--client-cert-file", envvar="AKPOLICY_CLIENT_CERT_FILE", metavar="FILE", help="Your certificate (PEM)."
    ),
]
ClientKeyFileOption = Annotated[
    Path | None,
    typer.Option("--client-key-file", envvar="AKPOLICY_CLIENT_KEY_FILE", metavar="FILE", help="Its private key (PEM)."),
]
OutputOption = Annotated[OutputFormat, typer.Option("--output", "-o", help="For people or for programs.")]
OrgOption = Annotated[str | None, typer.Option("--org", metavar="NAME", help="The org, as `--scope org/NAME`.")]
TeamOption = Annotated[str | None, typer.Option("--team", metavar="NAME", help="A team of --org, by its name.")]
UserOption = Annotated[
    str | None,
    typer.Option("--user", metavar="SUBJECT", help="A user of --org, by the subject that the host's runtime states."),
]
ScopeOption = Annotated[
    str | None,
    typer.Option(
        "--scope", metavar="SCOPE", help="`global`, `org/NAME`, `org/NAME/team/TEAM` or `org/NAME/user/USER`, encoded."
    ),
]
MessageOption = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the history.")]
IdempotencyKeyOption = Annotated[
    str | None, typer.Option(metavar="KEY", help="Makes a repeat safe. Without it: a new one, shown if needed.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would happen, and what hosts would refuse.")
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="URI|FILE", help="A key to sign with: a file, or a signer's URI. May be repeated."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PolicyFilesArgument = Annotated[
    list[Path],
    typer.Argument(
        parser=named_path,
        metavar="FILES",
        help="Cedar files; a directory means its *.cedar files; - is standard input.",
    ),
]


def examples(*lines: str) -> str:
    """Return the end of a command's help, with its lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)

"""`akpolicy keys`: make and look at signing keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_text

if TYPE_CHECKING:
    from akpolicy.keys import PublicKey

app = typer.Typer(help="Make and look at signing keys.", no_args_is_help=True)


@app.command(epilog=examples("akpolicy keys generate --out root.pem"))
def generate(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the private key (PEM, mode 0600).")],
    output: OutputOption = "text",
) -> None:
    """Make a new Ed25519 key and print its public half.

    An existing file is never overwritten.
    """
    from akpolicy.signing import create_key_file

    _print_key(out, create_key_file(out).public_key, output)


@app.command(
    epilog=examples("akpolicy keys show root.pem", "akpolicy keys show root.pem --output json | jq -r .anchor")
)
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A private key as `keys generate` wrote it.")],
    output: OutputOption = "text",
) -> None:
    """Print a key's trust anchor, for the configuration of sidecars, and its id."""
    from akpolicy.signing import load_key_file

    _print_key(file, load_key_file(file).public_key, output)


def _print_key(file: Path, key: PublicKey, output: OutputFormat) -> None:
    if output == "json":
        print_json({"file": str(file), "anchor": key.anchor, "key_id": key.key_id})
    else:
        print_text(f"anchor  {key.anchor}\nkey id  {key.key_id}")

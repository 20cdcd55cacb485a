"""`akpolicy keys`: make and look at signing keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_text
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.keys import PublicKey

app = typer.Typer(help="Make and look at signing keys.", no_args_is_help=True)


@app.command(
    epilog=examples(
        "akpolicy keys generate --out root.pem",
        "akpolicy keys generate --out root.pem --passphrase-file root.pass",
        'akpolicy keys generate --pkcs11 "pkcs11:token=akpolicy;object=root?pin-source=file:/etc/akpolicy/pin"',
    )
)
def generate(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the private key (PEM, mode 0600).")
    ] = None,
    pkcs11: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Instead of --out: the token to make the key in, and the key's label there."),
    ] = None,
    passphrase_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encrypt the file with the passphrase in this variable.")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Encrypt the file with the passphrase in this file.")
    ] = None,
    output: OutputOption = "text",
) -> None:
    """Make a new Ed25519 key and print its public half.

    An existing key is never overwritten. A key made in a token (HSM) cannot leave it.
    """
    from akpolicy.signing import create_key_file, create_token_key

    passphrase = _passphrase(passphrase_env, passphrase_file)
    if out is not None and pkcs11 is None:
        _print_key("file", str(out), create_key_file(out, passphrase).public_key, output)
    elif pkcs11 is not None and out is None:
        if passphrase is not None:
            raise UsageError("a token has a PIN and no passphrase: say where the PIN is with `pin-source=` in the URI")
        _print_key("uri", pkcs11, create_token_key(pkcs11), output)
    else:
        raise UsageError("say where the key goes: --out FILE or --pkcs11 URI, one of them")


@app.command(
    epilog=examples(
        "akpolicy keys show root.pem",
        "akpolicy keys show root.pem --output json | jq -r .anchor",
        'akpolicy keys show "file:root.pem?passphrase-file=root.pass"',
        "akpolicy keys show env:ROOT_KEY",
        'akpolicy keys show "pkcs11:token=akpolicy;object=root?pin-source=file:/etc/akpolicy/pin"',
    )
)
def show(
    key: Annotated[
        str,
        typer.Argument(
            metavar="URI|FILE", help="A signer's URI, or a key file without passphrase (./a:b if its name has a colon)."
        ),
    ],
    output: OutputOption = "text",
) -> None:
    """Print a key's trust anchor, for the configuration of sidecars, and its id.

    Whatever holds the key is opened, so that this also says whether it can be used.
    """
    from akpolicy.signing import load_key_file, looks_like_uri, open_signer

    if not looks_like_uri(key):
        _print_key("file", key, load_key_file(Path(key)).public_key, output)
        return
    signer = open_signer(key)
    try:
        _print_key("uri", key, signer.public_key, output)
    finally:
        signer.close()


def _passphrase(env: str | None, file: Path | None) -> bytes | None:
    from akpolicy.signing import SecretSource

    if env is not None and file is not None:
        raise UsageError("a key has one passphrase: --passphrase-env or --passphrase-file")
    if env is not None:
        return SecretSource.env(env).read()
    return None if file is None else SecretSource.file(file).read()


def _print_key(kind: str, place: str, key: PublicKey, output: OutputFormat) -> None:
    if output == "json":
        print_json({kind: place, "anchor": key.anchor, "key_id": key.key_id})
    else:
        print_text(f"anchor  {key.anchor}\nkey id  {key.key_id}")

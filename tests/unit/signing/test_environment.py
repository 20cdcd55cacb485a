"""Keys in variables, and what is said of everything else that a variable may hold."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.errors import KeyFileError, SignerUnavailable
from akpolicy.signing import PrivateKeySigner, open_signer
from tests.unit.signing.opening import refusal, signs

SEED = bytes(range(200, 232))
KEY = PrivateKeySigner.from_private_key(Ed25519PrivateKey.from_private_bytes(SEED))
STANDARD = base64.b64encode(SEED).decode()
URL_SAFE = base64.urlsafe_b64encode(SEED).decode()


@pytest.mark.parametrize(
    "value",
    [
        KEY.to_pem().decode(),
        f"\n  {KEY.to_pem().decode()}",
        STANDARD,
        URL_SAFE,
        STANDARD.rstrip("="),
        f"{URL_SAFE}\n",
    ],
    ids=["PEM", "PEM with space", "base64", "base64url", "without padding", "with a line end"],
)
def test_a_variable_holds_pem_or_a_seed(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SIGNING_KEY", value)
    signer = open_signer("env:SIGNING_KEY")
    assert signer.public_key == KEY.public_key
    assert signs(signer)
    signer.close()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("not base64!", "neither a key in PEM nor base64"),
        (base64.b64encode(SEED[:31]).decode(), "holds 31 bytes"),
        (base64.b64encode(SEED + KEY.public_key.raw).decode(), "holds 64 bytes"),
        (SEED.hex(), "holds hex"),
        (KEY.public_key.anchor, "public key"),
        (KEY.to_pem().decode()[:-60], "not a private key in PEM"),
        (KEY.to_pem().decode().replace("\n", "\\n"), "not a private key in PEM"),
        (KEY.to_pem(b"a passphrase").decode(), "protected by a passphrase"),
        ("A" * 16_385, "which is no key"),
        ("-----BEGIN \udcff", "not a private key in PEM"),
    ],
    ids=[
        "empty",
        "blank",
        "no base64",
        "short",
        "seed and public key",
        "hex",
        "anchor",
        "cut off",
        "escaped line ends",
        "protected",
        "oversize",
        "no text",
    ],
)
def test_what_is_no_key_is_said_and_never_shown(monkeypatch: pytest.MonkeyPatch, value: str, reason: str) -> None:
    monkeypatch.setenv("SIGNING_KEY", value)
    said = refusal("env:SIGNING_KEY", KeyFileError)
    assert reason in said
    assert "`SIGNING_KEY`" in said
    assert not any(value[start : start + 6] in said for start in range(11, len(value) - 6, 3))


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNING_KEY", raising=False)
    assert "the variable `SIGNING_KEY` is not set" in refusal("env:SIGNING_KEY", KeyFileError)


@pytest.mark.parametrize(
    "name",
    ["", "A-B", "1A", "A B", "A=B", "Ä", STANDARD, URL_SAFE, "a" * 43, "b" * 64, "A?passphrase-env=B"],
    ids=ascii,
)
def test_what_can_be_no_variables_name_is_not_shown(name: str) -> None:
    said = refusal(f"env:{name}", SignerUnavailable)
    assert len(name) < 4 or name not in said

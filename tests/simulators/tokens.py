"""Tokens of SoftHSM, the PKCS#11 library in software: real, each in a directory of its own.

A process loads the library once, and the library reads its configuration once: in a test's own process there is one
`SoftTokens` at a time, and `end` lets the next one begin.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_named_curve_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

PIN: Final = "2468-user"
SO_PIN: Final = "1357-officer"
LABEL: Final = "akpolicy"
_PLACES: Final = ("softhsm", "*/softhsm", "*/pkcs11", "pkcs11")


def library() -> Path:
    """Return SoftHSM's library where Debian, or another system, puts it."""
    found = [path for place in _PLACES for path in Path("/usr/lib").glob(f"{place}/libsofthsm2.so")]
    assert found, "softhsm2-util is there, but not its library"
    return found[0]


def generate(session: pkcs11.Session, label: str, key_id: bytes, **private: Any) -> None:
    """Make an Ed25519 pair in a session; `private` are attributes of its private key by name."""
    curve = session.create_domain_parameters(
        KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}, local=True
    )
    curve.generate_keypair(
        id=key_id,
        label=label,
        store=True,
        mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
        private_template={Attribute[name.upper()]: value for name, value in private.items()},
    )


class SoftTokens:
    """A directory of tokens, and what a test does to them behind akpolicy's back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "tokens"
        self.directory.mkdir(mode=0o700)
        self.config = directory / "softhsm2.conf"
        self.config.write_text(f"directories.tokendir = {self.directory}\nlog.level = ERROR\n", encoding="utf-8")
        self.environment = {"SOFTHSM2_CONF": str(self.config)}
        self.pin_file = directory / "pin"
        self.write_pin(PIN)

    def write_pin(self, pin: str) -> None:
        """Put another PIN into the file that `uri` names."""
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(f"{pin}\n", encoding="utf-8")

    def add(self, label: str = LABEL) -> None:
        """Make a token with the user's PIN."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=60)

    def uri(self, name: str = "object=bundle", *, token: str = f"token={LABEL}", pin: str | None = None) -> str:
        """Return the URI of a key; `pin` is another PIN source."""
        return f"pkcs11:{token};{name}?module-path={library()}&pin-source={pin or f'file:{self.pin_file}'}"

    # --- behind akpolicy's back ---------------------------------------------------------------------------------------

    @contextmanager
    def session(self, label: str = LABEL, pin: str | None = PIN) -> Iterator[pkcs11.Session]:
        """Open a session of the test's own that may write; without a PIN it is logged in if a signer is open."""
        with pkcs11.lib(str(library())).get_token(token_label=label).open(rw=True, user_pin=pin) as session:
            yield session

    def make_pair(self, label: str = "bundle", key_id: bytes = b"\x01", **private: Any) -> None:
        """Make an Ed25519 pair; `private` are attributes of its private key by name."""
        with self.session() as session:
            generate(session, label, key_id, **private)

    def begin_anew(self) -> None:
        """Let the library forget every session, as when a token is pulled or its service restarts."""
        pkcs11.lib(str(library())).reinitialize()

    def end(self) -> None:
        """Let go of the library, so that the next test's configuration counts."""
        pkcs11.lib(str(library())).finalize()

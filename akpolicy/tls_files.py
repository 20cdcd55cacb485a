"""TLS files: certificates and keys in PEM, checked before anybody relies on them, and followed when they change.

Rules:

- A certificate and its key are used together or not at all: a key of another certificate, which is what the middle of a
  rotation looks like, is refused. So is a file that ends in the middle of a certificate.
- What is wrong is a `ConfigError` that names the file, never a handshake that fails.
- A listener goes on with what it had while the files cannot be used. Connections that stand are not touched: new files
  are for new handshakes.
- Here is PEM and no gRPC; who listens or connects makes credentials of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from akpolicy.errors import ConfigError
from akpolicy.limits import KIB
from akpolicy.watched_files import WatchedFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
    from cryptography.x509 import Certificate

    from akpolicy.clock import Clock
    from akpolicy.errors import AkpolicyError
    from akpolicy.settings_types import TlsFiles

MAX_PEM_BYTES: Final = 1024 * KIB

# BoringSSL, which gRPC brings, loads keys of no other kind.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BEGIN = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A certificate chain and its key as PEM. `expires_at`: when the certificate itself does, in epoch seconds."""

    chain: bytes
    key: bytes = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a listener shows; with `client_ca` (PEM), clients must present a certificate that it verifies."""

    identity: TlsIdentity
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a client trusts servers by (PEM; None: what its TLS library trusts), and what it shows them."""

    roots: bytes | None = None
    identity: TlsIdentity | None = None


@dataclass(frozen=True, slots=True)
class ClientTlsFiles:
    """Files of a client; the certificate and its key are both there or neither."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that are there."""
        return tuple(path for path in (self.ca_file, self.cert_file, self.key_file) if path is not None)


# --- a listener's -----------------------------------------------------------------------------------------------------


def read_server_tls(files: TlsFiles, previous: ServerTls | None = None) -> ServerTls:
    """Read and check a listener's files, and return `previous` if they hold the same; raise `ConfigError`."""
    chain, key = _read_pem(files.cert_file, "certificate"), _read_pem(files.key_file, "key")
    client_ca = _read_pem(files.client_ca_file, "client CA file") if files.client_ca_file else None
    if previous and (previous.identity.chain, previous.identity.key, previous.client_ca) == (chain, key, client_ca):
        return previous
    if client_ca is not None and files.client_ca_file is not None:
        _certificates(client_ca, files.client_ca_file, "client CA file")
    return ServerTls(_identity(chain, key, (files.cert_file, files.key_file), "certificate", "key"), client_ca)


class ListenerTls:
    """What a listener shows, following its files. For one listener alone: it knows what that one has."""

    def __init__(self, files: TlsFiles, *, clock: Clock, failed: Callable[[AkpolicyError], None]) -> None:
        """Read the files; raise `ConfigError`. `failed` is told once of each change that cannot be used."""
        paths = [path for path in (files.cert_file, files.key_file, files.client_ca_file) if path is not None]
        self._files = WatchedFiles[ServerTls](paths, partial(read_server_tls, files), clock=clock, failed=failed)
        self.initial = self._files.load()
        self._given = self.initial

    def renewed(self) -> ServerTls | None:
        """Return what handshakes use from now on; None if nothing changed since the last call."""
        latest = self._latest()
        if latest is self._given:
            return None
        self._given = latest
        log.info("changed TLS files are in use", expires_at=latest.identity.expires_at)
        return latest

    def expires_at(self) -> float:
        """Return when the certificate that the next handshake shows expires, in epoch seconds."""
        return self._latest().identity.expires_at

    def _latest(self) -> ServerTls:
        return self._files.refresh() or self.initial


# --- a client's -------------------------------------------------------------------------------------------------------


def read_client_tls(files: ClientTlsFiles, previous: ClientTls | None = None) -> ClientTls:
    """Read and check a client's files, and return `previous` if they hold the same; raise `ConfigError`."""
    if (files.cert_file is None) != (files.key_file is None):
        raise ConfigError("a client certificate needs its key: give both files or neither")
    roots = _read_pem(files.ca_file, "CA file") if files.ca_file else None
    chain = _read_pem(files.cert_file, "client certificate") if files.cert_file else b""
    key = _read_pem(files.key_file, "client key") if files.key_file else b""
    if previous and (previous.roots, *_pem_of(previous.identity)) == (roots, chain, key):
        return previous
    if roots is not None and files.ca_file is not None:
        _certificates(roots, files.ca_file, "CA file")
    if files.cert_file is None or files.key_file is None:
        return ClientTls(roots)
    paths = (files.cert_file, files.key_file)
    return ClientTls(roots, _identity(chain, key, paths, "client certificate", "client key"))


def _pem_of(identity: TlsIdentity | None) -> tuple[bytes, bytes]:
    return (identity.chain, identity.key) if identity else (b"", b"")


# --- PEM --------------------------------------------------------------------------------------------------------------


def _identity(chain: bytes, key: bytes, paths: tuple[Path, Path], chain_name: str, key_name: str) -> TlsIdentity:
    """Check that certificate and key belong together."""
    chain_path, key_path = paths
    leaf = _certificates(chain, chain_path, chain_name)[0]
    public = _public_key(key, key_path, key_name)
    try:
        is_pair = leaf.public_key() == public
    except (ValueError, UnsupportedAlgorithm):
        is_pair = False
    if not is_pair:
        raise ConfigError(f"{key_name} `{key_path}` is not the key of {chain_name} `{chain_path}`: renew both")
    return TlsIdentity(chain, key, leaf.not_valid_after_utc.timestamp())


def _certificates(pem: bytes, path: Path, what: str) -> list[Certificate]:
    try:
        found = load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{what} `{path}` has no readable certificate in PEM") from None
    if len(found) < len(_BEGIN.findall(pem)):
        raise ConfigError(f"{what} `{path}` ends in the middle of a certificate")
    return found


def _public_key(pem: bytes, path: Path, what: str) -> CertificatePublicKeyTypes:
    try:
        # The numbers of an RSA key are checked by who loads it for use; here that would stop the program for 0.2 s.
        public = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{what} `{path}` is no unencrypted private key in PEM") from None
    if isinstance(public, (rsa.RSAPublicKey, ed25519.Ed25519PublicKey)):
        return public
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return public
    raise ConfigError(f"{what} `{path}` is of a kind that gRPC cannot use; make one for RSA or the curve P-256")


def _read_pem(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} `{path}`: {error.strerror}") from error
    if len(pem) > MAX_PEM_BYTES:
        raise ConfigError(f"{what} `{path}` has more than {MAX_PEM_BYTES} bytes; name a PEM file")
    return pem

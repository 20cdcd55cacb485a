"""Certificates for tests: an authority, what it signs for servers and clients of 127.0.0.1, and who shows what."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DAY = dt.timedelta(days=1)
_HANDSHAKE_DEADLINE_S = 20.0


@dataclass(frozen=True)
class Identity:
    """Files of a certificate and its private key (PEM)."""

    certificate: Path
    key: Path

    @property
    def serial(self) -> int:
        """The certificate's serial number, which tells one from all others."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number

    def move_to(self, place: Identity) -> Identity:
        """Take the place of another identity's files, by renames, and return what is there now."""
        self.certificate.rename(place.certificate)
        self.key.rename(place.key)
        return place


def shown_serial(address: str, trusting: AuthoritySimulator) -> int:
    """Shake hands with `host:port` and return the serial number of the certificate that is shown there."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(trusting.ca_file))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=_HANDSHAKE_DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


class AuthoritySimulator:
    """A certificate authority that lives for one test."""

    def __init__(
        self, directory: Path, name: str = "test authority", *, above: AuthoritySimulator | None = None
    ) -> None:
        """Make the authority's key and its certificate `ca_file` in `directory`; `above` signs it, else itself."""
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        signer = above or self
        constraints = x509.BasicConstraints(ca=True, path_length=0 if above is None else None)
        builder = _builder(self._name, signer._name, self._key).add_extension(constraints, critical=True)
        self.ca_file = directory / f"{name.replace(' ', '-')}.pem"
        self.ca_file.write_bytes(_pem(builder.sign(signer._key, hashes.SHA256())))

    def issue(
        self, name: str, *, days: int = 1, uris: Sequence[str] = (), until: dt.datetime | None = None, ca: bool = False
    ) -> Identity:
        """Sign a certificate for 127.0.0.1 and `localhost`, and write it with its private key (0600).

        It is valid for `days`, or `until` then, and names `uris` too. `ca`: it is one of an authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.DNSName("localhost"),
                *map(x509.UniformResourceIdentifier, uris),
            ]
        )
        builder = _builder(_name(name), self._name, key, days=days, until=until).add_extension(names, critical=False)
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        identity = Identity(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        identity.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        identity.key.touch(mode=0o600)
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    days: int = 1,
    until: dt.datetime | None = None,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(until or now + days * _DAY)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

"""Which host a client certificate is of.

Rules:

- The certificate was verified by the TLS handshake; here is only read whom it names. It must have exactly one URI among
  its subject alternative names, and that must be a SPIFFE id. Common names, DNS names and addresses say nothing.
- A SPIFFE id is `spiffe://<trust domain>/<segment>/...`, read as bytes on a page: one spelling, lower-case domain, no
  port, user, query, fragment, percent-encoding, empty or dotted segments. Nothing is normalised before it is compared.
- The pattern of the path is compared segment by segment. `{org}` and `{host_id}` stand for a whole segment each, and
  what stands there must be an org's name and a host's id as everywhere else.
- A certificate speaks for the orgs that the server's settings name, and for no other.
- Its end is looked at here too: a connection outlives the handshake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from akpolicy.errors import PermissionDenied, Unauthenticated
from akpolicy.limits import KIB
from akpolicy.scope import HOST_ID_PATTERN, is_org_name
from akpolicy_server.access import Caller, Role

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_CERTIFICATE_BYTES: Final = 64 * KIB
# The standard's limit for a SPIFFE id.
MAX_ID_CHARS: Final = 2048
ORG: Final = "{org}"
HOST_ID: Final = "{host_id}"
DEFAULT_PATH: Final = f"/org/{ORG}/host/{HOST_ID}"
# Stands for every org.
ANY_ORG: Final = "*"
# What tells a certificate from an API key where one of the two is named: their ids have no colon.
CREDENTIAL_PREFIX: Final = "x509:"
SHOWN_FINGERPRINT_CHARS: Final = 16

TRUST_DOMAIN_PATTERN: Final = r"[a-z0-9._-]{1,255}"
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"
_ID: Final = re.compile(rf"spiffe://({TRUST_DOMAIN_PATTERN})((?:/{_SEGMENT})+)", re.ASCII)
_PATTERN: Final = re.compile(rf"(?:/(?:{_SEGMENT}|\{{org\}}|\{{host_id\}}))+", re.ASCII)
_HOST: Final = re.compile(HOST_ID_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class CertifiedHost:
    """A host as its certificate names it. `expires_at`: the end of the certificate, in epoch seconds."""

    org: str
    host_id: str
    credential_id: str
    expires_at: float

    @property
    def caller(self) -> Caller:
        """Who calls."""
        return Caller(self.credential_id, Role.HOST, self.org, self.host_id, self.expires_at)


class HostNaming:
    """How SPIFFE ids name hosts: one trust domain, one pattern of the path, and the orgs that it may name."""

    def __init__(self, trust_domain: str, path: str, orgs: Collection[str]) -> None:
        """Take what `check_path` and the settings have checked. Without `{org}` in `path` there is one org."""
        self._trust_domain = trust_domain
        self._pattern = path.split("/")
        self._orgs = frozenset(orgs)

    def host_of(self, pem: bytes, now: float) -> CertifiedHost:
        """Return the host of a verified certificate at `now` (epoch seconds).

        Raises `Unauthenticated` for a certificate that names no host or has expired, and `PermissionDenied` for a host
        of an org that these certificates do not speak for.
        """
        certificate = _read(pem)
        expires_at = certificate.not_valid_after_utc.timestamp()
        if now >= expires_at:
            raise Unauthenticated("the client certificate has expired; renew it")
        org, host_id = self.names_in(_only_uri(certificate))
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()[:SHOWN_FINGERPRINT_CHARS]
        return CertifiedHost(org, host_id, f"{CREDENTIAL_PREFIX}{fingerprint}", expires_at)

    def names_in(self, uri: str) -> tuple[str, str]:
        """Return the org and the host id in a SPIFFE id; raise as `host_of`."""
        match = _ID.fullmatch(uri) if len(uri) <= MAX_ID_CHARS else None
        if match is None:
            raise Unauthenticated("the URI of the client certificate is no SPIFFE id, `spiffe://domain/path`")
        if match[1] != self._trust_domain:
            raise Unauthenticated(f"the client certificate is of another trust domain than `{self._trust_domain}`")
        segments = match[2].split("/")
        if len(segments) != len(self._pattern):
            raise self._other_path()
        found: dict[str, str] = {}
        for expected, segment in zip(self._pattern, segments, strict=True):
            if expected in (ORG, HOST_ID):
                found[expected] = segment
            elif expected != segment:
                raise self._other_path()
        return self._org(found), _host_id(found[HOST_ID])

    def _org(self, found: dict[str, str]) -> str:
        if ORG not in found:
            [only] = self._orgs
            return only
        org = found[ORG]
        if not is_org_name(org):
            raise Unauthenticated("the client certificate names no org where its path must have one")
        if org not in self._orgs and ANY_ORG not in self._orgs:
            raise PermissionDenied(f"client certificates do not speak for hosts of the org `{org}` on this server")
        return org

    def _other_path(self) -> Unauthenticated:
        return Unauthenticated(f"the path of the client certificate's SPIFFE id is not `{'/'.join(self._pattern)}`")


def check_path(path: str) -> str:
    """Return `path` if it can be a pattern, else raise `ValueError`."""
    if len(path) > MAX_ID_CHARS or not _PATTERN.fullmatch(path):
        msg = f"must be a path such as `{DEFAULT_PATH}`, whose segments have A-Z, a-z, 0-9, `.`, `_`, `-`"
        raise ValueError(msg)
    segments = path.split("/")
    if segments.count(HOST_ID) != 1 or segments.count(ORG) > 1:
        msg = f"must have `{HOST_ID}` once, and `{ORG}` at most once"
        raise ValueError(msg)
    return path


def _host_id(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise Unauthenticated("the client certificate names no host id where its path must have one")
    return text


def _read(pem: bytes) -> x509.Certificate:
    if len(pem) > MAX_CERTIFICATE_BYTES:
        raise Unauthenticated(f"the client certificate has more than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Unauthenticated("the client certificate cannot be read") from None


def _only_uri(certificate: x509.Certificate) -> str:
    """Return the certificate's one URI; a certificate of an authority has none that counts."""
    try:
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise Unauthenticated("the extensions of the client certificate cannot be read") from None
    if len(uris) != 1:
        raise Unauthenticated(f"the client certificate must name its host by one URI, it has {len(uris)}")
    if _is_authority(certificate):
        raise Unauthenticated("the client certificate is one of an authority; a host needs one of its own")
    return uris[0]


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False

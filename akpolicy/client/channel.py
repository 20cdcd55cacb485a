"""gRPC channels: to the policy server over TCP, to a sidecar over its Unix socket.

Rules:

- TLS is the rule. Plaintext `http://` reaches only this machine, unless the caller says `allow_plaintext`.
- Certificates are read and looked at here, so that a wrong file is an error with a name and not a failed handshake.
- Keepalive pings must find a dead path and must never earn a GOAWAY `too_many_pings`: a gRPC server with default
  settings counts a ping as abuse when less than 5 minutes of silence lie before it (gRFC A8, `grpc.http2.
  min_ping_interval_without_data_ms`). 330 s is above that, and below the 350 s after which common load balancers drop
  an idle connection.
- An API key goes into the metadata of a call, never into a message or an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from akpolicy.addresses import SecretValueError, ServerUrl, is_loopback
from akpolicy.errors import ConfigError
from akpolicy.limits import KIB, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Option = tuple[str, "str | int"]

KEEPALIVE_TIME_MS: Final = 330_000
KEEPALIVE_TIMEOUT_MS: Final = 20_000
# A server or sidecar that comes back must be found at once; many hosts are spread by the library's own jitter.
INITIAL_BACKOFF_MS: Final = 100
MAX_BACKOFF_MS: Final = 5_000
# How long a connection may take to come about, TLS included. This is what gRPC's `min_reconnect_backoff_ms` sets,
# whatever its name says: with less, a distant or a busy server could not be reached at all.
CONNECT_TIMEOUT_MS: Final = 10_000
MAX_PEM_BYTES: Final = 1024 * KIB

_API_KEY = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, slots=True)
class ServerEndpoint:
    """Where the policy server is and how to trust it. `target` is `host:port`.

    `ca_file` holds the roots that verify the server (None: the roots that gRPC ships with); `client_cert_file` and
    `client_key_file` are what this end shows, both or neither.
    """

    target: str
    tls: bool = True
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None


def parse_server_url(
    url: str | ServerUrl,
    *,
    allow_plaintext: bool = False,
    ca_file: Path | None = None,
    client_cert_file: Path | None = None,
    client_key_file: Path | None = None,
) -> ServerEndpoint:
    """Read `https://host[:port]`, or `http://` of this machine; raise `ConfigError` saying what to write."""
    try:
        parsed = ServerUrl.parse(url) if isinstance(url, str) else url
    except SecretValueError as error:
        raise ConfigError(f"the server's URL {error}") from None
    if not parsed.secure and not allow_plaintext and not parsed.address.is_loopback:
        raise ConfigError(f"`{parsed}` would send everything in plaintext over the network; write `https://`")
    files = (ca_file, client_cert_file, client_key_file)
    if not parsed.secure and any(files):
        raise ConfigError(f"`{parsed}` has no TLS, but certificate files are given; write `https://` or drop the files")
    return ServerEndpoint(parsed.target, parsed.secure, *files)


def open_channel(endpoint: ServerEndpoint, *, options: Sequence[Option] = ()) -> grpc.Channel:
    """Open a channel to the server; it connects with the first call.

    `options` are gRPC channel arguments that come on top of `channel_options`. Raises `ConfigError` for certificate
    files that cannot be used.
    """
    arguments = channel_options(endpoint, options)
    if not endpoint.tls:
        return grpc.insecure_channel(endpoint.target, options=arguments)
    return grpc.secure_channel(endpoint.target, channel_credentials(endpoint), options=arguments)


def channel_options(endpoint: ServerEndpoint, extra: Sequence[Option] = ()) -> list[Option]:
    """Return the channel arguments for a server: keepalive, backoff, message sizes, then `extra`."""
    options: list[Option] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", INITIAL_BACKOFF_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_BACKOFF_MS),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ]
    if is_loopback(endpoint.target.rpartition(":")[0].strip("[]")):
        # A proxy of the environment cannot reach this machine's loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return [*options, *extra]


def channel_credentials(endpoint: ServerEndpoint) -> grpc.ChannelCredentials:
    """Return TLS credentials from the endpoint's files; raise `ConfigError` naming the file that cannot be used."""
    certificate, key = endpoint.client_cert_file, endpoint.client_key_file
    if (certificate is None) != (key is None):
        raise ConfigError("a client certificate needs its key: give both files or neither")
    roots = _read_certificates(endpoint.ca_file, "CA file") if endpoint.ca_file else None
    if certificate is None or key is None:
        return grpc.ssl_channel_credentials(root_certificates=roots)
    chain = _read_certificates(certificate, "client certificate")
    return grpc.ssl_channel_credentials(roots, _read_private_key(key), chain)


def bearer(api_key: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries an API key; raise `ConfigError` (without the key) if it cannot be one."""
    if not _API_KEY.fullmatch(api_key):
        raise ConfigError("the API key is empty or has spaces or control characters; copy it as it was printed")
    return (("authorization", f"Bearer {api_key}"),)


def connect_failure(details: str) -> str:
    """Return the cause in gRPC's account of a failed connection, which repeats the address up to three times."""
    return details.rpartition("last error: ")[2].rpartition(" error: ")[2]


def _read_certificates(path: Path, what: str) -> bytes:
    pem = _read_pem(path, what)
    try:
        load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{what} `{path}` has no readable certificate in PEM") from None
    return pem


def _read_private_key(path: Path) -> bytes:
    pem = _read_pem(path, "client key")
    try:
        load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise ConfigError(f"client key `{path}` is no unencrypted private key in PEM") from None
    return pem


def _read_pem(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} `{path}`: {error.strerror}") from error
    if len(pem) > MAX_PEM_BYTES:
        raise ConfigError(f"{what} `{path}` has more than {MAX_PEM_BYTES} bytes; name a PEM file")
    return pem

"""gRPC channels: to the policy server over TCP, to a sidecar over its Unix socket.

Rules:

- TLS is the rule. Plaintext `http://` reaches only this machine, unless the caller says `allow_plaintext`.
- Certificates are read and checked (`akpolicy.tls_files`) before a channel is opened, so that a wrong file is an error
  with a name and not a failed handshake. A channel keeps what it was opened with: who follows changes opens another.
- Keepalive pings must find a dead path and must never earn a GOAWAY `too_many_pings`: a gRPC server with default
  settings counts a ping as abuse when less than 5 minutes of silence lie before it (gRFC A8, `grpc.http2.
  min_ping_interval_without_data_ms`). 330 s is above that, and below the 350 s after which common load balancers drop
  an idle connection.
- What is on its way to this end is bounded (`WINDOW_BYTES`): on a slow line a server's ping waits behind it, and a
  server that waits too long takes this end for dead. By itself gRPC lets it grow until the line is never idle.
- An API key goes into the metadata of a call, never into a message or an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from akpolicy.addresses import SecretValueError, ServerUrl, is_loopback
from akpolicy.api_key_file import check_api_key
from akpolicy.errors import ConfigError
from akpolicy.limits import KIB, MAX_MESSAGE_BYTES
from akpolicy.tls_files import ClientTls, ClientTlsFiles, read_client_tls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Option = tuple[str, "str | int"]

# Trailing metadata of a call that the server ends: after how many milliseconds the caller is to come back.
RETRY_AFTER_METADATA: Final = "akpolicy-retry-after-ms"
# Trailing metadata of a stream that ends for nobody's fault: the host is to open another one, and has not lost contact.
REOPEN_METADATA: Final = "akpolicy-reopen"
KEEPALIVE_TIME_MS: Final = 330_000
KEEPALIVE_TIMEOUT_MS: Final = 20_000
# With a chunk of content (256 KiB) that is waited for, up to 320 KiB are on their way.
WINDOW_BYTES: Final = 64 * KIB
# A server or sidecar that comes back must be found at once; many hosts are spread by the library's own jitter.
INITIAL_BACKOFF_MS: Final = 100
MAX_BACKOFF_MS: Final = 5_000
# How long a connection may take to come about, TLS included. This is what gRPC's `min_reconnect_backoff_ms` sets,
# whatever its name says: with less, a distant or a busy server could not be reached at all.
CONNECT_TIMEOUT_MS: Final = 10_000


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

    @property
    def tls_files(self) -> ClientTlsFiles:
        """The files as what `akpolicy.tls_files` reads."""
        return ClientTlsFiles(self.ca_file, self.client_cert_file, self.client_key_file)


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


def open_channel(
    endpoint: ServerEndpoint, *, options: Sequence[Option] = (), tls: ClientTls | None = None
) -> grpc.Channel:
    """Open a channel to the server; it connects with the first call.

    `options` are gRPC channel arguments that come on top of `channel_options`. `tls` is what the endpoint's files hold
    (None: they are read). Raises `ConfigError` for certificate files that cannot be used.
    """
    arguments = channel_options(endpoint, options)
    if not endpoint.tls:
        return grpc.insecure_channel(endpoint.target, options=arguments)
    credentials = channel_credentials(tls or read_client_tls(endpoint.tls_files))
    return grpc.secure_channel(endpoint.target, credentials, options=arguments)


def channel_options(endpoint: ServerEndpoint, extra: Sequence[Option] = ()) -> list[Option]:
    """Return the channel arguments for a server: keepalive, backoff, message sizes, then `extra`."""
    options: list[Option] = [
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", INITIAL_BACKOFF_MS),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_BACKOFF_MS),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ]
    if is_loopback(endpoint.target.rpartition(":")[0].strip("[]")):
        # A proxy of the environment cannot reach this machine's loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return [*options, *extra]


def channel_credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    """Return TLS credentials of what was read."""
    if tls.identity is None:
        return grpc.ssl_channel_credentials(tls.roots)
    return grpc.ssl_channel_credentials(tls.roots, tls.identity.key, tls.identity.chain)


def bearer(api_key: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries an API key; raise `ConfigError` (without the key) if it cannot be one."""
    return (("authorization", f"Bearer {check_api_key(api_key)}"),)


def connect_failure(details: str) -> str:
    """Return the cause in gRPC's account of a failed connection, which repeats the address up to three times."""
    return details.rpartition("last error: ")[2].rpartition(" error: ")[2]

"""What the server can be told, in TOML.

The sections are `[server]`, `[server.tls]`, `[server.host_certificates]` (`settings_hosts`), `[server.retention]`
(`settings_retention`) and `[log]`; each key is a field there or below, with its default. What cannot be checked on one
value alone stands in `mistakes()`: nobody beyond this machine is served in plaintext, or shown metrics, unless that was
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from akpolicy.addresses import HostPort, SecretValueError
from akpolicy.limits import DEFAULT_HEARTBEAT_LIFETIME_S, MAX_HEARTBEAT_LIFETIME_S
from akpolicy.settings import Mistake, load_settings
from akpolicy.settings_types import (
    STRICT,
    ListenAddress,
    LogSettings,
    OptionalAddress,
    OrgName,
    PositiveSeconds,
    ResolvedPath,
    TlsFiles,
)
from akpolicy_server.listener import (
    DEFAULT_PING_INTERVAL_S,
    DEFAULT_PING_TIMEOUT_S,
    MAX_PING_INTERVAL_S,
    MAX_PING_TIMEOUT_S,
    MIN_PING_S,
)
from akpolicy_server.settings_hosts import HostCertificates
from akpolicy_server.settings_retention import RetentionSection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DATABASE_FILE: Final = "akpolicy.sqlite3"
SQLITE_PREFIX: Final = "sqlite:///"
POSTGRESQL_PREFIXES: Final = ("postgresql://", "postgres://")
MAX_BUNDLE_LIFETIME_DAYS: Final = 366
MAX_STREAMS_PER_HOST: Final = 64


def _database_url(text: str) -> str:
    if text.startswith(POSTGRESQL_PREFIXES):
        from akpolicy_server.store.postgresql import connection_info  # noqa: PLC0415 - only who has one loads a driver

        try:
            connection_info(text)
        except ValueError as error:
            raise SecretValueError(str(error)) from None
    elif text and not text.startswith(SQLITE_PREFIX):
        msg = "must begin with `postgresql://` or `sqlite:///`; leave it out for a file in data_dir"
        raise SecretValueError(msg)
    return text


@dataclass(frozen=True, config=STRICT)
class ServerSection:
    """`[server]`: addresses, storage and limits. Times are seconds unless the name says otherwise."""

    data_dir: ResolvedPath
    listen: ListenAddress = HostPort("127.0.0.1", 8180)
    rest_listen: OptionalAddress = None
    allow_plaintext: StrictBool = False
    database_url: Annotated[StrictStr, AfterValidator(_database_url)] = ""
    metrics_listen: OptionalAddress = HostPort("127.0.0.1", 8181)
    metrics_allow_remote: StrictBool = False
    keep_alive_seconds: PositiveSeconds = 10.0
    ping_interval_seconds: Annotated[StrictFloat, Field(ge=MIN_PING_S, le=MAX_PING_INTERVAL_S, allow_inf_nan=False)] = (
        DEFAULT_PING_INTERVAL_S
    )
    ping_timeout_seconds: Annotated[StrictFloat, Field(ge=MIN_PING_S, le=MAX_PING_TIMEOUT_S, allow_inf_nan=False)] = (
        DEFAULT_PING_TIMEOUT_S
    )
    max_streams_per_host: Annotated[StrictInt, Field(ge=1, le=MAX_STREAMS_PER_HOST)] = 4
    stream_age_seconds: PositiveSeconds = 1800.0
    shutdown_grace_seconds: PositiveSeconds = 5.0
    bundle_lifetime_days: Annotated[StrictInt, Field(ge=1, le=MAX_BUNDLE_LIFETIME_DAYS)] = 30
    heartbeat_lifetime_seconds: Annotated[StrictInt, Field(ge=1, le=MAX_HEARTBEAT_LIFETIME_S)] = (
        DEFAULT_HEARTBEAT_LIFETIME_S
    )
    signers: tuple[StrictStr, ...] = ()
    legacy_signers: dict[OrgName, StrictStr] = Field(default_factory=dict)
    tls: TlsFiles | None = None
    retention: RetentionSection = Field(default_factory=RetentionSection)
    host_certificates: HostCertificates | None = None

    @property
    def resolved_database_url(self) -> str:
        """The database's URL: `database_url`, or a file in the data directory."""
        return self.database_url or f"{SQLITE_PREFIX}{self.data_dir / DATABASE_FILE}"


@dataclass(frozen=True, config=STRICT)
class ServerSettings:
    """Everything the server can be told."""

    server: ServerSection
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def load(cls, path: Path, *, env: Mapping[str, str]) -> ServerSettings:
        """Read a settings file; raise `ConfigError`."""
        return load_settings(path, cls, env=env)

    def mistakes(self) -> Iterator[Mistake]:
        """Return what is wrong between keys."""
        server = self.server
        if server.tls is None and not server.allow_plaintext and not server.listen.is_loopback:
            yield Mistake(
                "server.listen",
                f"`{server.listen}` is reachable in plaintext by others; add [server.tls], or allow_plaintext = true",
                depends=("server.tls", "server.allow_plaintext"),
            )
        rest = server.rest_listen
        if rest is not None and server.tls is None and not server.allow_plaintext and not rest.is_loopback:
            yield Mistake(
                "server.rest_listen",
                f"`{rest}` is reachable in plaintext by others; add [server.tls], or allow_plaintext = true",
                depends=("server.tls", "server.allow_plaintext"),
            )
        if server.legacy_signers and rest is None:
            yield Mistake(
                "server.legacy_signers",
                "is of no use without rest_listen, which serves agentkernel's own endpoint",
                depends=("server.rest_listen",),
            )
        if server.host_certificates is not None:
            others = {f"server.{name}": getattr(server, name) for name in ("listen", "rest_listen", "metrics_listen")}
            yield from server.host_certificates.mistakes(has_tls=server.tls is not None, others=others)
        metrics = server.metrics_listen
        if metrics is not None and not metrics.is_loopback and not server.metrics_allow_remote:
            yield Mistake(
                "server.metrics_listen",
                f"`{metrics}` is reachable from other machines; use a loopback address, or metrics_allow_remote = true",
                depends=("server.metrics_allow_remote",),
            )

"""What the sidecar can be told, in TOML.

- `[enterprise]` has the keys that agentkernel hosts have today, under the names they have there; `trust_anchors.keys`
  holds keys, not ids. An unknown `offline_mode` is a mistake, never a silent default. `api_key_file` is our own.
- With `enabled = false` nothing else is needed, and what is given must still be right.
- `[sidecar]`, `[sidecar.tcp]` and `[log]` are this program's own. Paths that are left out are resolved when the file
  is read (`default_paths`), so every path in the loaded settings is the one to use.
- What cannot be checked on one value alone stands in `mistakes()`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass

from akpolicy.addresses import HostPort
from akpolicy.api_key_file import read_api_key_file
from akpolicy.errors import ConfigError, TrustError
from akpolicy.keys import MAX_ANCHORS, AnchorSet
from akpolicy.limits import MAX_JSON_INT, MAX_POLL_INTERVAL_S
from akpolicy.settings import Mistake, load_settings
from akpolicy.settings_types import (
    STRICT,
    EnvSecret,
    ExistingFile,
    ListenAddress,
    LogSettings,
    OctalMode,
    OptionalAddress,
    OptionalHttpsUrl,
    OrgName,
    PolicyServerUrl,
    PositiveSeconds,
    ResolvedPath,
    TlsFiles,
    load_context,
    resolve_path,
)
from akpolicy_sidecar.default_paths import AUDIT_NAME, default_socket, default_state_dir
from akpolicy_sidecar.host_key_file import check_host_key_file
from akpolicy_sidecar.settings_sessions import SessionsSection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OfflineMode = Literal["fail_closed", "cached_with_expiry", "cached_indefinite", "default_policy"]

AUDIT_STDOUT: Final = "-"
AUDIT_OFF: Final = "off"
MAX_CACHE_AGE_HOURS: Final = 366 * 24
MAX_DEFAULT_ROLES: Final = 64
MAX_ROLE_CHARS: Final = 128
MAX_WORKER_THREADS: Final = 64
MAX_FURTHER_SERVERS: Final = 15

MAX_GROUP_CHARS: Final = 64

# Stand for "work it out from the environment"; the fields' checks do.
_COMPUTED: Any = ""
_EMPTY: Any = {}


# --- checks -----------------------------------------------------------------------------------------------------------


def _anchor_from_text(value: object) -> object:
    """Let an anchor without validity be written as its key alone."""
    return {"key": value} if isinstance(value, str) else value


def _epoch_seconds(value: object) -> int | None:
    """Return the seconds since the epoch of a TOML date-time, which must have an offset, or of a number of them."""
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return int(value.timestamp())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_JSON_INT:
        return value
    msg = "must be a date and time with an offset, such as 2030-01-31T00:00:00Z, or seconds since 1970"
    raise ValueError(msg)


def _identity(value: object) -> str:
    if value != "stated":
        msg = "must be `stated`: verified and session identities are not available in this version"
        raise ValueError(msg)
    return "stated"


def _state_dir(value: object, info: ValidationInfo) -> Path:
    return default_state_dir(load_context(info).env) if value == "" else resolve_path(value, info)


def _socket(value: object, info: ValidationInfo) -> Path:
    if value != "":
        return resolve_path(value, info)
    context = load_context(info)
    return default_socket(context.env, info.data.get("state_dir", context.base_dir))


def _audit_log(value: object, info: ValidationInfo) -> str:
    if value == "":
        return str(info.data.get("state_dir", Path()) / AUDIT_NAME)
    return str(value) if value in (AUDIT_STDOUT, AUDIT_OFF) else str(resolve_path(value, info))


Role = Annotated[StrictStr, Field(min_length=1, max_length=MAX_ROLE_CHARS)]
StateDir = Annotated[Path, PlainValidator(_state_dir)]
SocketPath = Annotated[Path, PlainValidator(_socket)]
AuditTarget = Annotated[str, PlainValidator(_audit_log)]


# --- sections ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=STRICT)
class AnchorEntry:
    """A trust anchor as written: `ed25519:<base64>`, valid from and until (epoch seconds; None: no bound)."""

    key: StrictStr
    valid_from: Annotated[int | None, PlainValidator(_epoch_seconds)] = None
    valid_until: Annotated[int | None, PlainValidator(_epoch_seconds)] = None


@dataclass(frozen=True, config=STRICT)
class TrustAnchors:
    """`[enterprise.trust_anchors]`: the keys that vouch for the first root, and how many of them must."""

    keys: Annotated[
        tuple[Annotated[AnchorEntry, BeforeValidator(_anchor_from_text)], ...], Field(max_length=MAX_ANCHORS)
    ] = ()
    threshold: Annotated[StrictInt, Field(ge=1, le=MAX_ANCHORS)] = 1

    def parse(self) -> AnchorSet:
        """Return the anchors as keys; raise `AnchorFormat`, `WeakKey` or `DuplicateAnchor`."""
        return AnchorSet.parse(self.keys, self.threshold)


@dataclass(frozen=True, config=STRICT)
class EnterpriseSection:
    """`[enterprise]`: which server and org, and what holds while the server cannot be reached."""

    enabled: StrictBool = False
    policy_server: PolicyServerUrl | None = None
    org_id: OrgName | None = None
    api_key_env: EnvSecret | None = None
    api_key_file: ResolvedPath | None = None
    offline_mode: OfflineMode = "cached_with_expiry"
    cache_max_age_hours: Annotated[StrictInt, Field(ge=1, le=MAX_CACHE_AGE_HOURS)] = 24
    default_roles: Annotated[tuple[Role, ...], Field(max_length=MAX_DEFAULT_ROLES)] = ()
    jwks_url: OptionalHttpsUrl = ""
    trust_anchors: TrustAnchors = Field(default_factory=TrustAnchors)

    @property
    def lacks_api_key(self) -> bool:
        """Whether the host shows a certificate alone."""
        return self.api_key_env is None and self.api_key_file is None

    def mistakes(self, *, has_certificate: bool) -> Iterator[Mistake]:
        """Return what is wrong between these keys; with a client certificate, no API key is needed."""
        if self.enabled:
            yield from self._api_key_mistakes(has_certificate=has_certificate)
        for name, value in (("policy_server", self.policy_server), ("org_id", self.org_id)):
            if self.enabled and value is None:
                yield Mistake(f"enterprise.{name}", "is missing; `enabled = true` needs it", ("enterprise.enabled",))
        if self.enabled or self.trust_anchors.keys:
            try:
                self.trust_anchors.parse()
            except TrustError as error:
                yield Mistake("enterprise.trust_anchors.keys", error.message, ("enterprise.trust_anchors.threshold",))

    def _api_key_mistakes(self, *, has_certificate: bool) -> Iterator[Mistake]:
        secret, file = self.api_key_env, self.api_key_file
        if secret is None and file is None:
            if not has_certificate:
                others = ("enterprise.enabled", "enterprise.api_key_file", "sidecar.client_cert_file")
                message = "is missing; `enabled = true` needs it, or api_key_file, or client_cert_file in [sidecar]"
                yield Mistake("enterprise.api_key_env", message, others)
        elif secret is not None and file is not None:
            env = ("enterprise.api_key_env",)
            yield Mistake("enterprise.api_key_file", "stands beside api_key_env; keep one of the two", env)
        elif secret is not None and not secret.is_set:
            yield Mistake(
                "enterprise.api_key_env", f"environment variable `{secret.name}` is not set; put the API key there"
            )
        elif file is not None:
            try:
                read_api_key_file(file)
            except ConfigError as error:
                yield Mistake("enterprise.api_key_file", error.message)


def _host_key_mistakes(key_file: Path) -> Iterator[Mistake]:
    try:
        check_host_key_file(key_file)
    except ConfigError as error:
        yield Mistake("sidecar.client_key_file", error.message, ("enterprise.api_key_env", "enterprise.api_key_file"))


@dataclass(frozen=True, config=STRICT)
class TcpSection(TlsFiles):
    """`[sidecar.tcp]`: a second listener for runtimes, over TLS; without the section there is none."""

    listen: ListenAddress = HostPort("127.0.0.1", 8183)


@dataclass(frozen=True, config=STRICT)
class SidecarSection:
    """`[sidecar]`: this host's files, socket and limits. Times are seconds."""

    state_dir: StateDir = Field(default=_COMPUTED, validate_default=True)
    socket: SocketPath = Field(default=_COMPUTED, validate_default=True)
    socket_mode: OctalMode = 0o660
    socket_group: Annotated[StrictStr, Field(max_length=MAX_GROUP_CHARS)] = ""
    identity: Annotated[Literal["stated"], BeforeValidator(_identity)] = "stated"
    allow_plaintext: StrictBool = False
    ca_file: ExistingFile | None = None
    client_cert_file: ExistingFile | None = None
    client_key_file: ExistingFile | None = None
    further_policy_servers: Annotated[tuple[PolicyServerUrl, ...], Field(max_length=MAX_FURTHER_SERVERS)] = ()
    update_mode: Literal["stream", "poll"] = "stream"
    poll_interval_s: Annotated[StrictFloat, Field(ge=1, le=MAX_POLL_INTERVAL_S, allow_inf_nan=False)] = 60.0
    metrics_listen: OptionalAddress = HostPort("127.0.0.1", 8182)
    metrics_allow_remote: StrictBool = False
    audit_log: AuditTarget = Field(default=_COMPUTED, validate_default=True)
    worker_threads: Annotated[StrictInt, Field(ge=1, le=MAX_WORKER_THREADS)] = 4
    shutdown_grace_seconds: PositiveSeconds = 5.0
    tcp: TcpSection | None = None
    sessions: SessionsSection = Field(default_factory=SessionsSection)

    def mistakes(self) -> Iterator[Mistake]:
        """Return what is wrong between these keys."""
        if self.sessions.listen and self.sessions.socket == self.socket:
            yield Mistake("sidecar.sessions.socket", "is the socket of runtimes; sandboxes need one of their own")
        if (self.client_cert_file is None) != (self.client_key_file is None):
            given, lacking = "client_cert_file", "client_key_file"
            if self.client_cert_file is None:
                given, lacking = lacking, given
            yield Mistake(f"sidecar.{given}", f"is of no use without {lacking}", (f"sidecar.{lacking}",))
        metrics = self.metrics_listen
        if metrics is not None and not metrics.is_loopback and not self.metrics_allow_remote:
            yield Mistake(
                "sidecar.metrics_listen",
                f"`{metrics}` is reachable from other machines; use a loopback address, or metrics_allow_remote = true",
                depends=("sidecar.metrics_allow_remote",),
            )
        if self.tcp is not None and self.tcp.client_ca_file is None and not self.tcp.listen.is_loopback:
            yield Mistake(
                "sidecar.tcp.listen",
                f"`{self.tcp.listen}` lets every machine ask and claim to be any user; add client_ca_file",
                depends=("sidecar.tcp.client_ca_file",),
            )


@dataclass(frozen=True, config=STRICT)
class SidecarSettings:
    """Everything the sidecar can be told."""

    enterprise: EnterpriseSection
    sidecar: SidecarSection = Field(default=_EMPTY, validate_default=True)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def load(cls, path: Path, *, env: Mapping[str, str]) -> SidecarSettings:
        """Read a settings file; raise `ConfigError`."""
        return load_settings(path, cls, env=env)

    def mistakes(self) -> Iterator[Mistake]:
        """Return what is wrong between keys."""
        certificate, key = self.sidecar.client_cert_file, self.sidecar.client_key_file
        yield from self.enterprise.mistakes(has_certificate=certificate is not None)
        yield from self.sidecar.mistakes()
        if self.enterprise.enabled and self.enterprise.lacks_api_key and certificate is not None and key is not None:
            yield from _host_key_mistakes(key)
        servers = [("enterprise.policy_server", self.enterprise.policy_server)]
        servers += [("sidecar.further_policy_servers", server) for server in self.sidecar.further_policy_servers]
        for name, server in servers:
            if server is None or server.secure or server.address.is_loopback or self.sidecar.allow_plaintext:
                continue
            yield Mistake(
                name,
                f"`{server}` is plaintext to another machine; use https://, or allow_plaintext = true in [sidecar]",
                depends=("sidecar.allow_plaintext",),
            )

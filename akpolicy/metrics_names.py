"""Every metric of both programs: name, meaning, labels, buckets.

Rules:

- This is the one place that names them; each program builds its own on its own registry.
- Names start with the program's, carry base units (seconds, bytes), and counters end in `_total`, as `promtool check
  metrics` asks (Prometheus, "Metric and label naming").
- No label takes its value from a request: a caller must not be able to grow what is kept. There is no action, principal
  or resource label for that reason. Scopes, refusal codes and statuses come from signed documents or fixed lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Decisions take tens of microseconds; network calls milliseconds to seconds.
DECISION_BUCKETS: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)
RPC_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PUBLISH_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PROPAGATION_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


@dataclass(frozen=True, slots=True)
class MetricName:
    """What a metric is called and means. `buckets` are upper bounds in the metric's unit, for histograms alone."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# --- sidecar ----------------------------------------------------------------------------------------------------------

SIDECAR_DECISIONS: Final = MetricName(
    "akpolicy_sidecar_decisions_total",
    "Decisions given, by effect (allow, deny), reason (why, from a fixed list) and source (what decided).",
    ("effect", "reason", "source"),
)
SIDECAR_DECISION_DURATION: Final = MetricName(
    "akpolicy_sidecar_decision_duration_seconds",
    "Time to decide one request, without the transport.",
    buckets=DECISION_BUCKETS,
)
SIDECAR_REQUEST_ERRORS: Final = MetricName(
    "akpolicy_sidecar_request_errors_total",
    "Requests that got no decision, by gRPC status name.",
    ("status",),
)
SIDECAR_SESSIONS: Final = MetricName(
    "akpolicy_sidecar_sessions",
    "Sessions that are open.",
)
SIDECAR_SESSIONS_OVERDRAWN: Final = MetricName(
    "akpolicy_sidecar_sessions_overdrawn_total",
    "Sessions that used up their hourly quota of decisions, counted once an hour each.",
)
SIDECAR_UPDATES: Final = MetricName(
    "akpolicy_sidecar_updates_total",
    "Policy updates received, by outcome (applied, refused, unchanged).",
    ("outcome",),
)
SIDECAR_UPDATE_REFUSALS: Final = MetricName(
    "akpolicy_sidecar_update_refusals_total",
    "Policy updates refused, by error code; any increase means tampering, a mistake or a bug.",
    ("code",),
)
SIDECAR_BUNDLE_VERSION: Final = MetricName(
    "akpolicy_sidecar_bundle_version",
    "Version of the bundle enforced now, of `global` and the org.",
    ("scope",),
)
SIDECAR_BUNDLE_EXPIRY: Final = MetricName(
    "akpolicy_sidecar_bundle_expiry_timestamp_seconds",
    "When the bundle enforced now expires, of `global` and the org, in seconds since the epoch.",
    ("scope",),
)
SIDECAR_POLICIES: Final = MetricName(
    "akpolicy_sidecar_policies",
    "Policies enforced now, of `global` and the org.",
    ("scope",),
)
SIDECAR_MEMBER_LAYERS: Final = MetricName(
    "akpolicy_sidecar_member_layers",
    "Layers of teams and users that are enforced now.",
)
SIDECAR_MEMBER_LAYER_EXPIRY: Final = MetricName(
    "akpolicy_sidecar_member_layer_expiry_timestamp_seconds",
    "When the first bundle of a team or user expires, in seconds since the epoch; 0 if there is none.",
)
SIDECAR_MEMBER_POLICIES: Final = MetricName(
    "akpolicy_sidecar_member_policies",
    "Policies of teams and users that are enforced now.",
)
SIDECAR_CONNECTED: Final = MetricName(
    "akpolicy_sidecar_connected",
    "1 while the stream, or the last poll, has answered this host's nonce and did not fail, else 0.",
)
SIDECAR_UPDATE_MODE: Final = MetricName(
    "akpolicy_sidecar_update_mode",
    "1 for the way by which updates come (stream, poll); poll on a host that should stream means that it fell back.",
    ("mode",),
)
SIDECAR_LAST_CONTACT: Final = MetricName(
    "akpolicy_sidecar_last_contact_timestamp_seconds",
    "When the last heartbeat that was believed was issued, in seconds since the epoch; 0 if there was none.",
)
SIDECAR_HEARTBEATS: Final = MetricName(
    "akpolicy_sidecar_heartbeats_total",
    "Signed heartbeats that were believed.",
)
SIDECAR_HEARTBEAT_EXPIRY: Final = MetricName(
    "akpolicy_sidecar_heartbeat_expiry_timestamp_seconds",
    "Until when heartbeats vouch for all that is enforced, in seconds since the epoch; 0 if none does.",
)
SIDECAR_FRESH: Final = MetricName(
    "akpolicy_sidecar_fresh",
    "1 while an unexpired heartbeat vouches for all that is enforced, else 0.",
)
SIDECAR_POLICY_TROUBLES: Final = MetricName(
    "akpolicy_sidecar_policy_troubles_total",
    "Times that something became wrong with the state of this host rather than with an update, by error code.",
    ("code",),
)
SIDECAR_EVIDENCE: Final = MetricName(
    "akpolicy_sidecar_evidence_files",
    "Signed documents kept because they contradict others; more than 0 means that somebody signed two truths.",
)
SIDECAR_RECONNECTS: Final = MetricName(
    "akpolicy_sidecar_reconnects_total",
    "Attempts to open the stream again after it was lost.",
)
SIDECAR_POLICY_AGE: Final = MetricName(
    "akpolicy_sidecar_policy_age_seconds",
    "Time since a heartbeat last vouched for the stalest of the policies enforced now.",
)
SIDECAR_OFFLINE_MODE: Final = MetricName(
    "akpolicy_sidecar_offline_mode",
    "1 for the offline mode in force.",
    ("mode",),
)
SIDECAR_CACHE_ERRORS: Final = MetricName(
    "akpolicy_sidecar_cache_errors_total",
    "Failures to read, believe or write the state directory, by error code.",
    ("code",),
)
SIDECAR_AUDIT_RECORDS: Final = MetricName(
    "akpolicy_sidecar_audit_records_total",
    "Decisions written to the audit log.",
)
SIDECAR_AUDIT_ERRORS: Final = MetricName(
    "akpolicy_sidecar_audit_errors_total",
    "Decisions that could not be written to the audit log.",
)
SIDECAR_ROOT_VERSION: Final = MetricName(
    "akpolicy_sidecar_root_version",
    "Version of the trusted root; 0 before there is one.",
)
SIDECAR_ROOT_EXPIRY: Final = MetricName(
    "akpolicy_sidecar_root_expiry_timestamp_seconds",
    "When the trusted root expires, in seconds since the epoch; 0 before there is one.",
)
SIDECAR_TLS_CERTIFICATE_EXPIRY: Final = MetricName(
    "akpolicy_sidecar_tls_certificate_expiry_timestamp_seconds",
    "When the TLS certificate in use expires, in seconds since the epoch, by use (listener, client); none without TLS.",
    ("use",),
)
SIDECAR_CREDENTIAL_RELOAD_FAILURES: Final = MetricName(
    "akpolicy_sidecar_credential_reload_failures_total",
    "Changes of TLS files or of the API key file that cannot be used, by use (listener, client).",
    ("use",),
)
SIDECAR_BUILD_INFO: Final = MetricName(
    "akpolicy_sidecar_build_info",
    "1 for the running version.",
    ("version",),
)

# --- server -----------------------------------------------------------------------------------------------------------

SERVER_PUBLISHES: Final = MetricName(
    "akpolicy_server_publishes_total",
    "Attempts to publish policies, by outcome (published, refused, failed).",
    ("outcome",),
)
SERVER_PUBLISH_DURATION: Final = MetricName(
    "akpolicy_server_publish_duration_seconds",
    "Time from a publish request to the stored, signed bundle.",
    buckets=PUBLISH_BUCKETS,
)
SERVER_ORGS: Final = MetricName(
    "akpolicy_server_orgs",
    "Orgs that the server serves.",
)
SERVER_SUBSCRIBERS: Final = MetricName(
    "akpolicy_server_subscribers",
    "Sidecars with an open stream.",
)
SERVER_STREAMS_ENDED: Final = MetricName(
    "akpolicy_server_streams_ended_total",
    "Streams of hosts that the server ended, by why.",
    ("reason",),
)
SERVER_UPDATES_SENT: Final = MetricName(
    "akpolicy_server_updates_sent_total",
    "Updates sent to sidecars.",
)
SERVER_ACKS: Final = MetricName(
    "akpolicy_server_acks_total",
    "Updates that sidecars say they enforce.",
)
SERVER_NACKS: Final = MetricName(
    "akpolicy_server_nacks_total",
    "Updates that sidecars refused, by error code; codes that this server does not know count as `other`.",
    ("code",),
)
SERVER_PROPAGATION: Final = MetricName(
    "akpolicy_server_propagation_seconds",
    "Time from a publish until a connected host said that it enforces it. Hosts that connected later do not count.",
    buckets=PROPAGATION_BUCKETS,
)
SERVER_HOSTS: Final = MetricName(
    "akpolicy_server_hosts",
    "Hosts of all orgs that this server's database knows, by state: `connected` or `gone`.",
    ("state",),
)
SERVER_HOSTS_BY_MODE: Final = MetricName(
    "akpolicy_server_hosts_by_mode",
    "Connected hosts of all orgs, by how they get their policy: `stream` or `poll`.",
    ("mode",),
)
SERVER_HOSTS_BY_LAG: Final = MetricName(
    "akpolicy_server_hosts_by_lag",
    "Hosts with a stream to this server, by how long they have been without something that they were sent: `none`, "
    "`under_1m`, `under_1h`, `over_1h`.",
    ("lag",),
)
SERVER_RPCS: Final = MetricName(
    "akpolicy_server_rpc_total",
    "Calls answered, by method and gRPC status name.",
    ("method", "status"),
)
SERVER_RPC_DURATION: Final = MetricName(
    "akpolicy_server_rpc_duration_seconds",
    "Time to answer a call; streams are not counted.",
    ("method",),
    buckets=RPC_BUCKETS,
)
SERVER_AUTHENTICATION_FAILURES: Final = MetricName(
    "akpolicy_server_authentication_failures_total",
    "Calls without a valid API key, by reason (from a fixed list).",
    ("reason",),
)
SERVER_EARLIEST_BUNDLE_EXPIRY: Final = MetricName(
    "akpolicy_server_earliest_bundle_expiry_timestamp_seconds",
    "When the first of the current bundles expires, in seconds since the epoch; 0 without bundles.",
)
SERVER_TLS_CERTIFICATE_EXPIRY: Final = MetricName(
    "akpolicy_server_tls_certificate_expiry_timestamp_seconds",
    "When the TLS certificate in use expires, in seconds since the epoch; 0 without TLS.",
)
SERVER_CREDENTIAL_RELOAD_FAILURES: Final = MetricName(
    "akpolicy_server_credential_reload_failures_total",
    "Changes of TLS files that cannot be used; what was read before stays in use.",
)
SERVER_EARLIEST_ROOT_EXPIRY: Final = MetricName(
    "akpolicy_server_earliest_root_expiry_timestamp_seconds",
    "When the first of the newest roots expires, in seconds since the epoch; 0 without roots.",
)
SERVER_EARLIEST_KEY_EXPIRY: Final = MetricName(
    "akpolicy_server_earliest_key_expiry_timestamp_seconds",
    "When the first role of a newest root runs out of valid signing keys, in seconds since the epoch; 0 without roots.",
)
SERVER_HEARTBEATS_SIGNED: Final = MetricName(
    "akpolicy_server_heartbeats_signed_total",
    "Heartbeats signed.",
)
SERVER_HEARTBEAT_FAILURES: Final = MetricName(
    "akpolicy_server_heartbeat_failures_total",
    "Heartbeats that could not be signed; hosts of the org grow stale.",
)
SERVER_HEARING: Final = MetricName(
    "akpolicy_server_hearing",
    "1 while what other servers publish to the same database is heard at once; always 1 with SQLite.",
)
SERVER_RENEWALS: Final = MetricName(
    "akpolicy_server_renewals_total",
    "Bundles signed anew before they expire, by outcome (renewed, refused); refused counts each bundle once.",
    ("outcome",),
)
SERVER_BUILD_INFO: Final = MetricName(
    "akpolicy_server_build_info",
    "1 for the running version.",
    ("version",),
)

# Label value for what a fixed list does not hold.
OTHER: Final = "other"

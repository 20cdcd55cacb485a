"""The server's metrics. Names, meanings and labels are in `akpolicy.metrics_names`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy import __version__
from akpolicy import metrics_names as names
from akpolicy.errors import AkpolicyError
from akpolicy.metrics_registry import MetricsRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLISH_OUTCOMES: Final = ("published", "refused", "failed")
RENEWAL_OUTCOMES: Final = ("renewed", "refused")


class ServerMetrics(MetricsRegistry):
    """What the server counts and measures, on a registry of its own.

    Labels whose values are known beforehand start at zero, so that an alert on a rate sees the first event.
    """

    def __init__(self) -> None:
        super().__init__()
        self.publishes = self.counter(names.SERVER_PUBLISHES)
        self.publish_duration = self.histogram(names.SERVER_PUBLISH_DURATION)
        self.orgs = self.gauge(names.SERVER_ORGS)
        self.subscribers = self.gauge(names.SERVER_SUBSCRIBERS)
        self.updates_sent = self.counter(names.SERVER_UPDATES_SENT)
        self.acks = self.counter(names.SERVER_ACKS)
        self.nacks = self.counter(names.SERVER_NACKS)
        self.rpcs = self.counter(names.SERVER_RPCS)
        self.rpc_duration = self.histogram(names.SERVER_RPC_DURATION)
        self.authentication_failures = self.counter(names.SERVER_AUTHENTICATION_FAILURES)
        self.earliest_bundle_expiry = self.gauge(names.SERVER_EARLIEST_BUNDLE_EXPIRY)
        self.tls_certificate_expiry = self.gauge(names.SERVER_TLS_CERTIFICATE_EXPIRY)
        self.credential_reload_failures = self.counter(names.SERVER_CREDENTIAL_RELOAD_FAILURES)
        self.earliest_root_expiry = self.gauge(names.SERVER_EARLIEST_ROOT_EXPIRY)
        self.earliest_key_expiry = self.gauge(names.SERVER_EARLIEST_KEY_EXPIRY)
        self.heartbeats_signed = self.counter(names.SERVER_HEARTBEATS_SIGNED)
        self.heartbeat_failures = self.counter(names.SERVER_HEARTBEAT_FAILURES)
        self.renewals = self.counter(names.SERVER_RENEWALS)
        self.build_info = self.gauge(names.SERVER_BUILD_INFO)
        self.build_info.labels(version=__version__).set(1)
        for outcome in PUBLISH_OUTCOMES:
            self.publishes.labels(outcome=outcome)
        for outcome in RENEWAL_OUTCOMES:
            self.renewals.labels(outcome=outcome)

    def count_nack(self, code: str) -> None:
        """Count a refusal. The code comes from a sidecar, so that only codes from the error tree become labels."""
        self.nacks.labels(code=code if code in _ERROR_CODES else names.OTHER).inc()


def _error_codes(error: type[AkpolicyError]) -> Iterator[str]:
    yield error.__name__
    for child in error.__subclasses__():
        yield from _error_codes(child)


_ERROR_CODES: Final = frozenset(_error_codes(AkpolicyError))

"""The server's metrics. Names, meanings and labels are in `akpolicy.metrics_names`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final

from akpolicy import __version__
from akpolicy import metrics_names as names
from akpolicy.errors import AkpolicyError
from akpolicy.metrics_registry import MetricsRegistry
from akpolicy_server.fanout import End
from akpolicy_server.store.hosts import UpdateMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PUBLISH_OUTCOMES: Final = ("published", "refused", "failed")
RENEWAL_OUTCOMES: Final = ("renewed", "refused")
# By name, the seconds below which a lag is called so.
OVER: Final = "over_1h"
LAGS: Final[dict[str, float]] = {"none": sys.float_info.min, "under_1m": 60.0, "under_1h": 3600.0, OVER: math.inf}


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
        self.streams_ended = self.counter(names.SERVER_STREAMS_ENDED)
        self.acks = self.counter(names.SERVER_ACKS)
        self.nacks = self.counter(names.SERVER_NACKS)
        self.propagation = self.histogram(names.SERVER_PROPAGATION)
        self.hosts = self.gauge(names.SERVER_HOSTS)
        self.hosts_by_mode = self.gauge(names.SERVER_HOSTS_BY_MODE)
        self.hosts_by_lag = self.gauge(names.SERVER_HOSTS_BY_LAG)
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
        self.hearing = self.gauge(names.SERVER_HEARING)
        self.build_info = self.gauge(names.SERVER_BUILD_INFO)
        self.build_info.labels(version=__version__).set(1)
        for outcome in PUBLISH_OUTCOMES:
            self.publishes.labels(outcome=outcome)
        for end in End:
            self.streams_ended.labels(reason=end.name.lower())
        for outcome in RENEWAL_OUTCOMES:
            self.renewals.labels(outcome=outcome)
        self.count_lags(())

    def count_hosts(self, by_mode: Mapping[UpdateMode, int], gone: int) -> None:
        """Set how many hosts are connected, by how they get their policy, and how many are gone."""
        for mode in UpdateMode:
            self.hosts_by_mode.labels(mode=mode.value).set(by_mode.get(mode, 0))
        self.hosts.labels(state="connected").set(sum(by_mode.values()))
        self.hosts.labels(state="gone").set(gone)

    def count_lags(self, lags_s: Iterable[float]) -> None:
        """Set how many hosts lack something for how long; 0 for a host that lacks nothing."""
        counts = dict.fromkeys(LAGS, 0)
        for lag_s in lags_s:
            counts[next((name for name, below_s in LAGS.items() if lag_s < below_s), OVER)] += 1
        for name, count in counts.items():
            self.hosts_by_lag.labels(lag=name).set(count)

    def count_nack(self, code: str) -> None:
        """Count a refusal. The code comes from a sidecar, so that only codes from the error tree become labels."""
        self.nacks.labels(code=code if code in _ERROR_CODES else names.OTHER).inc()


def _error_codes(error: type[AkpolicyError]) -> Iterator[str]:
    yield error.__name__
    for child in error.__subclasses__():
        yield from _error_codes(child)


_ERROR_CODES: Final = frozenset(_error_codes(AkpolicyError))

"""What the parts of PublishingService share: the domain behind them, and how attempts to publish are counted."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from akpolicy.errors import AkpolicyError, StoreUnavailable
from akpolicy.v1 import publishing_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from grpc.aio import ServicerContext

    from akpolicy_server.api.call import Calls
    from akpolicy_server.api_keys import ApiKeys
    from akpolicy_server.fleet import Fleet
    from akpolicy_server.freeze import Freeze
    from akpolicy_server.history import History
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.online import OnlineKeys
    from akpolicy_server.orgs import Orgs
    from akpolicy_server.presigned import Presigned
    from akpolicy_server.publisher import Publisher
    from akpolicy_server.rollbacks import Rollbacks
    from akpolicy_server.roots import Roots
    from akpolicy_server.threads import Threads

    Context = ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Domain:
    """What operators can do; `is_stopping`: who stays for more is to leave."""

    orgs: Orgs
    online_keys: OnlineKeys
    roots: Roots
    api_keys: ApiKeys
    publisher: Publisher
    presigned: Presigned
    rollbacks: Rollbacks
    freeze: Freeze
    history: History
    fleet: Fleet
    is_stopping: Callable[[], bool] = lambda: False


class ServicerPart(publishing_pb2_grpc.PublishingServiceServicer):
    """Some of the service's methods; together they are `PublishingServicer`."""

    def __init__(self, calls: Calls, threads: Threads, metrics: ServerMetrics, domain: Domain) -> None:
        self._calls = calls
        self._threads = threads
        self._metrics = metrics
        self._domain = domain

    @contextmanager
    def _counted(self, *, dry_run: bool = False) -> Iterator[None]:
        """Count and time an attempt to publish; a dry run is none."""
        if dry_run:
            yield
            return
        outcome = "failed"
        try:
            with self._metrics.publish_duration.time():
                yield
            outcome = "published"
        except StoreUnavailable:
            raise
        except AkpolicyError:
            outcome = "refused"
            raise
        finally:
            self._metrics.publishes.labels(outcome=outcome).inc()

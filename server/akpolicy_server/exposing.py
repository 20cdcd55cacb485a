"""The HTTP endpoint for operators: metrics, whether the server lives, and whether it is ready."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy.exposition import HttpEndpoint
from akpolicy_server.expiries import RootExpiries
from akpolicy_server.presence import seen_since_us
from akpolicy_server.store.fleet import hosts_by_mode
from akpolicy_server.store.overview import count_orgs, earliest_expiry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from akpolicy.addresses import HostPort
    from akpolicy.clock import Clock
    from akpolicy_server.fanout import Fanout
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.store.engine import Database

log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving_http(
    address: HostPort | None,
    expose: Callable[[], tuple[str, bytes]],
    ready: Callable[[], tuple[bool, dict[str, Any]]],
) -> AsyncIterator[HostPort | None]:
    """Serve `/metrics`, `/healthz` and `/readyz` while the block runs, unless `address` is None."""
    if address is None:
        yield None
        return
    endpoint = HttpEndpoint(address, metrics=expose, ready=ready)
    endpoint.start()
    try:
        yield replace(address, port=endpoint.port)
    finally:
        await asyncio.to_thread(endpoint.stop)


def exposed(database: Database, metrics: ServerMetrics, clock: Clock) -> Callable[[], tuple[str, bytes]]:
    """Return what `/metrics` shows: what was counted, and what is in the database now."""
    expiries = RootExpiries()

    def expose() -> tuple[str, bytes]:
        try:
            with database.read() as connection:
                metrics.orgs.set(count_orgs(connection))
                metrics.earliest_bundle_expiry.set(earliest_expiry(connection))
                by_mode, gone = hosts_by_mode(connection, seen_since_us(clock))
                root, key = expiries.earliest(connection, clock.now())
            metrics.count_hosts(by_mode, gone)
            metrics.earliest_root_expiry.set(root)
            metrics.earliest_key_expiry.set(key)
        except StoreUnavailable as error:
            # The other metrics are needed most when the database is gone.
            log.warning("metrics about stored things are not renewed", reason=error.message)
        return metrics.expose()

    return expose


def readiness(database: Database, fanout: Fanout) -> Callable[[], tuple[bool, dict[str, Any]]]:
    """Return what `/readyz` says: whether the database answers, and the server does not stop."""

    def ready() -> tuple[bool, dict[str, Any]]:
        if fanout.is_stopping:
            return False, {"stopping": True}
        try:
            database.check()
        except StoreUnavailable as error:
            return False, {"database": error.message}
        return True, {"database": "ok"}

    return ready

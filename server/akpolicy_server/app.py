"""The composition root: builds the server's parts, starts them in order, and stops them in the reverse order.

Rules:

- Start: database (brought to the newest structure), keys, threads, HTTP endpoint, gRPC. Whatever fails raises a
  `StartupError` or `ConfigError`, and what was started is stopped again.
- Stop: health says NOT_SERVING, open streams end with UNAVAILABLE, calls in flight get `shutdown_grace_seconds` to end,
  then what hosts reported last is written.
- A background task never ends by itself; one that does takes the server down, loudly.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as grpc_health_aio  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import EngineUnavailable, StartupError, StoreUnavailable
from akpolicy.fence.fence import Fence
from akpolicy.signing import open_signer
from akpolicy.v1 import distribution_pb2, publishing_pb2, publishing_pb2_grpc
from akpolicy_server.api.authentication import HostAuthentication, KeyAuthentication
from akpolicy_server.api.call import Calls
from akpolicy_server.api.distribution import DistributionServicer, add_to
from akpolicy_server.api.host_calls import HostCalls
from akpolicy_server.api.listening import bind, not_reloaded
from akpolicy_server.api.part import Domain
from akpolicy_server.api.publishing import PublishingServicer
from akpolicy_server.api.rest.call import RestCalls
from akpolicy_server.api.rest.listener import serving_rest
from akpolicy_server.api.rest.peer import by_certificate, by_key
from akpolicy_server.api.subscription import Services
from akpolicy_server.api_keys import ApiKeys
from akpolicy_server.catalog import Catalog
from akpolicy_server.certified_hosts import CertifiedHosts
from akpolicy_server.cycles import settle
from akpolicy_server.exposing import exposed, readiness, serving_http
from akpolicy_server.fanout import Fanout
from akpolicy_server.first_root import DAY_S
from akpolicy_server.fleet import Fleet
from akpolicy_server.freeze import Freeze
from akpolicy_server.hearing import Hearing
from akpolicy_server.history import History
from akpolicy_server.intake import Intake
from akpolicy_server.key_check import inspect_keys
from akpolicy_server.ledger import Ledger
from akpolicy_server.legacy import LegacyPolicies, require_legacy_keys_apart
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.online import OnlineKeys, ensure_platform_keys
from akpolicy_server.orgs import Orgs
from akpolicy_server.presence import Presence
from akpolicy_server.presigned import Presigned
from akpolicy_server.pruning import Pruning
from akpolicy_server.publisher import Publisher
from akpolicy_server.pulse import Pulse
from akpolicy_server.ready_file import ready_file
from akpolicy_server.renewal import Renewal
from akpolicy_server.replacements import Outlines
from akpolicy_server.reports import HostReports
from akpolicy_server.rollbacks import Rollbacks
from akpolicy_server.roots import Roots
from akpolicy_server.running import running
from akpolicy_server.schemas import Schemas
from akpolicy_server.signatory import Signatory
from akpolicy_server.store.engine import Database
from akpolicy_server.store.migrate import upgrade
from akpolicy_server.store.orgs import is_set_up
from akpolicy_server.sweep import Sweep
from akpolicy_server.terms import StreamTerms
from akpolicy_server.threads import Threads
from akpolicy_server.vault import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import grpc

    from akpolicy.addresses import HostPort
    from akpolicy.clock import Clock
    from akpolicy.settings_types import TlsFiles
    from akpolicy.signing import Signer
    from akpolicy_server.settings import ServerSection, ServerSettings

SERVICES: Final = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (publishing_pb2.DESCRIPTOR, "PublishingService"),
        (distribution_pb2.DESCRIPTOR, "DistributionService"),
    )
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that serves: its addresses, and the parts that tests look into."""

    listen: HostPort
    metrics_listen: HostPort | None
    rest_listen: HostPort | None
    database: Database
    reports: HostReports
    fanout: Fanout
    presence: Presence
    sweep: Sweep
    renewal: Renewal
    metrics: ServerMetrics
    background: tuple[asyncio.Task[None], ...]
    hosts_listen: HostPort | None = None
    hosts_rest_listen: HostPort | None = None


async def run(settings: ServerSettings, clock: Clock, ready: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; raise `StartupError` or `ConfigError`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, clock) as server:
        with ready_file(
            ready,
            listen=server.listen,
            metrics=server.metrics_listen,
            rest=server.rest_listen,
            hosts=server.hosts_listen,
            hosts_rest=server.hosts_rest_listen,
        ):
            settle()
            log.info(
                "listening",
                address=str(server.listen),
                metrics=str(server.metrics_listen or ""),
                rest=str(server.rest_listen or ""),
                hosts=str(server.hosts_listen or ""),
                hosts_rest=str(server.hosts_rest_listen or ""),
            )
            await _until(stop, server.background)
            log.info("stopping")
    log.info("stopped")


async def _until(stop: asyncio.Event, background: tuple[asyncio.Task[None], ...]) -> None:
    waiter = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiter, *background], return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    for task in done - {waiter}:
        task.result()
        raise RuntimeError("a background task ended by itself")


@asynccontextmanager
async def serving(settings: ServerSettings, clock: Clock) -> AsyncIterator[Serving]:
    """Serve while the block runs; raise `StartupError` or `ConfigError`."""
    section = settings.server
    async with AsyncExitStack() as stack:
        stack.enter_context(running(section.data_dir))
        database = stack.enter_context(_opened_database(section.resolved_database_url))
        # After the database: where there is none, nothing is made.
        vault = Vault(section.data_dir)
        ensure_platform_keys(database, vault, clock)
        signers, legacy_signers = _opened_signers(stack, section, database)
        signatory = Signatory(vault, signers)
        inspect_keys(database, signatory, clock.now())
        threads = stack.enter_context(closing(Threads()))
        # After the threads, so that it is closed before them: they wait for what it does.
        fence = _started_fence(stack)
        metrics = ServerMetrics()
        catalog = Catalog(database, threads)
        pulse = Pulse(signatory, threads, clock, metrics, lifetime_s=section.heartbeat_lifetime_seconds)
        fanout = _fanout(section, catalog, pulse)
        reports = HostReports(database, threads, clock)
        sweep = Sweep(database, threads, catalog, fanout, interval_s=section.keep_alive_seconds)
        terms = StreamTerms(fanout, clock, interval_s=section.keep_alive_seconds)
        presence = Presence(database, threads, fanout, reports, metrics)
        hearing = Hearing(database, catalog, fanout, sweep, reports, clock, metrics)
        api_keys = ApiKeys(database, clock, on_revoked=fanout.end_key)
        ledger = Ledger(database, signatory, clock, announce=fanout.announce)
        renewal = Renewal(database, ledger, threads, clock, metrics)
        pruning = Pruning(database, section.retention, clock)
        keys = KeyAuthentication(api_keys, threads, metrics)
        calls = Calls(keys, metrics, clock)
        intake = Intake(load_default_schema(), fence.check, fence.prove_schema)
        domain = _domain(section, database, vault, signatory, ledger, api_keys, clock, intake)
        domain = replace(domain, is_stopping=lambda: fanout.is_stopping)
        services = Services(catalog, pulse, reports, metrics, section.keep_alive_seconds, fanout.spread_s)
        work = (*(each.run() for each in (sweep, reports, renewal, presence, terms, hearing)), pruning.run(threads))
        background = await stack.enter_async_context(_background(reports, *work))
        metrics_listen = await stack.enter_async_context(
            serving_http(section.metrics_listen, exposed(database, metrics, clock), readiness(database, fanout))
        )
        grpc_server, listen = bind(section.listen, section.tls, section, metrics, clock)
        _serve_operators(grpc_server, PublishingServicer(calls, threads, metrics, domain))
        _serve_hosts(grpc_server, DistributionServicer(calls, fanout, services))
        # REST before gRPC, whose end comes first then and ends what is being fetched here too.
        hosts = _HostSide(keys, fanout, services, threads, clock, section.shutdown_grace_seconds)
        rest = RestCalls(by_key(keys), fanout, services, LegacyPolicies(catalog, threads, intake, legacy_signers))
        rest_listen = await stack.enter_async_context(hosts.rest(section.rest_listen, section.tls, rest))
        certified, *addresses = await _bind_certified(stack, section, database, hosts)
        servers = [grpc_server, *certified]
        await stack.enter_async_context(_started(servers, fanout, section.shutdown_grace_seconds))
        parts = (database, reports, fanout, presence, sweep, renewal, metrics, background)
        yield Serving(listen, metrics_listen, rest_listen, *parts, *addresses)


def _opened_signers(
    stack: AsyncExitStack, section: ServerSection, database: Database
) -> tuple[list[Signer], dict[str, Signer]]:
    """Open the signers that sign for hosts, and those of agentkernel's own hosts, by org; they share no key."""
    signers = [stack.enter_context(closing(open_signer(uri))) for uri in section.signers]
    legacy = {org: stack.enter_context(closing(open_signer(uri))) for org, uri in section.legacy_signers.items()}
    require_legacy_keys_apart(database, legacy, signers)
    return signers, legacy


@dataclass(frozen=True, slots=True)
class _HostSide:
    """What the listeners of hosts have in common."""

    keys: KeyAuthentication
    fanout: Fanout
    services: Services
    threads: Threads
    clock: Clock
    grace_s: float

    def rest(
        self, listen: HostPort | None, files: TlsFiles | None, calls: RestCalls
    ) -> AbstractAsyncContextManager[HostPort | None]:
        """Return a REST listener, which serves while it is entered."""
        failed = partial(not_reloaded, self.services.metrics)
        return serving_rest(listen, files, calls, self.clock, failed, grace_s=self.grace_s)


async def _bind_certified(
    stack: AsyncExitStack, section: ServerSection, database: Database, side: _HostSide
) -> tuple[list[grpc.aio.Server], HostPort | None, HostPort | None]:
    """Bind the listeners of hosts that show a certificate, if any may: they serve nothing else.

    Returns the gRPC server, which is not started, its address, and that of REST, which is.
    """
    certificates = section.host_certificates
    if certificates is None:
        return [], None, None
    if section.tls is None:
        raise StartupError("[server.host_certificates] needs [server.tls]: its certificate is shown there too")
    files, metrics = certificates.files_beside(section.tls), side.services.metrics
    known = CertifiedHosts(certificates.naming, database, side.clock)
    hosts = HostAuthentication(known, side.keys, side.threads, metrics)
    server, listen = bind(certificates.listen, files, section, metrics, side.clock)
    _serve_hosts(
        server,
        DistributionServicer(HostCalls(hosts, side.keys, metrics, side.clock), side.fanout, side.services),
    )
    # agentkernel's own hosts have API keys alone: nothing is served to them here.
    rest = RestCalls(by_certificate(hosts), side.fanout, side.services, None)
    return [server], listen, await stack.enter_async_context(side.rest(certificates.rest_listen, files, rest))


def _fanout(section: ServerSection, catalog: Catalog, pulse: Pulse) -> Fanout:
    async def prepare(org: str) -> None:
        await pulse.shared(await catalog.view(org))

    return Fanout(
        catalog,
        max_streams_per_host=section.max_streams_per_host,
        stream_age_s=section.stream_age_seconds,
        prepare=prepare,
    )


def _serve_operators(server: grpc.aio.Server, servicer: PublishingServicer) -> None:
    publishing_pb2_grpc.add_PublishingServiceServicer_to_server(servicer, server)


def _serve_hosts(server: grpc.aio.Server, servicer: DistributionServicer) -> None:
    add_to(server, servicer)


def _domain(
    section: ServerSection,
    database: Database,
    vault: Vault,
    signatory: Signatory,
    ledger: Ledger,
    api_keys: ApiKeys,
    clock: Clock,
    intake: Intake,
) -> Domain:
    """Build what operators can do."""
    lifetime_s = section.bundle_lifetime_days * DAY_S
    outlines, schemas = Outlines(), Schemas(database, intake, section.legacy_signers)
    return Domain(
        orgs=Orgs(database, vault, signatory, ledger, clock),
        online_keys=OnlineKeys(database, vault, clock),
        roots=Roots(database, ledger),
        api_keys=api_keys,
        publisher=Publisher(database, ledger, intake, schemas, outlines, default_lifetime_s=lifetime_s),
        presigned=Presigned(database, ledger, intake, schemas, outlines, clock, default_lifetime_s=lifetime_s),
        rollbacks=Rollbacks(database, ledger, schemas, outlines, default_lifetime_s=lifetime_s),
        freeze=Freeze(database, ledger, schemas, default_lifetime_s=lifetime_s),
        history=History(database),
        fleet=Fleet(database, clock),
    )


def _started_fence(stack: AsyncExitStack) -> Fence:
    fence = stack.enter_context(Fence())
    try:
        fence.start()
    except EngineUnavailable as error:
        raise StartupError(error.message) from error
    return fence


@contextmanager
def _opened_database(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        upgrade(database)
        with database.read() as connection:
            if not is_set_up(connection):
                raise StartupError("the database is empty; set up a server with `akpolicy-server init --dir DIR`")
        yield database
    finally:
        database.close()


@asynccontextmanager
async def _background(
    reports: HostReports, *work: Coroutine[Any, Any, None]
) -> AsyncIterator[tuple[asyncio.Task[None], ...]]:
    """Run `work` while the block runs; write the last reports at the end."""
    tasks = tuple(asyncio.create_task(one) for one in work)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await reports.flush()
        except StoreUnavailable as error:
            log.warning("the last host reports are lost", reason=error.message)


@asynccontextmanager
async def _started(servers: Iterable[grpc.aio.Server], fanout: Fanout, grace_s: float) -> AsyncIterator[None]:
    """Answer calls while the block runs, health and reflection among them."""
    health = grpc_health_aio.HealthServicer()
    names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    for server in servers:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection(names, server)
        await server.start()
    for name in ("", *SERVICES):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        await health.enter_graceful_shutdown()
        fanout.stop()
        await asyncio.gather(*(server.stop(grace_s) for server in servers))

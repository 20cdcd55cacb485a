"""What the whole path costs on this machine: publish to enforced, a decision, memory, a cold start from cache.

Run it with `make bench`. It starts a real server and a real sidecar on loopback, like the demo, and prints one table
with the targets. A decision is compared with gRPC's own health check on the same socket in the same run, one call at a
time: the ratio is what our code adds; the microseconds are this machine's. Everything is bounded in count; nothing
leaves the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from akpolicy.cli.demo.script import load_examples, load_policies, publish
from akpolicy.cli.demo.stage import Stage
from akpolicy.client import PolicyClient
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.v1 import authorization_pb2, authorization_pb2_grpc
from akpolicy.wire_authorization import request_to_proto
from bench.table import Line, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.engine.request import AuthorizationRequest

ORG = "acme-corp"
CALLS = 10_000
WARM_UP = 500
PUBLISHES = 20
COLD_STARTS = 5
MAX_ENFORCED_MS = 200.0
MAX_RSS_MB = 90.0
MAX_COLD_START_S = 1.5


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", _measure)


def _measure() -> list[Line]:
    with Stage((ORG,), keep=False) as stage:
        stage.init_server()
        server = stage.start_server()
        endpoint = parse_server_url(f"http://{server.ready['listen']}")
        with PublishingClient(endpoint, stage.admin_key) as publishing:
            _publish(publishing, "")
            key = publishing.create_api_key(org=ORG, role="host", host_id="bench")
            sidecar = stage.start_sidecar(ORG, server.ready["listen"], key.secret)
            with PolicyClient(sidecar.ready["socket"], timeout=2.0) as client:
                _until(client.ready)
                lines = _decisions(sidecar.ready["socket"])
                lines += _publishes(publishing, client)
            lines.append(Line("sidecar RSS after all of this", _rss_mb(sidecar.process.pid), "MB", MAX_RSS_MB))
        server.kill()
        sidecar.kill()
        times = [_cold_start(stage, key.secret) for _ in range(COLD_STARTS)]
        lines.append(Line("cold start from cache, server down, to a decision (max)", max(times), "s", MAX_COLD_START_S))
        return lines


def _decisions(socket: str) -> list[Line]:
    requests = [request_to_proto(e.request) for e in load_examples() if e.request.principal.org_id == ORG]
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest()
        # A B A B in small turns, so that a noisy neighbour hits both.
        empty: list[float] = []
        ours: list[float] = []
        for turn in range(20):
            count = CALLS // 20 if turn else WARM_UP
            a = _times(lambda _: health.Check(check), count)
            b = _times(lambda i: stub.Authorize(requests[i % len(requests)]), count)
            if turn:
                empty += a
                ours += b
        batch = authorization_pb2.BatchAuthorizeRequest(requests=requests[:1] * 100)
        hundred = statistics.median(_times(lambda _: stub.BatchAuthorize(batch), 50))
    median, no_op = statistics.median(ours), statistics.median(empty)
    return [
        Line("Authorize over the socket, one at a time, median", median * 1e6, "us"),
        Line("Authorize over the socket, one at a time, p99", statistics.quantiles(ours, n=100)[98] * 1e6, "us"),
        Line("health check on the same socket, median", no_op * 1e6, "us"),
        Line("Authorize / health check", median / no_op, "x"),
        Line("BatchAuthorize of 100, per decision", hundred / 100 * 1e6, "us"),
    ]


def _times(call: Callable[[int], object], count: int) -> list[float]:
    times = []
    for index in range(count):
        began = time.perf_counter()
        call(index)
        times.append(time.perf_counter() - began)
    return times


def _publishes(publishing: PublishingClient, client: PolicyClient) -> list[Line]:
    example = next(e for e in load_examples() if e.request.action == "Exec" and e.expected == "allow")
    times = []
    for number in range(PUBLISHES):
        forbid = number % 2 == 0
        extra = '\n@id("bench") forbid (principal, action == AgentKernel::Action::"Exec", resource);' if forbid else ""
        began = time.perf_counter()
        _publish(publishing, extra)
        _until(partial(_is_decided, client, example.request, not forbid))
        times.append((time.perf_counter() - began) * 1000)
    return [
        Line("publish called to enforced, median", statistics.median(times), "ms", MAX_ENFORCED_MS),
        Line("publish called to enforced, max", max(times), "ms", MAX_ENFORCED_MS),
    ]


def _is_decided(client: PolicyClient, request: AuthorizationRequest, wanted: bool) -> bool:
    decision = client.authorize(
        principal=request.principal, action=request.action, resource=request.resource, context=request.context
    )
    return decision.allowed is wanted


def _publish(publishing: PublishingClient, extra: str) -> None:
    publish(publishing, ORG, load_policies() + extra, "bench")


def _cold_start(stage: Stage, key: str) -> float:
    began = time.perf_counter()
    sidecar = stage.restart_sidecar(ORG, key)
    with PolicyClient(sidecar.ready["socket"], timeout=2.0) as client:
        _until(client.ready)
    elapsed = time.perf_counter() - began
    sidecar.kill()
    return elapsed


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError


def _rss_mb(pid: int) -> float:
    pages = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(x for x in pages.splitlines() if x.startswith("VmRSS:")).split()[1]) / 1024


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(f"bench: {error}")

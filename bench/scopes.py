"""What thousands of team and user scopes cost a host at its first contact, and how that grows with their number.

Run it with `make bench-scopes`. A real server and, for each number of scopes, a real new sidecar on loopback: measured
is from the start of the sidecar's process until it says that it enforces all of them and decides. Then one scope is
published anew, several times: measured is from the call until it is enforced, and how many bytes come to the host for
it beside its content, by a wire between the two that counts them. Names and policies come from a seed.

Only bytes and ratios carry over to other machines: twice the scopes in about twice the time is linear, in four times
the time quadratic. A change of one scope should take as long among many scopes as among few.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from akpolicy.cli.demo.stage import Stage
from akpolicy.client import PolicyClient, Principal, Resource
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.limits import KIB
from bench.table import Line, report
from tests.simulators.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from akpolicy.cli.demo.stage import Program

ORG: Final = "acme-corp"
SEED: Final = 20
COUNTS: Final = (500, 1000, 2000, 10_000)
CHANGES: Final = 10
DEADLINE_S: Final = 900.0
POLL_S: Final = 0.1
CHANGE_POLL_S: Final = 0.002
# Of up to so many scopes.
MAX_FIRST_CONTACT_S: Final = 30.0
FIRST_CONTACT_SCOPES: Final = 2000
# For each time as many scopes; quadratic would be 2 for twice as many.
MAX_GROWTH: Final = 1.3
MAX_CHANGE_GROWTH: Final = 2.0
# Beside its content.
MAX_CHANGE_KIB: Final = 4.0

BOX: Final = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})

_pause = threading.Event()


class Costs(NamedTuple):
    """What so many scopes cost a host: seconds for all of them, seconds and KiB beside its content for one change."""

    scopes: int
    contact_s: float
    change_s: float
    change_kib: float


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", _measure)


def _measure() -> list[Line]:
    draw = random.Random(SEED)  # noqa: S311 - the same names in every run
    with Stage((ORG,), keep=False) as stage:
        stage.init_server()
        server = stage.start_server()
        endpoint = parse_server_url(f"http://{server.ready['listen']}")
        with PublishingClient(endpoint, stage.admin_key) as publishing:
            _publish(publishing, f"org/{ORG}", "everybody")
            names, there = _names(draw), 0
            costs: list[Costs] = []
            for count in COUNTS:
                for _ in range(count - there):
                    _publish(publishing, next(names), f"{draw.getrandbits(64):x}")
                there = count
                costs.append(_costs(stage, server, publishing, count))
                print(f"# {count} scopes: measured", file=sys.stderr)
    return list(_lines(costs))


def _lines(costs: list[Costs]) -> Iterator[Line]:
    for at in costs:
        limit = MAX_FIRST_CONTACT_S if at.scopes <= FIRST_CONTACT_SCOPES else None
        yield Line(f"first contact, {at.scopes} scopes", at.contact_s, "s", limit)
        yield Line(f"one changed scope among {at.scopes}, to enforced", at.change_s * 1000, "ms")
        yield Line(f"bytes to a host beside content, one change, {at.scopes}", at.change_kib, "KiB", MAX_CHANGE_KIB)
    for few, many in pairwise(costs):
        what = f"first contact a scope, {many.scopes} / {few.scopes} scopes"
        ratio = (many.contact_s / many.scopes) / (few.contact_s / few.scopes)
        yield Line(what, ratio, "x", MAX_GROWTH)
    few, many = costs[0], costs[-1]
    what = f"one changed scope, {many.scopes} / {few.scopes} scopes"
    yield Line(what, many.change_s / few.change_s, "x", MAX_CHANGE_GROWTH)


def _costs(stage: Stage, server: Program, publishing: PublishingClient, count: int) -> Costs:
    """Return what it costs a new sidecar to enforce so many scopes and the org's own, and then one change."""
    key = publishing.create_api_key(org=ORG, role="host", host_id=f"bench-{count}").secret
    with Wire(int(server.ready["listen"].rpartition(":")[2])) as wire:
        began = time.perf_counter()
        sidecar = stage.start_sidecar(ORG, f"127.0.0.1:{wire.port}", key, name=f"bench-{count}")
        _until(lambda: _enforced(sidecar) == count + 1)
        contact = time.perf_counter() - began
        with PolicyClient(sidecar.ready["socket"], timeout=5.0) as client:
            # The first one is not counted: heartbeats of the contact may come still.
            _change(publishing, client, CHANGES)
            before = wire.carried
            changes = [_change(publishing, client, number) for number in range(CHANGES)]
            carried = wire.carried - before - sum(size for _, size in changes)
        sidecar.stop()
    return Costs(count, contact, statistics.median(took for took, _ in changes), carried / CHANGES / KIB)


def _names(draw: random.Random) -> Iterator[str]:
    while True:
        yield f"org/{ORG}/{draw.choice(('team', 'user'))}/{draw.getrandbits(48):012x}"


def _publish(publishing: PublishingClient, scope: str, mark: str, effect: str = "permit") -> int:
    """Publish a scope; return the size of its content in bytes."""
    text = f'@id("p") @mark("{mark}") {effect} (principal, action, resource);'
    published = publishing.publish(scope, [PolicyFile("bench.cedar", text.encode())], PublishTerms(message="bench"))
    return published.revision.content_size


def _change(publishing: PublishingClient, client: PolicyClient, number: int) -> tuple[float, int]:
    """Return how many seconds a change of one scope takes until it decides, and the size of its content."""
    effect = "permit" if number % 2 else "forbid"
    began = time.perf_counter()
    size = _publish(publishing, f"org/{ORG}", f"{number}", effect)
    _until(lambda: _allows(client) is (effect == "permit"), CHANGE_POLL_S)
    return time.perf_counter() - began, size


def _allows(client: PolicyClient) -> bool:
    return client.authorize(principal=Principal("somebody", ORG), action="Create", resource=BOX).allowed


def _enforced(sidecar: Program) -> int:
    """Return how many scopes a sidecar enforces; 0 before it decides."""
    said = _said(sidecar)
    return int(said["scope_count"]) if said["ready"] else 0


def _said(sidecar: Program) -> dict[str, Any]:
    """Return what /readyz says."""
    try:
        with urllib.request.urlopen(f"http://{sidecar.ready['metrics']}/readyz", timeout=5) as answer:
            return {**json.load(answer), "ready": True}
    except urllib.error.HTTPError as error:
        return {**json.load(error), "ready": False}


def _until(condition: Callable[[], bool], poll_s: float = POLL_S) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        _pause.wait(poll_s)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(f"bench: {error}")

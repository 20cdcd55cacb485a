"""What thousands of team and user scopes cost a host at its first contact, and how that grows with their number.

Run it with `make bench-scopes`. A real server and, for each number of scopes, a real new sidecar on loopback: measured
is from the start of the sidecar's process until it says that it enforces all of them and decides. Then one scope is
published anew, several times: measured is from the call until it is enforced. Names and policies come from a seed.

Only the ratios carry over to other machines: twice the scopes in about twice the time is linear, in four times the time
quadratic. A change of one scope should take as long among many scopes as among few.
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
from typing import TYPE_CHECKING, Any, Final

from akpolicy.cli.demo.stage import Stage
from akpolicy.client import PolicyClient, Principal, Resource
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from bench.table import Line, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from akpolicy.cli.demo.stage import Program

ORG: Final = "acme-corp"
SEED: Final = 20
COUNTS: Final = (500, 1000, 2000)
CHANGES: Final = 10
DEADLINE_S: Final = 900.0
POLL_S: Final = 0.1
CHANGE_POLL_S: Final = 0.002
MAX_FIRST_CONTACT_S: Final = 30.0
# Twice the scopes; quadratic would be 4.
MAX_GROWTH: Final = 2.6
MAX_CHANGE_GROWTH: Final = 2.0

BOX: Final = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})

_pause = threading.Event()


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", _measure)


def _measure() -> list[Line]:
    draw = random.Random(SEED)  # noqa: S311 - the same names in every run
    lines: list[Line] = []
    with Stage((ORG,), keep=False) as stage:
        stage.init_server()
        server = stage.start_server()
        endpoint = parse_server_url(f"http://{server.ready['listen']}")
        with PublishingClient(endpoint, stage.admin_key) as publishing:
            _publish(publishing, f"org/{ORG}", "everybody")
            names, there = _names(draw), 0
            costs: list[tuple[int, float, float]] = []
            for count in COUNTS:
                for _ in range(count - there):
                    _publish(publishing, next(names), f"{draw.getrandbits(64):x}")
                there = count
                costs.append((count, *_costs(stage, server, publishing, count)))
    for count, contact, change in costs:
        lines.append(Line(f"first contact, {count} scopes", contact, "s", MAX_FIRST_CONTACT_S))
        lines.append(Line(f"one changed scope among {count}, to enforced", change * 1000, "ms"))
    for (few, contact, _), (many, longer, _) in pairwise(costs):
        lines.append(Line(f"first contact, {many} scopes / {few} scopes", longer / contact, "x", MAX_GROWTH))
    (few, _, change), (many, _, slower) = costs[0], costs[-1]
    lines.append(Line(f"one changed scope, {many} / {few} scopes", slower / change, "x", MAX_CHANGE_GROWTH))
    return lines


def _costs(stage: Stage, server: Program, publishing: PublishingClient, count: int) -> tuple[float, float]:
    """Return how long a new sidecar takes to enforce so many scopes and the org's own, and then one change."""
    key = publishing.create_api_key(org=ORG, role="host", host_id=f"bench-{count}").secret
    began = time.perf_counter()
    sidecar = stage.start_sidecar(ORG, server.ready["listen"], key, name=f"bench-{count}")
    _until(lambda: _enforced(sidecar) == count + 1)
    contact = time.perf_counter() - began
    with PolicyClient(sidecar.ready["socket"], timeout=5.0) as client:
        change = statistics.median(_change(publishing, client, number) for number in range(CHANGES))
    sidecar.stop()
    return contact, change


def _names(draw: random.Random) -> Iterator[str]:
    while True:
        yield f"org/{ORG}/{draw.choice(('team', 'user'))}/{draw.getrandbits(48):012x}"


def _publish(publishing: PublishingClient, scope: str, mark: str, effect: str = "permit") -> None:
    text = f'@id("p") @mark("{mark}") {effect} (principal, action, resource);'
    publishing.publish(scope, [PolicyFile("bench.cedar", text.encode())], PublishTerms(message="bench"))


def _change(publishing: PublishingClient, client: PolicyClient, number: int) -> float:
    """Return how long a change of one scope takes until it decides."""
    effect = "permit" if number % 2 else "forbid"
    began = time.perf_counter()
    _publish(publishing, f"org/{ORG}", f"{number}", effect)
    _until(lambda: _allows(client) is (effect == "permit"), CHANGE_POLL_S)
    return time.perf_counter() - began


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

"""What a decision costs with few and with very many policies, against Cedar alone on this machine.

Run it with `make bench-engine`. The measure is one `cedarpy.is_authorized` over just the policies that can match: the
same query, entities and schema, all parsed before. Both take turns in one process, each on the same 2,000 distinct
requests; medians. Memory and activation are measured in a process of their own for each size. Only ratios carry over
to other machines.
"""

from __future__ import annotations

import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.clock import SystemClock
from akpolicy.engine.cedar_request import build
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.decide import judge
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.source import PolicyText
from akpolicy.engine.stack import LayerStack
from akpolicy.fence.fence import Fence
from akpolicy_sidecar.pauses import switch_often
from akpolicy_sidecar.sessions import SessionBook, SessionLimits
from bench.table import Line, report
from tests.simulators.host import HostSimulator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from akpolicy.engine.cedar_request import CedarRequest

SIZES: Final = (10, 800, 8_000, 40_000)
REQUESTS: Final = 2_000
SHARED: Final = 7
MAX_RATIO: Final = 1.3
MAX_GROWTH: Final = 1.5
MAX_MEMORY_MB: Final = 120.0
SESSIONS: Final = 10_000
MAX_SESSIONS_MB: Final = 100.0
MAX_ACTIVATION_S: Final = 15.0
MAX_P99_RATIO: Final = 3.0
IDLE_S: Final = 3.0
PERIOD_S: Final = 0.002

_SCHEMA: Final = load_default_schema()
_ACTION: Final = 'AgentKernel::Action::"Exec"'


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    if sys.argv[1:2] == ["--memory"]:
        print(json.dumps(_memory_here(int(sys.argv[2]))))
        return 0
    if sys.argv[1:2] == ["--sessions"]:
        print(json.dumps(_sessions_here(int(sys.argv[2]))))
        return 0
    if sys.argv[1:2] == ["--activation"]:
        print(json.dumps(_activation_here(int(sys.argv[2]))))
        return 0
    return report(__doc__ or "", lambda: [*_decisions(), *_memory(), *_sessions(), *_activation()])


# --- decisions --------------------------------------------------------------------------------------------------------


def policies(count: int, prefix: str = "p") -> list[PolicyText]:
    """Return policies of which `SHARED` concern every request, and each of the others one user."""
    texts = []
    for number in range(count):
        if number < SHARED:
            scope = f"principal is AgentKernel::User, action == {_ACTION}, resource is AgentKernel::Sandbox"
            condition = f'principal.roles.contains("role{number}") && context.command != "rm"'
        else:
            scope = f'principal == AgentKernel::User::"acme/local/u{number}", action == {_ACTION}, resource'
            condition = 'principal.mfa_verified && context.command like "git *"'
        policy_id = f"{prefix}{number}"
        texts.append(PolicyText(policy_id, f'@id("{policy_id}") permit ({scope}) when {{ {condition} }};'))
    return texts


def requests(count: int) -> list[CedarRequest]:
    """Return distinct requests, their entities parsed; half are allowed."""
    built = []
    for number in range(count):
        principal = Principal(f"alice{number % 97}", "acme", roles=(f"role{number % (2 * SHARED)}",))
        resource = Resource(f"box{number % 53}", attributes={"agent_type": "claude", "runtime": "python"})
        request = AuthorizationRequest(principal, "Exec", resource, {"command": f"make target{number}"})
        built.append(build(request, org="acme", source="runtime"))
        built[-1].entities.parsed(_SCHEMA)
    return built


def _decisions() -> list[Line]:
    asked = requests(REQUESTS)
    lines, ours_us = [], {}
    for size in SIZES:
        stack = _stack(size)
        ours, plain = _in_turns(asked, lambda request, stack=stack: judge(stack, request), _plain(stack, asked[0]))  # type: ignore[misc]
        ours_us[size] = ours
        lines += [
            Line(f"{size:>6} policies: a decision", ours, "us"),
            Line("         Cedar alone on that slice", plain, "us"),
            Line("         ratio", ours / plain, "x", MAX_RATIO),
        ]
    return [*lines, Line("40,000 policies / 10 policies", ours_us[SIZES[-1]] / ours_us[SIZES[0]], "x", MAX_GROWTH)]


def _stack(size: int) -> LayerStack:
    return LayerStack([compile_layer("org/acme", policies(size), _SCHEMA)], _SCHEMA, slices=SliceCache())


def _plain(stack: LayerStack, first: CedarRequest) -> Callable[[CedarRequest], object]:
    policy_set, handle = stack.slice_for(first).policy_set, _SCHEMA.handle
    if len(policy_set) != SHARED:
        msg = f"the slice has {len(policy_set)} policies"
        raise RuntimeError(msg)
    return lambda request: cedarpy.is_authorized(request.query, policy_set, request.entities.parsed(_SCHEMA), handle)


def _in_turns(
    asked: Sequence[CedarRequest], one: Callable[[CedarRequest], object], other: Callable[[CedarRequest], object]
) -> tuple[float, float]:
    """Return the median of both in microseconds."""
    ones, others = [], []
    for request in itertools.chain(asked, asked):
        began = time.perf_counter()
        one(request)
        between = time.perf_counter()
        other(request)
        ones.append(between - began)
        others.append(time.perf_counter() - between)
    return statistics.median(ones) * 1e6, statistics.median(others) * 1e6


# --- memory and activation --------------------------------------------------------------------------------------------


def _memory() -> list[Line]:
    return [
        Line(f"{size:>6} policies: resident memory of the engine", _elsewhere("--memory", size)[0], "MB", target)
        for size, target in ((SIZES[0], None), (SIZES[-1], MAX_MEMORY_MB))
    ]


def _memory_here(size: int) -> list[float]:
    """Return by how much this process grows, in MB, from before there was a policy until decisions were made."""
    asked = requests(200)
    compile_layer("global", policies(1), _SCHEMA)
    before = _resident_mb()
    stack = _stack(size)
    for request in asked:
        judge(stack, request)
    gc.collect()
    return [_resident_mb() - before]


def _sessions() -> list[Line]:
    [megabytes] = _elsewhere("--sessions", SESSIONS)
    return [Line(f"{SESSIONS:>6} sessions, each asked once: resident memory", megabytes, "MB", MAX_SESSIONS_MB)]


def _sessions_here(count: int) -> list[float]:
    """Return by how much this process grows, in MB, with so many sessions that have been used."""
    book = SessionBook(org="acme", default_roles=(), clock=SystemClock(), limits=SessionLimits(), check=lambda _: None)
    stack = _stack(SIZES[0])
    attributes = {"agent_type": "claude", "runtime": "python", "image": "python:3.12", "profile": "moderate"}

    def ask(number: int) -> None:
        principal = Principal(
            f"user{number}@acme.com", "acme", f"user{number}@acme.com", ("developer", "viewer"), ("red", "blue"), True
        )
        token = book.open(principal, Resource(f"box{number}", attributes=attributes)).token
        judge(stack, book.use(token).subjects.ask("Exec", {"command": "ls"}, "sandbox"))

    ask(0)
    before = _resident_mb()
    for number in range(count):
        ask(number)
    gc.collect()
    return [_resident_mb() - before]


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    msg = "this system does not tell the resident memory"
    raise RuntimeError(msg)


def _activation() -> list[Line]:
    seconds, small, idle, busy = _elsewhere("--activation", SIZES[-1])
    return [
        Line(f"{SIZES[-1]} policies: from the bundle to enforced", seconds, "s", MAX_ACTIVATION_S),
        Line("  beside them, a layer of 10 policies changes", small, "s"),
        Line("  p99 of decisions on another thread, idle", idle, "ms"),
        Line("  p99 of decisions on another thread, meanwhile", busy, "ms"),
        Line("  ratio", busy / idle, "x", MAX_P99_RATIO),
    ]


def _activation_here(size: int) -> list[float]:
    """Return seconds for `size` policies, seconds for ten beside them, p99 of decisions idle and meanwhile, in ms."""
    switch_often()
    with tempfile.TemporaryDirectory(prefix="akpolicy-bench-", dir=Path.cwd()) as place, Fence() as fence:
        host = HostSimulator(Path(place) / "state", fence=fence)
        host.office.publish({policy.id: policy.text for policy in policies(10, "own")}, scope="org/acme")
        host.connect()
        asked = itertools.cycle(requests(REQUESTS))
        idle = _latencies(host, asked, time.perf_counter() + IDLE_S)
        host.office.publish({policy.id: policy.text for policy in policies(size)})
        messages = host.office.bundle("global")
        busy: list[float] = []
        done = threading.Event()
        thread = threading.Thread(target=lambda: busy.extend(_latencies(host, asked, done)))
        thread.start()
        began = time.perf_counter()
        host.hear(*messages).beat()
        seconds = time.perf_counter() - began
        done.set()
        thread.join()
        host.office.publish({policy.id: policy.text for policy in policies(9, "own")}, scope="org/acme")
        messages = host.office.bundle("org/acme")
        began = time.perf_counter()
        host.hear(*messages).beat()
        small = time.perf_counter() - began
        nacks = host.nacks
        host.close()
    if nacks:
        raise RuntimeError(nacks)
    return [seconds, small, _p99_ms(idle), _p99_ms(busy)]


def _latencies(
    host: HostSimulator, asked: itertools.cycle[CedarRequest], until: float | threading.Event
) -> list[float]:
    """Decide 500 times a second until then; return how late after its time each decision was there.

    So what the thread waits for the interpreter counts.
    """
    found: list[float] = []
    due = time.perf_counter()
    while until.is_set() is False if isinstance(until, threading.Event) else due < until:
        due += PERIOD_S
        time.sleep(max(0.0, due - time.perf_counter()))
        request = next(asked)
        part = host.viewer.look().select(request.scopes).snapshot
        judge(part.stacks.get(part.compiled, _SCHEMA), request)
        found.append(time.perf_counter() - due)
    return found


def _p99_ms(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98] * 1000


def _elsewhere(what: str, size: int) -> list[float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "bench.engine", what, str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: list[float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    sys.exit(main())

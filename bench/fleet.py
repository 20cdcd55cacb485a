"""What a fleet costs one server on this machine: thousands of real gRPC streams over TLS.

Run it with `make bench-fleet`. It starts the real `akpolicy-server` and simulates hosts in two other processes
(`bench.fleet_hosts`), which share this machine's processors with it. A change is published several times, then the
server is killed and started again under the fleet. Everything is bounded in count and time; nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from akpolicy.cli.demo.stage import Stage
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.root import parse_root
from bench.table import Line, report
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STREAMS = int(os.environ.get("AKPOLICY_BENCH_STREAMS", "3000"))
PROCESSES = 2
POLICIES = 40
DEADLINE_S = 180.0
POLL_S = 0.25
MAX_RECEIVED_S = 2.0
MAX_KB_A_STREAM = 80.0
MAX_RETURN_S = 30.0
MAX_SHARE_A_SECOND = 0.10
# After so many seconds the backoff has spread the hosts.
SPREADING_S = 3.0


class Worker:
    """A process full of hosts."""

    def __init__(self, given: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "bench.fleet_hosts"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say(json.dumps(given))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _pipe(self._process.stdin).close()
        self._process.wait(DEADLINE_S)

    def report(self) -> dict[str, Any]:
        """Return what happened so far."""
        self._say("report")
        answer: dict[str, Any] = json.loads(_pipe(self._process.stdout).readline())
        return answer

    def _say(self, line: str) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(line + "\n")
        pipe.flush()


class Fleet:
    """Hosts in several processes."""

    def __init__(self, stack: ExitStack, given: dict[str, Any], hosts: Sequence[tuple[str, str]]) -> None:
        parts = [hosts[number::PROCESSES] for number in range(PROCESSES)]
        self.workers = [stack.enter_context(Worker({**given, "hosts": part})) for part in parts]
        self.size = len(hosts)

    def wait_reached(self, version: int) -> float:
        """Wait until every host has a version; return when the last one had it."""
        times = self._wait(lambda reports: [t for r in reports for t in r["reached"].get(str(version), ())])
        return max(times)

    def wait_connected_since(self, since: float) -> list[float]:
        """Wait until every host has connected after a moment; return when each had."""
        return self._wait(lambda reports: [c[-1] for r in reports for c in r["connected"] if c and c[-1] > since])

    def attempts_since(self, since: float) -> list[float]:
        """Return when hosts tried to connect."""
        return [t for w in self.workers for tries in w.report()["attempts"] for t in tries if t > since]

    def _wait(self, found: Any) -> list[float]:  # noqa: ANN401 - a function of reports
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            times: list[float] = found([worker.report() for worker in self.workers])
            if len(times) >= self.size:
                return times
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{len(times)} of {self.size} hosts within {DEADLINE_S} seconds")
            time.sleep(POLL_S)


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", lambda: list(_measure()))


def _measure() -> Iterator[Line]:
    with Stage(("acme",), keep=False) as stage, ExitStack() as stack:
        authority = AuthoritySimulator(stage.directory)
        identity = authority.issue("server")
        stage.init_server()
        _configure_tls(stage, identity.certificate, identity.key)
        server = stage.start_server()
        target = server.ready["listen"]
        endpoint = parse_server_url(f"https://{target}", ca_file=authority.ca_file)
        client = stack.enter_context(PublishingClient(endpoint, stage.admin_key))
        _publish(client, 1)
        hosts = [(f"host-{n}", _secret(client, f"host-{n}")) for n in range(STREAMS)]
        empty = _resident_kb(server.process.pid)
        given = {"target": target, "ca_file": str(authority.ca_file), "heartbeat_key": _heartbeat_key(client)}
        fleet = Fleet(stack, given, hosts)
        began = time.monotonic()
        yield Line(f"{STREAMS} streams over TLS: all connected, from nothing", fleet.wait_reached(1) - began, "s")
        yield Line(
            "server memory a stream", (_resident_kb(server.process.pid) - empty) / STREAMS, "KB", MAX_KB_A_STREAM
        )
        times = []
        for version in range(2, 5):
            began = time.monotonic()
            _publish(client, version)
            times.append(fleet.wait_reached(version) - began)
        yield Line("publish called -> received, verified by all (max of 3)", max(times), "s", MAX_RECEIVED_S)
        killed = time.monotonic()
        server.kill()
        stage.start_server()
        listening = time.monotonic()
        times = fleet.wait_connected_since(killed)
        yield Line("server killed and started: listening again after", listening - killed, "s")
        yield Line(f"  all {STREAMS} are back, after it listens", max(times) - listening, "s", MAX_RETURN_S)
        seconds = Counter(int(t - killed) for t in fleet.attempts_since(killed) if t - killed > SPREADING_S)
        yield Line("  share that tries in one second, at most", max(seconds.values()) / STREAMS, "", MAX_SHARE_A_SECOND)
        began = time.monotonic()
        _publish(client, 5)
        yield Line("  publish called -> received by all after that", fleet.wait_reached(5) - began, "s")


def _publish(client: PublishingClient, version: int) -> None:
    text = "".join(
        f'@id("p{n}") permit (principal == AgentKernel::User::"acme/local/u{n}-{version}", action, resource);\n'
        for n in range(POLICIES)
    )
    client.publish("org/acme", [PolicyFile("bench.cedar", text.encode())], PublishTerms())


def _secret(client: PublishingClient, host_id: str) -> str:
    return client.create_api_key(org="acme", role="host", host_id=host_id).secret


def _heartbeat_key(client: PublishingClient) -> str:
    root, keys = parse_root(client.roots("acme", newest_only=True)[0].envelope.payload)
    if root.roles.heartbeat is None:
        raise RuntimeError("the org's root names no heartbeat key")
    return keys[root.roles.heartbeat.keys[0]].raw.hex()


def _configure_tls(stage: Stage, certificate: Path, key: Path) -> None:
    config = stage.directory / "server" / "server.toml"
    tls = f'\n[server.tls]\ncert_file = "{certificate}"\nkey_file = "{key}"\n'
    config.write_text(config.read_text(encoding="utf-8") + tls, encoding="utf-8")


def _resident_kb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("a process without pipes")
    return pipe


if __name__ == "__main__":
    raise SystemExit(main())

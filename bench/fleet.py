"""What a fleet costs one server on this machine: thousands of real gRPC streams over TLS.

Run it with `make bench-fleet`. It starts the real `akpolicy-server` and simulates hosts in two other processes
(`bench.fleet_hosts`), which share this machine's processors with it. A change is published several times, then the
server is killed and started again under the fleet. Everything is bounded in count and time; nothing leaves the machine.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from akpolicy.cli.demo.stage import Stage
from akpolicy.client.channel import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.root import parse_root
from bench.fleet_hosts import SLOW
from bench.fleet_workers import BareServer, Fleet
from bench.table import Line, report
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.simulators.certificates import Identity

STREAMS = int(os.environ.get("AKPOLICY_BENCH_STREAMS", "3000"))
POLICIES = 40
CHANGES = 3
# Among so many hosts so many that do not read; what 20 changes leave unread is more than a connection takes (64 KiB).
AMONG, SLOW_READERS, CHANGES_AMONG = 200, 20, 20
MAX_TIMES_WITHOUT_SLOW = 1.5
MAX_RECEIVED_S = 2.0
MAX_TIMES_BARE = 3.0
MAX_KB_A_STREAM = 80.0
MAX_RETURN_S = 30.0
MAX_SHARE_A_SECOND = 0.10


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", lambda: list(_measure()))


def _measure() -> Iterator[Line]:
    with _tls_stage() as (stage, authority, identity):
        with ExitStack() as stack:
            real = _Real(stage, stack, authority.ca_file, [f"host-{n}" for n in range(STREAMS)])
            yield from real.connect()
            received_s, change_bytes = real.publish()
            returned = list(real.kill_and_return())
        bare_kb, bare_s = _bare(identity.certificate, identity.key, authority.ca_file, change_bytes)
        yield Line("  a bare grpc.aio server", bare_kb, "KB")
        yield Line(
            "publish called -> received, verified by all (max of 3)",
            received_s,
            "s",
            max(MAX_RECEIVED_S, MAX_TIMES_BARE * bare_s),
        )
        yield Line(f"  a bare broadcast of the same {change_bytes} bytes to each (max of 3)", bare_s, "s")
        yield Line("  times the bare broadcast", received_s / bare_s, "")
        yield from returned
    alone_s, beside_s = _among(0), _among(SLOW_READERS)
    yield Line(
        f"a change to {AMONG} hosts while {SLOW_READERS} more do not read: times that without them",
        beside_s / alone_s,
        "",
        MAX_TIMES_WITHOUT_SLOW,
    )


def _among(slow: int) -> float:
    """Return how long a change takes to hosts beside others that do not read, in seconds; the median of many."""
    with _tls_stage() as (stage, authority, _), ExitStack() as stack:
        names = [f"host-{n}" for n in range(AMONG)] + [f"{SLOW}{n}" for n in range(slow)]
        real = _Real(stage, stack, authority.ca_file, names)
        list(real.connect())
        real.median()
        return real.median()


@contextmanager
def _tls_stage() -> Iterator[tuple[Stage, AuthoritySimulator, Identity]]:
    """Yield a stage whose server is set up for TLS, who vouches for it, and its certificate."""
    with Stage(("acme",), keep=False) as stage:
        authority = AuthoritySimulator(stage.directory)
        identity = authority.issue("server")
        stage.init_server()
        _configure_tls(stage, identity.certificate, identity.key)
        yield stage, authority, identity


class _Real:
    """The real server under a fleet."""

    def __init__(self, stage: Stage, stack: ExitStack, ca_file: Path, names: Sequence[str]) -> None:
        self._stage = stage
        self._server = stage.start_server()
        target = self._server.ready["listen"]
        endpoint = parse_server_url(f"https://{target}", ca_file=ca_file)
        self._client = stack.enter_context(PublishingClient(endpoint, stage.admin_key))
        self._version = 1
        _publish(self._client, 1)
        hosts = [(name, _secret(self._client, name)) for name in names]
        self._empty_kb = _resident_kb(self._server.process.pid)
        given = {"target": target, "ca_file": str(ca_file), "heartbeat_key": _heartbeat_key(self._client)}
        self._began = time.monotonic()
        self._fleet = Fleet(stack, given, hosts)

    def connect(self) -> Iterator[Line]:
        """Wait for the whole fleet."""
        took = self._fleet.wait_reached(1) - self._began
        yield Line(f"{STREAMS} streams over TLS: all connected, from nothing", took, "s")
        grown_kb = _resident_kb(self._server.process.pid) - self._empty_kb
        yield Line("server memory a stream", grown_kb / STREAMS, "KB", MAX_KB_A_STREAM)

    def publish(self) -> tuple[float, int]:
        """Return how long a change takes to all, in seconds, and how many bytes it is to each."""
        before = self._fleet.received_bytes()
        times = [self._publish() for _ in range(CHANGES)]
        return max(times), (self._fleet.received_bytes() - before) // (CHANGES * STREAMS)

    def median(self) -> float:
        """Return how long one of many changes takes to all who read, in seconds."""
        return statistics.median(self._publish() for _ in range(CHANGES_AMONG))

    def _publish(self) -> float:
        self._version += 1
        began = time.monotonic()
        _publish(self._client, self._version)
        return self._fleet.wait_reached(self._version) - began

    def kill_and_return(self) -> Iterator[Line]:
        """Kill the server, start it again, and publish to those who returned."""
        killed = time.monotonic()
        self._server.kill()
        self._stage.start_server()
        listening = time.monotonic()
        times = self._fleet.wait_connected_since(killed)
        yield Line("server killed and started: listening again after", listening - killed, "s")
        yield Line(f"  all {STREAMS} are back, after it listens", max(times) - listening, "s", MAX_RETURN_S)
        seconds = Counter(int(t - killed) for t in self._fleet.attempts_since(killed))
        yield Line("  share that tries in one second, at most", max(seconds.values()) / STREAMS, "", MAX_SHARE_A_SECOND)
        yield Line("  publish called -> received by all after that", self._publish(), "s")


def _bare(certificate: Path, key: Path, ca_file: Path, size: int) -> tuple[float, float]:
    """Return what a bare server needs for a stream, in KB, and for a change to all, in seconds."""
    with ExitStack() as stack:
        server = stack.enter_context(BareServer(certificate, key))
        empty_kb = _resident_kb(server.process.pid)
        given = {"target": server.target, "ca_file": str(ca_file), "heartbeat_key": ""}
        fleet = Fleet(stack, given, [(f"host-{n}", "none") for n in range(STREAMS)])
        fleet.wait_reached(1)
        grown_kb = _resident_kb(server.process.pid) - empty_kb
        times = []
        for version in range(2, 2 + CHANGES):
            began = time.monotonic()
            server.send(size)
            times.append(fleet.wait_reached(version) - began)
    return grown_kb / STREAMS, max(times)


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


if __name__ == "__main__":
    raise SystemExit(main())

"""A thousand things that happen to a fleet, in an order that a seed draws.

Hosts with the sidecar's real parts hang on real wires between them and real servers; one of the servers is restored
from an old backup and knows nothing newer. At the end each host is on the last revision of each scope, and at no swap,
in none of its lives, has any enforced an older revision after a newer one.

It does fail: without the comparison of versions in `akpolicy.trust` hosts go back when they meet the old server, and
with a catalog on the server that keeps what it should forget they do not end on the last revision.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.client.publishing_types import PublishTerms
from akpolicy.engine.files import PolicyFile
from akpolicy.errors import ServerRefused, ServerUnreachable
from akpolicy.keys import AnchorSet, TrustAnchor, parse_anchor
from akpolicy_sidecar import update_modes, watcher
from tests.integration.e2e import programs
from tests.integration.e2e.witnessed_host import WitnessedHost
from tests.integration.e2e.world import ORG, World, permit
from tests.simulators.waiting import wait_until
from tests.simulators.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.client.publishing import PublishingClient

EVENTS: Final = 1000
HOSTS: Final = 6
DEADLINE_S: Final = 300.0
SCOPES: Final = ("global", f"org/{ORG}", f"org/{ORG}/team/red", f"org/{ORG}/team/blue")
# A part of a bundle, of a heartbeat, or nothing but TLS-less HTTP/2 preface.
CUTS: Final = (1, 300, 2000, 6000, 20_000)


class Trial:
    """The fleet, and what can happen to it."""

    def __init__(self, world: World, stack: ExitStack, seed: int) -> None:
        self._random = random.Random(seed)
        self._world = world
        self._published = dict.fromkeys(SCOPES, 0)
        self.happened: dict[str, int] = {}
        self._client = stack.enter_context(self._begin())
        self._old_port = self._start_old_server()
        self.wires = [stack.enter_context(Wire(world.port)) for _ in range(HOSTS)]
        anchors = AnchorSet((TrustAnchor(parse_anchor(world.anchors[ORG])),))
        self.hosts = [
            WitnessedHost(world.directory / f"h{n}", ORG, anchors, f"http://127.0.0.1:{wire.port}", self._key(n))
            for n, wire in enumerate(self.wires)
        ]
        for host in self.hosts:
            host.start()
            stack.callback(host.stop)

    def _begin(self) -> PublishingClient:
        world = self._world
        world.init()
        world.server_tables["server"]["keep_alive_seconds"] = 0.2
        world.start_server()
        return world.publishing()

    def _key(self, number: int) -> str:
        return self._world.host_key(f"h{number}").secret

    def _start_old_server(self) -> int:
        """Start a server on a copy that is older than everything that is published from now on; return its port."""
        world = self._world
        for scope in SCOPES:
            self._publish(scope)
        keys = [self._key(number) for number in range(HOSTS)]
        assert len(keys) == HOSTS
        assert world.server is not None
        assert world.server.stop() == 0
        old = world.directory / "old"
        shutil.copytree(world.server_dir, old)
        port = programs.free_port()
        tables = {**world.server_tables, "server": {**world.server_tables["server"], "listen": f"127.0.0.1:{port}"}}
        config = programs.write_toml(old / "server.toml", tables)
        world.start("old-server", [sys.executable, "-m", "akpolicy_server", "--config", config])
        world.start_server()
        return port

    # --- what can happen ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Let something happen."""
        kinds: dict[Callable[[], None], int] = {
            self.publish: 40,
            self.roll_back: 5,
            self.break_wire: 40,
            self.mend_wire: 20,
            self.meet_old_server: 4,
            self.restart_host: 4,
        }
        what = self._random.choices(list(kinds), list(kinds.values()))[0]
        self._count(what.__name__)
        what()
        for host in self.hosts:
            host.watcher.check_silence()

    def publish(self) -> None:
        self._publish(self._random.choice(SCOPES))

    def _publish(self, scope: str) -> None:
        number = sum(self._published.values())
        files = [PolicyFile("p.cedar", permit(f"p{number}").encode())]
        self._published[scope] = self._client.publish(scope, files, PublishTerms()).revision.version

    def roll_back(self) -> None:
        scope = self._random.choice(SCOPES)
        # To what was there before; after a rollback there is nothing that hosts would go back to.
        with suppress(ServerRefused):
            self._published[scope] = self._client.rollback(scope).revision.version

    def break_wire(self) -> None:
        wire = self._random.choice(self.wires)
        faults: list[Callable[[], None]] = [
            wire.reset,
            wire.half_close,
            wire.stall,
            wire.refuse,
            lambda: wire.cut_after(self._random.choice(CUTS)),
        ]
        self._random.choice(faults)()

    def mend_wire(self) -> None:
        self._mend(self._random.choice(self.wires))

    def _mend(self, wire: Wire) -> None:
        wire.lead_to(self._world.port)
        wire.heal()

    def meet_old_server(self) -> None:
        wire = self._random.choice(self.wires)
        wire.lead_to(self._old_port)
        wire.heal()
        wire.reset()

    def restart_host(self) -> None:
        host = self._random.choice(self.hosts)
        enforced = host.enforced
        host.stop()
        host.start()
        assert not host.not_loaded
        assert all(host.enforced.get(scope, 0) >= version for scope, version in enforced.items())

    def kill_server(self) -> None:
        assert self._world.server is not None
        self._count("kill_server")
        self._world.server.kill()
        self._world.start_server()
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self._client.history("global", 1))
        except ServerUnreachable:
            return False

    def _count(self, name: str) -> None:
        self.happened[name] = self.happened.get(name, 0) + 1

    @property
    def refused(self) -> float:
        """How many updates all hosts have refused."""
        found = (host.metrics.update_refusals.collect() for host in self.hosts)
        return sum(s.value for metrics in found for m in metrics for s in m.samples if s.name.endswith("_total"))

    # --- the end ------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Mend everything, and wait until all hosts enforce what was published last."""
        for wire in self.wires:
            self._mend(wire)
            wire.reset()

        def is_settled() -> bool:
            for host in self.hosts:
                host.watcher.check_silence()
            return all(host.enforced == self._published and host.is_live for host in self.hosts)

        wait_until(is_settled, deadline=60, what=f"{self._published}, and not {[h.enforced for h in self.hosts]}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hosts come back soon: it is about what they make of it, not about when."""
    monkeypatch.setattr(watcher, "FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(watcher, "MAX_BACKOFF_S", 0.2)
    monkeypatch.setattr(watcher, "MAX_SPREAD_S", 0.05)
    monkeypatch.setattr(update_modes, "STREAM_RETRY_S", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20_261])
def test_a_thousand_faults_and_publishes_end_on_the_last_revision_and_nobody_went_back(
    world: World, quick: None, seed: int
) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        trial = Trial(world, stack, seed)
        for number in range(EVENTS):
            trial.step()
            if number % (EVENTS // 5) == EVENTS // 10:
                trial.kill_server()
            assert time.monotonic() - began < DEADLINE_S, f"{number} events took too long"
        trial.settle()
        assert [host.wrong for host in trial.hosts] == [[]] * HOSTS
        # It was about something: hosts lost connections again and again, and met older documents.
        assert sum(wire.connections for wire in trial.wires) > EVENTS / 5
        assert trial.refused > 0

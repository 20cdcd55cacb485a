"""Two real servers on one PostgreSQL, and a sidecar for each way to turn to them."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Final

from akpolicy.client import parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import PublishTerms
from akpolicy.decision import PolicySource
from akpolicy.engine.files import PolicyFile
from tests.integration.e2e import programs
from tests.integration.e2e.world import ORG, World, permit

if TYPE_CHECKING:
    from tests.integration.e2e.programs import Program
    from tests.simulators.postgresql import PostgreSQL

SCOPE: Final = f"org/{ORG}"


class Pair:
    """Two servers of a world, which share a database; `host-1` turns to the second alone, `host-2` to both."""

    def __init__(self, world: World, database: PostgreSQL, keep_alive_s: float = 20.0) -> None:
        self.world = world
        self.database = database
        world.init(database_url=database.url("akpolicy"))
        # What is found within seconds is heard, and not found by the sweep.
        world.server_tables["server"]["keep_alive_seconds"] = keep_alive_s
        self.first = world.start_server()
        self.second, self.port = self._start_second()
        self.publish("first")
        for host, urls in (("host-1", [self._url(self.port)]), ("host-2", [world.url, self._url(self.port)])):
            tables = world.sidecar_tables(host)
            tables["enterprise"]["policy_server"] = urls[0]
            tables["sidecar"]["further_policy_servers"] = urls[1:]
            world.start_sidecar(host, tables=tables)
            world.wait_decided_by("first", host)

    def restart(self, *, first: bool) -> None:
        """Start one of the two again."""
        if first:
            self.first = self.world.start_server()
        else:
            config = self.world.directory / "second" / "server.toml"
            self.second = self.world.start("second", [sys.executable, "-m", "akpolicy_server", "--config", config])

    def _start_second(self) -> tuple[Program, int]:
        """Start another server as an operator would: with a copy of the configuration and of the keys."""
        world, port = self.world, programs.free_port()
        directory = world.directory / "second"
        shutil.copytree(world.server_dir, directory)
        tables = {"server": {**world.server_tables["server"], "listen": f"127.0.0.1:{port}"}}
        config = programs.write_toml(directory / "server.toml", tables)
        return world.start("second", [sys.executable, "-m", "akpolicy_server", "--config", config]), port

    @staticmethod
    def _url(port: int) -> str:
        return f"http://127.0.0.1:{port}"

    def publish(self, policy_id: str, port: int | None = None, key: str = "") -> int:
        """Publish at one of the two; return the version."""
        endpoint = parse_server_url(self._url(port or self.world.port))
        with PublishingClient(endpoint, self.world.admin_key) as client:
            files = [PolicyFile("p.cedar", permit(policy_id).encode())]
            return client.publish(SCOPE, files, PublishTerms(idempotency_key=key)).revision.version

    def is_live(self, host: str) -> bool:
        return self.world.ask(host).source is PolicySource.LIVE

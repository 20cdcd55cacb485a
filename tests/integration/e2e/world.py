"""A small world: one policy server, sidecars, operators, all real, in a directory with a short path.

Socket paths have at most 107 bytes, which pytest's own temporary directories may exceed; hence `tempfile.mkdtemp`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from akpolicy.client import Decision, PolicyClient, Principal, Resource, parse_server_url
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.publishing_types import CreatedApiKey, PublishTerms, RevisionInfo
from akpolicy.engine.files import PolicyFile
from akpolicy.errors import ClientError
from akpolicy_sidecar.cache import read_state
from akpolicy_sidecar.state import ConfirmationState
from tests.integration.e2e import programs
from tests.integration.e2e.programs import DEADLINE_S, Program
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

    from akpolicy_sidecar.state import State
    from tests.simulators.certificates import Identity

ORG: Final = "acme"
HOST: Final = "host-1"
HOST_KEY: Final = "AKPOLICY_HOST_KEY"
ASK_TIMEOUT_S: Final = 10.0

Tables = dict[str, dict[str, object]]


def permit(policy_id: str) -> str:
    """Return a policy that allows everything, under an id that shows who allowed it."""
    return f'@id("{policy_id}")\npermit (principal, action, resource);\n'


def ask(client: PolicyClient, org: str = ORG) -> Decision:
    """Ask the same question as ever: may alice create a sandbox?"""
    return client.authorize(
        principal=Principal(id="alice", org_id=org, roles=("developer",)),
        action="Create",
        resource=Resource(id="box", attributes={"agent_type": "claude", "runtime": "python"}),
    )


def decided_by(decision: Decision) -> str:
    """Return the ids of the determining policies, or the reason if there is none."""
    return ",".join(policy.policy_id for policy in decision.determining) or decision.reason.name


class World:
    """Starts programs in a directory of its own; a context manager that stops and removes them all."""

    def __init__(self) -> None:
        """Make the directory; nothing runs yet."""
        self.directory = Path(tempfile.mkdtemp(prefix="akp-"))
        self.server_dir = self.directory / "server"
        self.port = programs.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_key = ""
        self.anchors: dict[str, str] = {}
        self.server_tables: Tables = {}
        self.server: Program | None = None
        self.sidecars: dict[str, Program] = {}
        # What the operator's clients need to trust the server, and to be let in by it.
        self.ca_file: Path | None = None
        self.operator: Identity | None = None
        self._started: list[Program] = []
        self._clients: dict[str, PolicyClient] = {}
        self._host_keys: dict[tuple[str, str], CreatedApiKey] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()
        for program in reversed(self._started):
            if program.is_running:
                program.kill()
        for log in sorted({program.log for program in self._started}):
            # pytest shows this when the test failed, and only then.
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-programs.SHOWN_LINES :]
            sys.stdout.write("\n".join([f"--- {log.name}", *lines, ""]))
        shutil.rmtree(self.directory)

    def start(self, name: str, command: Sequence[object], env: Mapping[str, str] | None = None) -> Program:
        """Start one of the two programs in the world's directory; its log and its ready file are named after it."""
        log, ready = self.directory / f"{name}.log", self.directory / f"{name}.json"
        program = programs.start(name, command, log, ready, env or {}, cwd=self.directory)
        self._started.append(program)
        return program

    # --- the server ---------------------------------------------------------------------------------------------------

    def init(self, *orgs: str, database_url: str = "") -> None:
        """Run `akpolicy-server init`, and configure a server that can be restarted on its port."""
        command = [sys.executable, "-m", "akpolicy_server", "init", "--dir", str(self.server_dir)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--metrics-listen", "127.0.0.1:0", "--output", "json"]
        for org in orgs or (ORG,):
            command += ["--org", org]
        command += ["--database-url", database_url] if database_url else []
        done = programs.run(command)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        self.admin_key = made["admin_api_key"]
        self.anchors = {entry["org"]: entry["trust_anchor"] for entry in made["orgs"]}
        self.server_tables = {
            "server": {
                "data_dir": "data",
                "listen": f"127.0.0.1:{self.port}",
                "metrics_listen": "127.0.0.1:0",
                "keep_alive_seconds": 1.0,
            }
        }
        if database_url:
            self.server_tables["server"]["database_url"] = database_url

    def start_server(self) -> Program:
        """Start the server with `server_tables` as its configuration."""
        config = programs.write_toml(self.server_dir / "server.toml", self.server_tables)
        self.server = self.start("server", [sys.executable, "-m", "akpolicy_server", "--config", config])
        return self.server

    def publishing(self, api_key: str = "") -> PublishingClient:
        """Return a client for operators; the platform admin's if no key is given."""
        endpoint = parse_server_url(
            self.url,
            ca_file=self.ca_file,
            client_cert_file=self.operator.certificate if self.operator else None,
            client_key_file=self.operator.key if self.operator else None,
        )
        return PublishingClient(endpoint, api_key or self.admin_key)

    def publish(self, text: str, org: str = ORG, terms: PublishTerms | None = None) -> RevisionInfo:
        """Publish `text` as the whole policy of an org."""
        with self.publishing() as client:
            files = [PolicyFile("policies.cedar", text.encode())]
            return client.publish(f"org/{org}", files, terms or PublishTerms()).revision

    def history(self, org: str = ORG) -> list[RevisionInfo]:
        """Return all that was published for an org, newest first."""
        with self.publishing() as client:
            return client.history(f"org/{org}", 100_000)

    def cli(
        self, *arguments: str | Path, text: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `akpolicy` as an admin in the world's directory."""
        environment = {"AKPOLICY_SERVER": self.url, "AKPOLICY_API_KEY": self.admin_key, **(env or {})}
        return programs.run(["akpolicy", *arguments], environment, text=text, cwd=self.directory)

    # --- sidecars -----------------------------------------------------------------------------------------------------

    def host_key(self, host: str = HOST, org: str = ORG) -> CreatedApiKey:
        """Return the API key of a host, made when it is first asked for."""
        if (org, host) not in self._host_keys:
            with self.publishing() as client:
                self._host_keys[org, host] = client.create_api_key(org=org, role="host", host_id=host)
        return self._host_keys[org, host]

    def sidecar_tables(self, host: str = HOST, org: str = ORG) -> Tables:
        """Return the configuration of a host's sidecar, for tests to change."""
        return {
            "enterprise": {"enabled": True, "policy_server": self.url, "org_id": org, "api_key_env": HOST_KEY},
            "enterprise.trust_anchors": {"keys": [self.anchors[org]]},
            "sidecar": {"state_dir": f"{host}/state", "socket": f"{host}.sock", "metrics_listen": "127.0.0.1:0"},
        }

    def start_sidecar(
        self,
        host: str = HOST,
        *,
        tables: Tables | None = None,
        secret: str | None = None,
        org: str = ORG,
    ) -> Program:
        """Start a host's sidecar, on the state that an earlier one left."""
        config = programs.write_toml(self.directory / f"{host}.toml", tables or self.sidecar_tables(host, org))
        key = secret if secret is not None else self.host_key(host, org).secret
        command = [sys.executable, "-m", "akpolicy_sidecar", "--config", config]
        self.sidecars[host] = self.start(host, command, {HOST_KEY: key})
        return self.sidecars[host]

    def run_sidecar(self, tables: Tables, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a sidecar that is expected to end by itself, and return what it said."""
        config = programs.write_toml(self.directory / "refused.toml", tables)
        command = [sys.executable, "-m", "akpolicy_sidecar", "--config", str(config)]
        return programs.run(command, {HOST_KEY: "a-key", **(env or {})})

    def state_dir(self, host: str = HOST) -> Path:
        """Return where a host's sidecar keeps its cache."""
        return self.directory / host / "state"

    def state(self, host: str = HOST) -> dict[str, Any]:
        """Return what a sidecar's state on disk says of its scopes."""
        return {scope: kept.model_dump() for scope, kept in self._state(host).scopes.items()}

    def freshness(self, host: str = HOST) -> dict[str, Any]:
        """Return the heartbeat that vouched last for each scope, as a sidecar's state on disk says."""
        state = self._state(host)
        seen = state.freshness.freshness(state.scopes).by_scope
        return {scope: ConfirmationState.of(each).model_dump() for scope, each in seen.items()}

    def _state(self, host: str) -> State:
        state = read_state(self.state_dir(host))
        assert state is not None
        return state

    def audited(self, host: str = HOST) -> list[dict[str, Any]]:
        """Return every decision in a sidecar's audit log."""
        return [json.loads(line) for line in (self.state_dir(host) / "audit.jsonl").read_text("utf-8").splitlines()]

    def client(self, host: str = HOST) -> PolicyClient:
        """Return a client of a host's sidecar."""
        if host not in self._clients:
            self._clients[host] = PolicyClient(self.directory / f"{host}.sock", timeout=ASK_TIMEOUT_S)
        return self._clients[host]

    def ask(self, host: str = HOST, org: str = ORG) -> Decision:
        """Ask a host's sidecar."""
        return ask(self.client(host), org)

    def wait_for_decision(
        self, condition: Callable[[Decision], bool], host: str = HOST, org: str = ORG, what: str = ""
    ) -> Decision:
        """Ask until a decision fulfils the condition, and return it."""
        last: list[Decision] = []

        def fulfilled() -> bool:
            try:
                last[:] = [self.ask(host, org)]
            except ClientError:
                return False
            return condition(last[0])

        try:
            wait_until(fulfilled, deadline=DEADLINE_S, what=what or "a decision")
        except AssertionError as error:
            error.add_note(f"the last decision was {last}")
            raise
        return last[0]

    def wait_decided_by(self, policy_id: str, host: str = HOST, org: str = ORG) -> Decision:
        """Ask until this policy (or, if there is none, this reason) decides; the server's stream must be live then."""
        return self.wait_for_decision(lambda d: decided_by(d) == policy_id, host, org, f"a decision by `{policy_id}`")

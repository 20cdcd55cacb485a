"""A real sidecar process: its files, its life, and how to talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc

from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.certificates import Identity

API_KEY_ENV = "AKPOLICY_TEST_KEY"
CALL_DEADLINE_S = 10.0
EXIT_DEADLINE_S = 20.0

PERMIT = {"permit-all": '@id("permit-all") permit (principal, action, resource);'}
FORBID = {"forbid-all": '@id("forbid-all") forbid (principal, action, resource);'}


def text(value: str) -> pb.Value:
    return pb.Value(string_value=value)


def request(**changes: Any) -> pb.AuthorizeRequest:
    """Return a request that fits the schema."""
    message = pb.AuthorizeRequest(
        principal=pb.Principal(id="alice", org_id="acme", roles=["developer"]),
        action="Attach",
        resource=pb.Resource(id="box", attributes={"agent_type": text("claude"), "runtime": text("python")}),
    )
    for name, value in changes.items():
        if isinstance(value, (str, bool)):
            setattr(message, name, value)
        else:
            getattr(message, name).CopyFrom(value)
    return message


class Sidecar:
    """One `akpolicy-sidecar`: its files, its process, and how to talk to it."""

    def __init__(self, directory: Path, server_url: str, anchor: str) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.socket = directory / "run" / "sidecar.sock"
        self.config = directory / "sidecar.toml"
        self.log = directory / "log"
        self.ready_file = directory / "ready.json"
        self.env = {API_KEY_ENV: "a-key"}
        self.enterprise: dict[str, Any] = {
            "enabled": True,
            "policy_server": server_url,
            "org_id": "acme",
            "api_key_env": API_KEY_ENV,
        }
        self.anchors: dict[str, Any] = {"keys": [anchor]}
        self.sidecar: dict[str, Any] = {
            "state_dir": str(self.state),
            "socket": str(self.socket),
            "metrics_listen": "127.0.0.1:0",
            "shutdown_grace_seconds": 1.0,
        }
        self.extra = ""
        self.process: subprocess.Popen[bytes] | None = None

    def serve_tcp(self, identity: Identity, *, port: int = 0) -> None:
        """Configure a second listener on 127.0.0.1."""
        self.extra = (
            f'[sidecar.tcp]\nlisten = "127.0.0.1:{port}"\n'
            f'cert_file = "{identity.certificate}"\nkey_file = "{identity.key}"\n'
        )

    # --- process ------------------------------------------------------------------------------------------------------

    def write_config(self) -> None:
        sections = {
            "enterprise": self.enterprise,
            "enterprise.trust_anchors": self.anchors,
            "sidecar": self.sidecar,
        }
        lines = []
        for name, values in sections.items():
            # JSON strings, numbers, booleans and lists of strings are TOML as well.
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join([*lines, self.extra, ""]))

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it."""
        self.write_config()
        env = {name: value for name, value in os.environ.items() if name != API_KEY_ENV}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "akpolicy_sidecar"),
                    *("--config", self.config, "--ready-file", self.ready_file),
                ],
                env={**env, **self.env},
                stdout=log,
                stderr=log,
            )
        return self.process

    def start(self) -> Sidecar:
        """Start the process and wait until it serves."""
        process = self.launch()
        wait_until(lambda: self.ready_file.exists() or process.poll() is not None, what="the ready file")
        assert process.poll() is None, self.output()
        return self

    def refuse(self) -> tuple[int, str]:
        """Start the process, which must end by itself; return its exit code and what it said."""
        return self.launch().wait(EXIT_DEADLINE_S), self.output()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(EXIT_DEADLINE_S)
        if how is signal.SIGKILL:
            self.ready_file.unlink(missing_ok=True)
        return code

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def ready(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.ready_file.read_text())
        return loaded

    # --- talking to it ------------------------------------------------------------------------------------------------

    def channel(self) -> grpc.Channel:
        # Without a pool of its own, a channel to a path of before would wait out the backoff of that one.
        return grpc.insecure_channel(f"unix:{self.socket}", options=[("grpc.use_local_subchannel_pool", 1)])

    def ask(self, message: pb.AuthorizeRequest | None = None) -> pb.Decision:
        with self.channel() as channel:
            stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
            return stub.Authorize(message or request(), timeout=CALL_DEADLINE_S).decision

    def wait_reason(self, reason: str) -> pb.Decision:
        """Ask until the answer has this reason."""
        last: list[pb.Decision] = []

        def has_reason() -> bool:
            last[:] = [self.ask()]
            return pb.ReasonCode.Name(last[0].reason) == f"REASON_CODE_{reason}"

        wait_until(has_reason, what=f"a decision for the reason {reason}")
        return last[0]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.ready()['metrics']}{path}", timeout=CALL_DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, line: str) -> float:
        """Return the value of a metric, named with its labels as /metrics writes them; 0 if it is not there."""
        for found in self.get("/metrics")[1].splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]

"""The demo's stage: one real server and one real sidecar for each org, as processes, in a directory of their own.

Rules:

- Everything lives below one new directory (0700) with free ports; nothing on the machine is touched.
- The programs are started as an operator would start them, by their public commands, and found by their ready files.
- Only processes started here are stopped: by signal to that process, then waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from akpolicy.errors import StartupError, UsageError

START_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 10.0
POLL_S: Final = 0.01
HOST_KEY_VARIABLE: Final = "AKPOLICY_HOST_KEY"

_SIDECAR_TOML = """\
[enterprise]
enabled = true
policy_server = "http://{server}"
org_id = "{org}"
api_key_env = "{variable}"
offline_mode = "cached_with_expiry"
cache_max_age_hours = 24

[enterprise.trust_anchors]
keys = ["{anchor}"]

[sidecar]
state_dir = "state"
socket = "sidecar.sock"
metrics_listen = "127.0.0.1:0"
audit_log = "audit.jsonl"
"""

_pause = threading.Event()


@dataclass(slots=True)
class Program:
    """A started process, and what its ready file says of it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    def kill(self) -> None:
        """End the process without a chance to clean up (SIGKILL)."""
        self.process.kill()
        self.process.wait(STOP_DEADLINE_S)

    def stop(self) -> None:
        """Ask the process to end; kill it if it does not."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """Return the end of the process's log, for an error message."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])


class Stage:
    """A server, sidecars and the directory they live in; a context manager that stops and removes them all."""

    def __init__(self, orgs: tuple[str, ...], *, keep: bool) -> None:
        """Prepare for `orgs`; with `keep` nothing is stopped or removed at the end."""
        self._orgs = orgs
        self._keep = keep
        self._programs: list[Program] = []
        self.directory = Path(tempfile.mkdtemp(prefix="akpolicy-demo-"))
        self.admin_key = ""
        self.anchors: dict[str, str] = {}
        self.root_key_files: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._keep and failure[0] is None:
            return
        for program in reversed(self._programs):
            program.stop()
        # What went wrong says where the logs are.
        if not isinstance(failure[1], StartupError):
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def programs(self) -> tuple[Program, ...]:
        """What was started, in order."""
        return tuple(self._programs)

    def init_server(self) -> None:
        """Run `akpolicy-server init` for the demo's orgs."""
        command = [*_program("akpolicy_server"), "init", "--dir", str(self.directory / "server"), "--output", "json"]
        # A port of its own instead of 0: the sidecars must find a restarted server again.
        command += ["--listen", f"127.0.0.1:{_free_port()}", "--metrics-listen", "127.0.0.1:0"]
        for org in self._orgs:
            command += ["--org", org]
        done = subprocess.run(command, capture_output=True, check=False, timeout=START_DEADLINE_S)  # noqa: S603 - ours
        if done.returncode != 0:
            raise StartupError(f"akpolicy-server init failed:\n{done.stderr.decode(errors='replace')}")
        result = json.loads(done.stdout)
        self.admin_key = result["admin_api_key"]
        self.anchors = {entry["org"]: entry["trust_anchor"] for entry in result["orgs"]}
        self.root_key_files = {entry["org"]: Path(entry["root_key_file"]) for entry in result["orgs"]}

    def start_server(self) -> Program:
        """Start the policy server; its ready file has `listen` and `metrics`."""
        return self._start("akpolicy_server", "server", self.directory / "server" / "server.toml", {})

    def start_sidecar(self, org: str, server: str, host_key: str, *, name: str = "") -> Program:
        """Configure and start a sidecar for `org`; its ready file has `socket` and `metrics`.

        `name` is that of its directory and its log: the org's if none is given.
        """
        home = self.directory / (name or org)
        home.mkdir(mode=0o700)
        config = home / "sidecar.toml"
        config.write_text(
            _SIDECAR_TOML.format(server=server, org=org, anchor=self.anchors[org], variable=HOST_KEY_VARIABLE),
            encoding="utf-8",
        )
        return self.restart_sidecar(name or org, host_key)

    def restart_sidecar(self, name: str, host_key: str) -> Program:
        """Start a sidecar that was configured before, on the state that it left."""
        config = self.directory / name / "sidecar.toml"
        return self._start("akpolicy_sidecar", name, config, {HOST_KEY_VARIABLE: host_key})

    def _start(self, module: str, name: str, config: Path, environment: dict[str, str]) -> Program:
        ready, log = self.directory / f"{name}.ready", self.directory / f"{name}.log"
        command = [*_program(module), "--config", str(config), "--ready-file", str(ready)]
        # One that was killed left its ready file; this start must not be taken for that one's.
        ready.unlink(missing_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=self._keep,
            )
        program = Program(name, process, log)
        self._programs.append(program)
        _wait_until_ready(program, ready)
        return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(module: str) -> list[str]:
    if find_spec(module) is None:
        extra = module.removeprefix("akpolicy_")
        raise UsageError(f"the demo needs the {extra}, which is not installed: pip install 'akpolicy[server,sidecar]'")
    return [sys.executable, "-m", module]


def _wait_until_ready(program: Program, ready: Path) -> None:
    attempts = int(START_DEADLINE_S / POLL_S)
    for _ in range(attempts):
        if ready.exists():
            program.ready = json.loads(ready.read_text(encoding="utf-8"))
            return
        if program.process.poll() is not None:
            raise StartupError(f"{program.name} ended with code {program.process.returncode}:\n{program.last_words()}")
        _pause.wait(POLL_S)
    raise StartupError(f"{program.name} was not ready within {START_DEADLINE_S:.0f} s:\n{program.last_words()}")

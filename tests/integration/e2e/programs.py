"""Programs as an operator starts them: real processes, found by their ready files and stopped by their pids.

Rules:

- A test waits for what a program says or does, never for a time.
- Ports lie below the range that the kernel takes outgoing ports from, so that no connection of another test sits on
  them while a program is restarted; a lock keeps other test processes from choosing them meanwhile.
- Only what was started here is stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sysconfig
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCRIPTS: Final = Path(sysconfig.get_path("scripts"))
DEADLINE_S: Final = 60.0
SHOWN_LINES: Final = 40
_PORTS: Final = range(20_000, 32_000)
_LOCKS: Final = Path(tempfile.gettempdir()) / f"akpolicy-test-ports-{os.getuid()}"
_held: Final[list[IO[str]]] = []


@dataclass(slots=True)
class Program:
    """A started process, what its ready file says, and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process without a chance to clean up (SIGKILL)."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stand still while the block runs (SIGSTOP): the kernel keeps its connections, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ask the process to end, and return its exit code; kill it if it does not end."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def records(self) -> list[dict[str, Any]]:
        """Return the log's JSON lines, of all runs of this program; a line that is being written is left out."""
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                found.append(record)
        return found

    def wait_for_record(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a log line whose event begins so and that has these fields, and return the first."""

        def look() -> dict[str, Any] | None:
            wanted = fields.items()
            return next((r for r in self.records() if r["event"].startswith(event) and wanted <= r.items()), None)

        found = wait_until(look, what=f"`{event}` in the log of {self.name}")
        assert found is not None
        return found

    def tail(self) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:])

    # --- its HTTP endpoint --------------------------------------------------------------------------------------------

    def page(self, path: str) -> tuple[int, str]:
        """Return status and body of a page of the program's HTTP endpoint."""
        try:
            with urllib.request.urlopen(f"http://{self.ready['metrics']}{path}", timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 if there is none."""
        samples = [s for family in text_string_to_metric_families(self.page("/metrics")[1]) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return the status of /readyz and what it says."""
        status, body = self.page("/readyz")
        return status, json.loads(body)


def start(
    name: str,
    command: Sequence[object],
    log: Path,
    ready_file: Path,
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
) -> Program:
    """Start a program that writes `ready_file`, which is added to its options, and return when it serves."""
    # One that was killed left its ready file; this start must not be taken for that one's.
    ready_file.unlink(missing_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*map(str, command), "--ready-file", str(ready_file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**clean_environment(), **env},
            cwd=cwd,
        )
    program = Program(name, process, log)

    def serves_or_ended() -> bool:
        return ready_file.exists() or not program.is_running

    try:
        wait_until(serves_or_ended, deadline=DEADLINE_S, what=f"the ready file of {name}")
        assert ready_file.exists(), f"{name} ended with {process.returncode}:\n{program.tail()}"
    except AssertionError:
        process.kill()
        process.wait()
        raise
    program.ready = json.loads(ready_file.read_text(encoding="utf-8"))
    return program


def run(
    command: Sequence[object],
    env: Mapping[str, str] | None = None,
    *,
    text: str = "",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed."""
    return subprocess.run(
        [str(part) for part in command],
        env={**clean_environment(), **(env or {})},
        input=text,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what the programs read from it, and with their scripts on PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AKPOLICY_")}
    return {**kept, "PATH": f"{SCRIPTS}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that is ours until this process ends."""
    _LOCKS.mkdir(mode=0o777, exist_ok=True)

    def probe() -> int:
        port = secrets.choice(_PORTS)
        lock = (_LOCKS / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as candidate:
                candidate.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            return 0
        _held.append(lock)
        return port

    return wait_until(probe, what="a free port")


def write_toml(path: Path, tables: Mapping[str, Mapping[str, object]]) -> Path:
    """Write tables of plain values as TOML and return the path."""
    lines = []
    for name, values in tables.items():
        lines.append(f"[{name}]")
        # JSON's strings, numbers, booleans and lists are TOML's too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

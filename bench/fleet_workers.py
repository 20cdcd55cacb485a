"""The processes that `bench.fleet` measures with: hosts by the thousand, and a bare server to compare with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Self

from bench.fleet_hosts import SLOW

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

PROCESSES = 2
DEADLINE_S = 180.0
POLL_S = 0.25


class Worker:
    """A process full of hosts."""

    def __init__(self, given: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "bench.fleet_hosts"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say(json.dumps(given))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pipe_of(self._process.stdin).close()
        self._process.wait(DEADLINE_S)

    def ask(self, question: str) -> list[float]:
        """Return what the hosts of this process say (`Hosts.answer`)."""
        self._say(question)
        answer: list[float] = json.loads(pipe_of(self._process.stdout).readline())
        return answer

    def _say(self, line: str) -> None:
        pipe = pipe_of(self._process.stdin)
        pipe.write(line + "\n")
        pipe.flush()


class Fleet:
    """Hosts in several processes."""

    def __init__(self, stack: ExitStack, given: dict[str, Any], hosts: Sequence[tuple[str, str]]) -> None:
        """Start `hosts`; those whose names begin with `SLOW` are not waited for."""
        parts = [hosts[number::PROCESSES] for number in range(PROCESSES)]
        self.workers = [stack.enter_context(Worker({**given, "hosts": part})) for part in parts]
        self.size = sum(not host_id.startswith(SLOW) for host_id, _ in hosts)

    def wait_reached(self, version: int) -> float:
        """Wait until every host has a version; return when the last one had it."""
        return max(self._wait(f"reached {version}"))

    def wait_connected_since(self, since: float) -> list[float]:
        """Wait until every host has connected after a moment; return when each had."""
        return self._wait(f"connected {since}")

    def attempts_since(self, since: float) -> list[float]:
        """Return when hosts tried to connect."""
        return self._ask(f"attempts {since}")

    def received_bytes(self) -> int:
        """Return how much all have received."""
        return int(sum(self._ask("bytes")))

    def _ask(self, question: str) -> list[float]:
        return [value for worker in self.workers for value in worker.ask(question)]

    def _wait(self, question: str) -> list[float]:
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            times = self._ask(question)
            if len(times) >= self.size:
                return times
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{len(times)} of {self.size} hosts within {DEADLINE_S} seconds")
            time.sleep(POLL_S)


class BareServer:
    """A process of `bench.fleet_bare`."""

    def __init__(self, certificate: Path, key: Path) -> None:
        command = [sys.executable, "-m", "bench.fleet_bare", str(certificate), str(key)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.target = f"127.0.0.1:{int(pipe_of(self.process.stdout).readline())}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pipe_of(self.process.stdin).close()
        self.process.wait(DEADLINE_S)

    def send(self, size: int) -> None:
        """Send so many bytes to every host."""
        pipe = pipe_of(self.process.stdin)
        pipe.write(f"{size}\n")
        pipe.flush()
        pipe_of(self.process.stdout).readline()


def pipe_of(pipe: IO[str] | None) -> IO[str]:
    """Return a pipe that a process has."""
    if pipe is None:
        raise RuntimeError("a process without pipes")
    return pipe

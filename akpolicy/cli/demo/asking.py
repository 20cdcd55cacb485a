"""What every step of the demo does: ask a sidecar, wait for something, read a program's metrics."""

from __future__ import annotations

import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Final

from akpolicy.cli.demo.findings import Answer
from akpolicy.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.cli.demo.findings import Example
    from akpolicy.cli.demo.stage import Program
    from akpolicy.client import PolicyClient

DEADLINE_S: Final = 20.0
POLL_S: Final = 0.001
ASK_TIMEOUT_S: Final = 2.0

_pause = threading.Event()


def ask(client: PolicyClient, example: Example) -> Answer:
    """Ask an example question."""
    request = example.request
    decision = client.authorize(
        principal=request.principal, action=request.action, resource=request.resource, context=request.context
    )
    return Answer(example, decision)


def wait(condition: Callable[[], bool], otherwise: str, logs: Path) -> None:
    """Wait until something is so; raise `StartupError` that begins with `otherwise` if it does not come about."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise StartupError(f"{otherwise} after {DEADLINE_S:.0f} s; see the logs in {logs}")
        _pause.wait(POLL_S)


def series_of(program: Program, metric: str) -> dict[str, float]:
    """Return every series of one of a program's metrics, as `name{labels}`, with its value."""
    with urllib.request.urlopen(f"http://{program.ready['metrics']}/metrics", timeout=ASK_TIMEOUT_S) as page:
        lines = page.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.split("{")[0].split(" ")[0] == metric]
    return {series: float(value) for series, value in pairs}

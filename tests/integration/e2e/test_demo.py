"""`akpolicy demo` as a newcomer types it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e import programs
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# Who asks, for what, and what comes of it by which policies.
EXPECTED = [
    ("root", "Create", "my-project", "allow", ["developer-basics"]),
    ("root", "Run", "my-project", "allow", ["seed-dev-run-memory"]),
    ("ak_test_", "Run", "ephemeral", "deny", []),
    ("alice", "Run", "ml-project", "allow", ["seed-dev-run-memory"]),
    ("alice", "Run", "ml-big", "deny", []),
    ("alice", "Exec", "ml-project", "allow", ["developer-basics"]),
    ("eve", "Network", "ehr-etl", "deny", ["seed-healthcare-network-mfa"]),
    ("eve", "Network", "ehr-etl", "allow", ["developer-basics"]),
    ("carol", "Mount", "infra-tool", "allow", ["admin-everything"]),
    ("dave", "Attach", "api-server", "allow", ["viewer-attach"]),
    ("dave", "Exec", "api-server", "deny", []),
    ("carol", "PortMap", "codex-project", "deny", ["no-codex"]),
]
CHANGED = ("alice", "Exec", "ml-project", "deny", ["freeze-ml-project"])


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo makes its directory; the path must be short, there will be sockets below it."""
    directory = Path(tempfile.mkdtemp(prefix="akd-"))
    yield directory
    shutil.rmtree(directory)


def told(answers: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [
        tuple(answer[name] for name in ("principal", "action", "resource", "decision", "policies"))
        for answer in answers
    ]


@pytest.mark.slow
def test_the_demo_decides_as_expected_and_leaves_nothing_behind(place: Path) -> None:
    done = programs.run(["akpolicy", "demo", "--output", "json"], {"TMPDIR": str(place)})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert told(found["decisions"]) == EXPECTED
    assert (found["update"]["before"], found["update"]["after"]) == ("allow", "deny")
    assert found["update"]["enforced_after_ms"] > 0
    attack, rotation = found["attack"], found["rotation"]
    assert (attack["refused_as"], attack["before"], attack["after"]) == ("SignatureInvalid", "deny", "deny")
    assert attack["version_before"] == attack["version_after"] == 2
    assert (rotation["root_before"], rotation["root_after"], rotation["version_after"]) == (1, 2, 4)
    assert (rotation["decisions_meanwhile"] > 0, rotation["refused_meanwhile"]) == (True, 0)
    assert told(found["offline"]["decisions"]) == [CHANGED if e[:3] == CHANGED[:3] else e for e in EXPECTED]
    assert found["offline"]["source"] == ["cache"]
    from_cache = [value for labels, value in found["metrics"].items() if 'source="cache"' in labels]
    assert sum(from_cache) >= len(EXPECTED)
    assert found["as_expected"] is True
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_a_kept_demo_answers_the_commands_that_it_prints_until_its_pids_are_stopped(place: Path) -> None:
    done = programs.run(["akpolicy", "demo", "--keep"], {"TMPDIR": str(place)})
    stop = re.search(r"^Stop it: kill ([\d ]+); rm -r (.+)$", done.stderr, re.MULTILINE)
    assert stop is not None, done.stderr
    pids = [int(pid) for pid in stop[1].split()]
    try:
        assert done.returncode == 0, done.stderr
        assert "everything is as expected" in done.stdout
        assert [_command_of(pid).split("\0")[2] for pid in pids] == [
            "akpolicy_sidecar",
            "akpolicy_sidecar",
            "akpolicy_server",
        ]
        commands = re.findall(r"^  (.+)$", done.stderr.partition("Try:")[2], re.MULTILINE)
        assert len(commands) == 5
        # Typed into one shell, one after the other, because one of them exports variables for the next.
        typed = programs.run(["sh", "-e", "-u"], text="\n".join(commands))
        assert typed.returncode == 0, typed.stderr
        assert typed.stdout.startswith("allow  allowed by")
        assert 'akpolicy_sidecar_decisions_total{effect="allow"' in typed.stdout
        assert '"resource":"acme-corp/my-sandbox"' in typed.stdout
        assert "freeze the ml project" in typed.stdout
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not any(map(_is_alive, pids)), what="the end of the kept programs")
    assert [str(path) for path in place.iterdir()] == [stop[2]]


@pytest.mark.slow
@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_stops_its_programs_and_removes_its_directory(
    place: Path, received: signal.Signals
) -> None:
    environment = {**programs.clean_environment(), "TMPDIR": str(place)}
    with subprocess.Popen(
        ["akpolicy", "demo"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        # The server and the first sidecar run when the second org's turn comes.
        next(line for line in demo.stderr if "healthcare-corp" in line)
        started = _children_of(demo.pid)
        demo.send_signal(received)
        demo.stderr.read()
        assert demo.wait(programs.DEADLINE_S) != 0
    assert len(started) >= 2
    assert not any(map(_is_alive, started))
    assert list(place.iterdir()) == []


def _children_of(pid: int) -> list[int]:
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process for process in processes if _stat(process)[1:2] == [str(pid)]]


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


def _is_alive(pid: int) -> bool:
    # Nobody may have reaped a zombie.
    return _stat(pid)[:1] not in ([], ["Z"])


def _stat(pid: int) -> list[str]:
    """Return state, parent and more of a process (proc(5)); nothing if there is none."""
    try:
        # The name stands before that in parentheses, and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []

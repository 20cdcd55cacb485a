"""A backup is made while the server publishes, put back, and what hosts make of it is seen and mended."""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from akpolicy_server.settings import DATABASE_FILE
from tests.integration.e2e import programs
from tests.integration.e2e.world import HOST, World, decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


def server_command(world: World, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "akpolicy_server", arguments[0], "--config", world.server_dir / "server.toml"]
    return programs.run([*command, *arguments[1:]], cwd=world.directory)


def data_of(world: World) -> Path:
    return world.server_dir / "data"


def versions_in(path: Path) -> list[int]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        query = "SELECT version FROM revisions WHERE scope = 'org/acme' ORDER BY version"
        return [version for (version,) in database.execute(query)]


@contextmanager
def publishing(world: World) -> Iterator[list[int]]:
    """Publish without a pause while the block runs; yield the versions that were acknowledged."""
    done: list[int] = []
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            done.append(world.publish(permit(f"busy-{len(done)}")).version)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        wait_until(lambda: len(done) > 1)
        yield done
    finally:
        stop.set()
        thread.join()


def test_a_backup_during_publishes_has_all_that_was_acknowledged_before_it(enforcing: World) -> None:
    file = enforcing.directory / "backup.sqlite3"
    with publishing(enforcing) as done:
        before = done[-1]
        made = server_command(enforcing, "backup", file, "--output", "json")
        wait_until(lambda: done[-1] > before)

    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout) == {"file": str(file), "bytes": file.stat().st_size}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = versions_in(file)
    assert found == list(range(1, len(found) + 1))
    assert before <= found[-1] <= done[-1]
    assert sorted(path.name for path in enforcing.directory.iterdir() if path.name.startswith((".tmp", "backup"))) == [
        file.name
    ]


def test_a_backup_replaces_no_file(enforcing: World) -> None:
    file = enforcing.directory / "precious"
    file.write_text("precious")

    done = server_command(enforcing, "backup", file)

    assert (done.returncode, "exists and was left as it is" in done.stderr) == (1, True)
    assert file.read_text() == "precious"


@pytest.mark.slow
def test_hosts_refuse_an_older_database_say_so_and_follow_a_new_epoch(enforcing: World) -> None:
    assert enforcing.server is not None
    file = enforcing.directory / "monday.sqlite3"
    assert server_command(enforcing, "backup", file).returncode == 0
    enforcing.publish(permit("second"))
    enforcing.wait_decided_by("second")

    while_it_runs = server_command(enforcing, "restore", file)
    assert (while_it_runs.returncode, "stop it first" in while_it_runs.stderr) == (1, True)
    enforcing.server.stop()
    restored = json.loads(server_command(enforcing, "restore", file, "--output", "json").stdout)
    assert restored["orgs"] == 1
    assert versions_in(data_of(enforcing) / DATABASE_FILE) == [1]
    assert versions_in(enforcing.server_dir / restored["kept"]) == [1, 2]

    enforcing.start_server()
    refusing = wait_until(lambda: refusals(enforcing), what="what the host refuses")
    assert {code for _, code in refusing} & {"RollbackDetected", "HeartbeatRollback"}
    kept = enforcing.ask()
    assert (decided_by(kept), kept.allowed, kept.source.value) == ("second", True, "cache")

    # What is published now gets a number that hosts know another document by.
    assert enforcing.publish(permit("again")).version == 2
    enforcing.sidecars[HOST].wait_for_record("update refused", code="Equivocation")
    assert decided_by(enforcing.ask()) == "second"

    [anchor], root_key = enforcing.anchors.values(), root_key_of(enforcing)
    for command in (
        ("root", "propose", "--org", "acme", "--anchor", anchor, "--new-epoch", "--out", "epoch.json"),
        ("root", "sign", "epoch.json", "--key", str(root_key), "--yes"),
        ("root", "publish", "epoch.json"),
    ):
        done = enforcing.cli(*command)
        assert done.returncode == 0, done.stderr
    enforcing.publish(permit("third"))
    bundle = enforcing.wait_decided_by("third").bundles[0]
    assert (bundle.epoch, bundle.version) == (2, 2)
    # The new root lets the host ask again at once for the heartbeat that it refused.
    wait_until(lambda: not refusals(enforcing), deadline=programs.DEADLINE_S, what="nothing that is refused")


def refusals(world: World) -> list[tuple[str, str]]:
    listed = json.loads(world.cli("fleet", "hosts", "--org", "acme", "--output", "json").stdout)
    return [(host["host_id"], refusal["code"]) for host in listed for refusal in host["refusals"]]


def root_key_of(world: World) -> Path:
    root = json.loads(world.cli("root", "show", "--org", "acme", "--output", "json").stdout)
    [key_id] = next(entry["keys"] for entry in root["roles"] if entry["role"] == "root")
    return data_of(world) / "keys" / f"{key_id}.pem"


@pytest.mark.parametrize("what", ["text", "cut", "damaged", "other", "missing"])
def test_what_is_no_sound_backup_changes_nothing(enforcing: World, what: str) -> None:
    assert enforcing.server is not None
    file = enforcing.directory / "backup.sqlite3"
    assert server_command(enforcing, "backup", file).returncode == 0
    enforcing.server.stop()
    spoil(file, what)
    database = data_of(enforcing) / DATABASE_FILE
    before = database.read_bytes()

    done = server_command(enforcing, "restore", file)

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert database.read_bytes() == before
    assert [path.name for path in data_of(enforcing).iterdir() if "before-restore" in path.name] == []


def spoil(file: Path, what: str) -> None:
    data = file.read_bytes()
    if what == "text":
        file.write_text("no database")
    elif what == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif what == "damaged":
        half = len(data) // 2
        file.write_bytes(data[:half] + bytes(8192) + data[half + 8192 :])
    elif what == "missing":
        file.unlink()
    else:
        file.unlink()
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE notes (text)")


def test_a_database_of_a_newer_version_is_not_put_back(enforcing: World) -> None:
    assert enforcing.server is not None
    file = enforcing.directory / "backup.sqlite3"
    assert server_command(enforcing, "backup", file).returncode == 0
    enforcing.server.stop()
    with closing(sqlite3.connect(file, isolation_level=None)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")

    done = server_command(enforcing, "restore", file)

    assert (done.returncode, "written by a newer version" in done.stderr) == (1, True)


def test_a_database_that_cannot_be_read_is_replaced_and_kept(enforcing: World) -> None:
    assert enforcing.server is not None
    file = enforcing.directory / "backup.sqlite3"
    assert server_command(enforcing, "backup", file).returncode == 0
    enforcing.server.stop()
    database = data_of(enforcing) / DATABASE_FILE
    database.write_bytes(b"a disk that failed" * 1000)

    restored = json.loads(server_command(enforcing, "restore", file, "--output", "json").stdout)

    assert (enforcing.server_dir / restored["kept"]).read_bytes() == b"a disk that failed" * 1000
    enforcing.start_server()
    enforcing.wait_for_decision(lambda d: d.source.value == "live" and d.fresh)

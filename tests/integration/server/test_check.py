"""`akpolicy-server check`: what a start would find, found without a trace."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from akpolicy_server.settings import DATABASE_FILE
from tests.integration.server.conftest import Program, program
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def check(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return program("check", f"--config={config}", *options)


def traces(config: Path) -> dict[str, int]:
    """Return everything in a server's directory; a directory's time says whether a file came and went."""
    directory = config.parent
    return {
        str(path.relative_to(directory)): path.stat().st_mtime_ns
        for path in (directory, *directory.rglob("*"))
        # Readers of a database in use put their marks there.
        if not path.name.endswith("-shm")
    }


def test_what_there_is_to_see_to_is_said_and_nothing_is_changed(config: Path) -> None:
    before = traces(config)
    done = check(config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("acme: a root key lies on this machine")
    [concern] = json.loads(check(config, "--output=json").stdout)
    assert (concern["org"], len(concern["key"])) == ("acme", 64)
    assert check(config, "--strict").returncode == 1
    assert traces(config) == before


def test_a_start_that_would_fail_is_said(config: Path, made: dict[str, object]) -> None:
    [org] = cast("list[dict[str, str]]", made["orgs"])
    Path(org["root_key_file"]).chmod(0o644)
    done = check(config)
    assert (done.returncode, "chmod 600" in done.stderr) == (1, True)
    (config.parent / "data" / DATABASE_FILE).unlink()
    assert "error:" in check(config).stderr
    config.write_text("[server]\n", encoding="utf-8")
    assert check(config).returncode == 2


def test_nothing_is_made_that_is_not_there(config: Path) -> None:
    data = config.parent / "data"
    shutil.rmtree(data / "keys")
    before = traces(config)
    done = check(config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a signing key is missing") == 5
    assert traces(config) == before
    shutil.rmtree(data)
    gone = check(config)
    assert (gone.returncode, "set up a server with" in gone.stderr) == (1, True)
    data.mkdir(0o700)
    empty = check(config)
    assert (empty.returncode, "there is no database" in empty.stderr) == (1, True)
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("place", ["data", "data/keys"])
def test_a_directory_that_others_can_enter_is_refused_as_by_a_start(config: Path, place: str) -> None:
    (config.parent / place).chmod(0o755)
    done = check(config)
    assert (done.returncode, "others must have no access" in done.stderr) == (1, True)


def test_a_database_of_another_structure_is_left_as_it_is(config: Path) -> None:
    with closing(sqlite3.connect(config.parent / "data" / DATABASE_FILE)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'old'")
        database.commit()
    before = traces(config)
    done = check(config)
    assert (done.returncode, "not of this version" in done.stderr) == (1, True)
    assert traces(config) == before


def test_a_server_that_runs_is_looked_through_with_what_it_wrote_last(
    config: Path, start: Callable[[Path], Program], made: dict[str, Any]
) -> None:
    running = start(config)
    running.operator(made["admin_api_key"]).create_org("globex")
    before = traces(config)
    orgs = {concern["org"] for concern in json.loads(check(config, "--output=json").stdout)}
    assert orgs == {"acme", "globex"}
    assert traces(config) == before
    running.end(signal.SIGKILL)
    assert check(config).stdout.count("a root key lies on this machine") == 2
    assert traces(config).keys() == before.keys() - {"ready"}
    (config.parent / "data" / f"{DATABASE_FILE}-shm").unlink()
    unclear = check(config)
    assert (unclear.returncode, "start the server once" in unclear.stderr) == (1, True)


# --- TLS --------------------------------------------------------------------------------------------------------------


def with_tls(config: Path, certificate: Path, key: Path) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write(f'\n[server.tls]\ncert_file = "{certificate}"\nkey_file = "{key}"\n')


def test_tls_files_are_read_as_for_serving(config: Path, tmp_path: Path) -> None:
    authority = AuthoritySimulator(tmp_path)
    identity, other = authority.issue("server", days=90), authority.issue("other")
    with_tls(config, identity.certificate, identity.key)
    done = check(config)
    assert (done.returncode, "certificate" in done.stdout) == (0, False), done.stderr
    identity.key.write_bytes(other.key.read_bytes())
    swapped = check(config)
    assert (swapped.returncode, "is not the key of certificate" in swapped.stderr) == (2, True)
    identity.certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    assert check(config).returncode == 2


def test_a_certificate_that_ends_soon_is_said(config: Path, tmp_path: Path) -> None:
    identity = AuthoritySimulator(tmp_path).issue("server", days=13)
    identity.key.chmod(0o644)
    with_tls(config, identity.certificate, identity.key)
    concern, other = [entry for entry in json.loads(check(config, "--output=json").stdout) if not entry["org"]]
    assert other["message"].startswith(f"`{identity.key}` has mode 0644")
    assert concern["message"].startswith(f"the certificate `{identity.certificate}` expires at ")
    assert check(config).stdout.startswith("server: the certificate ")

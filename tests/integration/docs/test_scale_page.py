"""docs/operations/scale.md: the set-up that it describes, with the program, on a real PostgreSQL."""

from __future__ import annotations

import sys
import tomllib
from typing import TYPE_CHECKING

from akpolicy_server.store import postgresql as rules
from tests.integration.docs.pages import read
from tests.integration.e2e import programs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.postgresql import PostgreSQL


def test_a_server_is_set_up_in_an_empty_database_and_a_check_finds_it(tmp_path: Path, postgresql: PostgreSQL) -> None:
    assert "`--database-url`" in read("docs/operations/scale.md")
    url, server = postgresql.new_database(), [sys.executable, "-m", "akpolicy_server"]
    arguments = ["init", "--dir", tmp_path / "server", "--org", "acme", "--database-url", url]
    done = programs.run([*server, *arguments])
    assert done.returncode == 0, done.stderr
    config = tmp_path / "server" / "server.toml"
    assert tomllib.loads(config.read_text())["server"]["database_url"] == url
    checked = programs.run([*server, "check", "--config", config])
    assert checked.returncode == 0, checked.stderr
    again = programs.run([*server, "init", "--dir", tmp_path / "other", "--database-url", url])
    assert (again.returncode, "has tables already" in again.stderr) == (1, True)
    wrong = programs.run([*server, "init", "--dir", tmp_path / "other", "--database-url", "mysql://x"])
    assert wrong.returncode == 2
    postgresql.drop_database(url)


def test_the_connections_are_as_many_as_the_page_says() -> None:
    # SQLAlchemy opens ten beyond the pool at most.
    assert f"up to {rules.POOL_SIZE + 10} for transactions" in read("docs/operations/scale.md")

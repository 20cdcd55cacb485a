"""docs/operations/deploy.md: what it installs exists, its scrape configuration fits the alerts, its checks pass."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from tests.integration.docs.pages import ROOT, blocks, read, typed

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = read("docs/operations/deploy.md")
COMMANDS: Final = [command for block in blocks(PAGE, "console") for command in typed(block)]
[SCRAPE] = [yaml.safe_load(block.text) for block in blocks(PAGE, "yaml")]


def test_every_command_is_of_a_kind_that_is_tested_here() -> None:
    kinds = {shlex.split(command)[0] for command in COMMANDS}

    assert kinds == {"install", "systemd-sysusers", "systemd-tmpfiles", "systemctl", "promtool", "docker"}


def test_what_is_installed_gets_where_it_is_said(tmp_path: Path) -> None:
    for command in (shlex.split(each) for each in COMMANDS if each.startswith("install ")):
        target = tmp_path / command[-1].removeprefix("/")
        subprocess.run([*command[:-1], str(target)], check=True, cwd=ROOT, timeout=60)
    installed = {path.name for path in (tmp_path / "etc" / "systemd" / "system").iterdir()}

    started = {word for command in COMMANDS if command.startswith("systemctl") for word in command.split()[2:]}
    units = {re.sub(r"@\w+", "@", word) for word in started if word.endswith(".service")}
    assert units == installed


def test_the_jobs_are_those_of_the_alerts() -> None:
    rules = (ROOT / "deploy" / "prometheus" / SCRAPE["rule_files"][0]).read_text(encoding="utf-8")

    assert {job["job_name"] for job in SCRAPE["scrape_configs"]} == set(re.findall(r'job="([\w-]+)"', rules))


@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("promtool")])
def test_promtool_passes(command: str) -> None:
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_images_are_those_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for command in (each for each in COMMANDS if each.startswith("docker")):
        words = shlex.split(command)
        assert f" AS {words[words.index('--target') + 1]}\n" in dockerfile
        assert (ROOT / words[words.index("--file") + 1]).exists()

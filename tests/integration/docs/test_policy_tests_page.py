"""docs/policy-tests.md: its cases pass, and its commands can be typed."""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Final

import pytest

from tests.integration.docs.pages import blocks, read
from tests.integration.e2e import programs

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

PAGE: Final = read("docs/policy-tests.md")
COMMANDS: Final = [line for block in blocks(PAGE, "console") for line in block.text.splitlines()]
[SHOWN] = [block.text for block in blocks(PAGE, "text")]
REQUEST: Final = {
    "principal": {"id": "alice", "org_id": "acme", "roles": ["developer"]},
    "action": "Run",
    "resource": {"id": "box", "agent_type": "claude", "runtime": "python", "max_memory_mb": 1024},
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The files that the page shows, each under the name in its first line, and those that it only names."""
    for language in ("yaml", "cedar"):
        for block in blocks(PAGE, language):
            name = re.match(r"(?:#|//) (\S+)", block.text)
            assert name
            (tmp_path / name[1]).write_text(block.text, encoding="utf-8")
    (tmp_path / "candidate.cedar").write_text('@id("none") forbid (principal, action, resource);', encoding="utf-8")
    (tmp_path / "requests.jsonl").write_text(json.dumps(REQUEST), encoding="utf-8")
    uid = {"type": "AgentKernel::User", "id": "a"}
    cedar = {"principal": uid, "action": {"type": "AgentKernel::Action", "id": "Run"}, "resource": uid}
    (tmp_path / "cedar-requests.jsonl").write_text(json.dumps(cedar), encoding="utf-8")
    return tmp_path


def run(directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    return programs.run([programs.SCRIPTS / program, *arguments], cwd=directory)


def test_the_cases_pass_as_the_page_shows(directory: Path) -> None:
    done = run(directory, COMMANDS[0])

    assert (done.returncode, done.stdout, done.stderr) == (0, SHOWN, "")
    assert ET.parse(directory / "report.xml").getroot()[0].get("tests") == "4"


def test_the_change_is_told(directory: Path) -> None:
    done = run(directory, COMMANDS[1])

    assert done.returncode == 1
    assert "org/acme/none: 1 allow -> deny" in done.stdout


def test_layout_is_written_and_then_as_it_should_be(directory: Path) -> None:
    assert [run(directory, command).returncode for command in COMMANDS[2:4]] == [0, 0]


def test_a_forbid_that_an_omitted_attribute_switches_off_is_a_warning(directory: Path) -> None:
    done = run(directory, COMMANDS[4])

    assert done.returncode == 0
    assert done.stderr.startswith("warning: image.cedar:2: ForbidBehindHas: policy `no-latest`: ")


def test_plain_cedar_is_evaluated(directory: Path) -> None:
    done = run(directory, COMMANDS[5])

    # Nothing is known of the user without entities: the permit fails, which is an error and no decision of it.
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["decision"], len(answer["errors"])) == (0, "deny", 1)

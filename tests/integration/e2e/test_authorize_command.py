"""A question that no example has, asked on the command line of a host that enforces the example policies."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = ["--org", "acme", "--resource", "nightly-tests", "--attr", "agent_type=gemini", "--attr", "runtime=node"]
ALLOWED = ["--principal", "mallory", "--role", "developer", "--action", "Exec", "--context", "command=npm test", *FLAGS]
FORBIDDEN = [part.replace("gemini", "codex") for part in ALLOWED]
UNMENTIONED = [part.replace("developer", "auditor") for part in ALLOWED]


def request(agent_type: str, roles: list[str]) -> str:
    return json.dumps(
        {
            "principal": {"id": "mallory", "org_id": "acme", "roles": roles},
            "action": "Exec",
            "resource": {"name": "nightly-tests", "agent_type": agent_type, "runtime": "node"},
            "context": {"command": "npm test"},
        }
    )


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    with World() as world:
        world.init()
        world.start_server()
        world.publish(resources.files("akpolicy").joinpath("examples", "policies.cedar").read_text(encoding="utf-8"))
        world.start_sidecar()
        world.wait_decided_by("developer-basics")
        yield world


@pytest.mark.parametrize(
    ("flags", "code", "effect", "policies"),
    [
        (ALLOWED, 0, "allow", ["developer-basics"]),
        (FORBIDDEN, 1, "deny", ["no-codex"]),
        (UNMENTIONED, 1, "deny", []),
    ],
)
def test_a_question_in_options_is_answered_with_its_exit_code(
    host: World, flags: list[str], code: int, effect: str, policies: list[str]
) -> None:
    done = host.cli(
        "authorize", *flags, "--output", "json", env={"AKPOLICY_SOCKET": str(host.directory / "host-1.sock")}
    )
    decision = json.loads(done.stdout)
    assert (done.returncode, decision["decision"]) == (code, effect)
    assert [policy["policy_id"] for policy in decision["determining_policies"]] == policies
    assert decision["source"] == "live"
    assert decision["decision_id"] in (host.state_dir() / "audit.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lines", "code", "effects"),
    [
        ([request("gemini", ["developer"])], 0, ["allow"]),
        ([request("gemini", ["developer"]), request("codex", ["developer"])], 1, ["allow", "deny"]),
    ],
)
def test_questions_on_standard_input_are_answered_line_by_line(
    host: World, lines: list[str], code: int, effects: list[str]
) -> None:
    socket = host.directory / "host-1.sock"
    done = host.cli("authorize", "--request", "-", "--socket", socket, "--output", "json", text="\n".join(lines) + "\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [answer["decision"] for answer in answers]) == (code, effects)
    assert [answer["line"] for answer in answers] == list(range(1, len(lines) + 1))


def test_a_person_reads_why(host: World) -> None:
    done = host.cli("authorize", "--socket", host.directory / "host-1.sock", *FORBIDDEN)
    assert done.returncode == 1
    assert done.stdout.startswith("deny  ")
    assert "no-codex (deny)" in done.stdout
    assert "bundle    org/acme version 1" in done.stdout

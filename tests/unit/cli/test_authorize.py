"""`akpolicy authorize`: questions from options and files, answers for people and programs, and the exit code."""

from __future__ import annotations

import io
import json
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from akpolicy.v1 import authorization_pb2 as pb
from tests.simulators.sidecar import DECISION_ID, ORG, SidecarSimulator

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Run

EXAMPLES = Path(str(resources.files("akpolicy").joinpath("examples", "requests.jsonl")))
ALICE = ["--principal", "alice", "--org", ORG, "--role", "developer"]
BOX = ["--resource", "box", "--attr", "agent_type=claude", "--attr", "runtime=python"]
ALLOWED = ["authorize", *ALICE, *BOX, "--action", "Exec", "--context", "command=pytest"]


def test_an_allowance_ends_with_0_and_explains_itself(cli: Run, sidecar: SidecarSimulator) -> None:
    result = cli(*ALLOWED)
    assert result.code == 0
    assert result.out.startswith(f"allow  allowed by `org/{ORG}/developer-basics`\n")
    for fact in (
        "permitted",
        f"org/{ORG} developer-basics (allow)",
        f"org/{ORG} version 3 (epoch 1, digest abababababab)",
        "cached_with_expiry, policies from live, 120 ms old",
        DECISION_ID,
    ):
        assert fact in result.out


def test_a_denial_ends_with_1(cli: Run, sidecar: SidecarSimulator) -> None:
    result = cli("authorize", *ALICE, "--action", "Run", *BOX)
    assert result.code == 1
    assert result.out.startswith("deny  denied: no policy permits it\n")
    assert result.err == ""


def test_json_has_the_whole_decision(cli: Run, sidecar: SidecarSimulator) -> None:
    answer = json.loads(cli(*ALLOWED, "--output", "json").out)
    assert answer == {
        "decision": "allow",
        "reason": "permitted",
        "message": f"allowed by `org/{ORG}/developer-basics`",
        "determining_policies": [{"scope": f"org/{ORG}", "policy_id": "developer-basics", "effect": "allow"}],
        "deciding_layer": f"org/{ORG}",
        "bundles": [{"scope": f"org/{ORG}", "epoch": 1, "version": 3, "digest": "ab" * 32}],
        "mode": "cached_with_expiry",
        "source": "live",
        "policy_age_ms": 120,
        "fresh": True,
        "stalest_layer": f"org/{ORG}",
        "decision_id": DECISION_ID,
        "evaluation_time_us": 210,
        "errors": [],
    }


def test_every_option_reaches_the_sidecar(cli: Run, sidecar: SidecarSimulator) -> None:
    result = cli(
        *("authorize", "--principal", "al ice", "--org", ORG, "--role", "admin", "--role", "viewer", "--team", "red"),
        *("--email", "a@b", "--mfa", "--action", "Mount", "--type", "Permission", "--resource", "p"),
        *("--attr", "max_memory_mb=512", "--attr", "network=true", "--attr", 'seccomp="1"'),
        *("--context", "host_path=/a=b", "--context", "read_only=false"),
    )
    assert result.code == 1
    text = pb.Value
    assert sidecar.asked == [
        pb.AuthorizeRequest(
            principal=pb.Principal(
                id="al ice", org_id=ORG, email="a@b", roles=["admin", "viewer"], teams=["red"], mfa_verified=True
            ),
            action="Mount",
            resource=pb.Resource(
                type="Permission",
                id="p",
                attributes={
                    "max_memory_mb": text(long_value=512),
                    "network": text(bool_value=True),
                    "seccomp": text(string_value="1"),
                },
            ),
            context={"host_path": text(string_value="/a=b"), "read_only": text(bool_value=False)},
        )
    ]


def test_the_example_requests_are_decided_as_they_expect(cli: Run, sidecar: SidecarSimulator) -> None:
    result = cli("authorize", "--request", EXAMPLES, "--output", "json")
    answers = [json.loads(line) for line in result.out.splitlines()]
    expected = [json.loads(line) for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    assert [answer["line"] for answer in answers] == list(range(1, len(expected) + 1))
    own = [n for n, e in enumerate(expected) if e["principal"]["org_id"] == ORG]
    assert len(own) > 8
    assert [answers[n]["decision"] for n in own] == [expected[n]["expect"] for n in own]
    assert [answers[n]["reason"] for n in range(len(answers)) if n not in own] == ["foreign_org"] * (
        len(answers) - len(own)
    )
    assert result.code == 1


def test_several_requests_end_with_0_only_if_all_are_allowed(
    cli: Run, sidecar: SidecarSimulator, tmp_path: Path
) -> None:
    allowed = EXAMPLES.read_text(encoding="utf-8").splitlines()[0]
    file = tmp_path / "requests.jsonl"
    file.write_text(f"{allowed}\n\n{allowed}\n" * 100)
    result = cli("authorize", "--request", file)
    assert result.code == 0
    assert result.out.count("allow  allowed by") == 200
    assert "line 300: allow" in result.out
    assert sidecar.calls == 2
    file.write_text(allowed + "\n" + allowed.replace('"python"', "7"))
    assert cli("authorize", "--request", file).code == 1


def test_requests_may_come_from_standard_input(
    cli: Run, sidecar: SidecarSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(EXAMPLES.read_bytes().splitlines()[0])))
    assert cli("authorize", "--request", "-").code == 0


def test_a_request_that_cannot_be_judged_is_shown_in_its_place_and_ends_with_1(
    cli: Run, sidecar: SidecarSimulator, tmp_path: Path
) -> None:
    good = json.loads(EXAMPLES.read_text(encoding="utf-8").splitlines()[0])
    file = tmp_path / "requests.jsonl"
    file.write_text("\n".join(json.dumps(request) for request in (good, {**good, "action": "Fly"}, good)))
    answers = [json.loads(line) for line in cli("authorize", "--request", file, "-o", "json").out.splitlines()]
    assert [answer.get("decision") for answer in answers] == ["allow", None, "allow"]
    assert answers[1]["error"]["code"] == "InvalidRequest"
    single = cli("authorize", *ALICE, *BOX, "--action", "Fly")
    assert single.code == 1
    assert single.out.startswith("error  InvalidRequest: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "2: payload is not JSON"),
        ("[]", "2: payload is not a JSON object"),
        ('{"action": "Run"}', "2: `principal`: is missing"),
        ('{"action": "Run", "action": "Exec"}', "2: payload names the field `action` twice"),
        ('{"what": 1}', "2: `what`: is unknown"),
    ],
)
def test_a_line_that_is_no_request_is_wrong_usage(
    cli: Run, sidecar: SidecarSimulator, tmp_path: Path, line: str, said: str
) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text("\n" + line)
    result = cli("authorize", "--request", file)
    assert result.code == 2
    assert f"{file}:{said}" in result.err
    assert sidecar.calls == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "missing `--principal`, `--org`, `--action`, `--resource`"),
        (ALICE, "missing `--action`, `--resource`"),
        (["--request", "x.jsonl", *ALICE], "either `--request` or `--principal`"),
        (["--request", "/nonexistent.jsonl"], "cannot read `/nonexistent.jsonl`"),
        ([*ALLOWED[1:], "--attr", "novalue"], "must be `NAME=VALUE`"),
        ([*ALLOWED[1:], "--attr", "image=a", "--attr", "image=b"], "given twice"),
        ([*ALLOWED[1:], "--attr", "vcpus=0.5"], "is no integer"),
        ([*ALLOWED[1:], "--attr", "image=null"], "is null"),
        ([*ALLOWED[1:], "--attr", "vcpus=99999999999999999999"], "64-bit"),
        ([*ALLOWED[1:], "--timeout", "0"], "--timeout"),
        ([*ALLOWED[1:], "--socket", "/tmp/" + "x" * 200], "at most 107 bytes"),
    ],
)
def test_questions_that_make_no_sense_are_wrong_usage(
    cli: Run, sidecar: SidecarSimulator, arguments: list[str], said: str
) -> None:
    result = cli("authorize", *arguments)
    assert result.code == 2
    assert said in result.err
    assert sidecar.calls == 0


def test_an_unreachable_sidecar_ends_with_1(cli: Run, sidecar: SidecarSimulator) -> None:
    sidecar.stop()
    result = cli(*ALLOWED)
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("error: no sidecar answers on ")
    assert "is it running?" in result.err


def test_an_answer_that_is_no_decision_ends_with_1(cli: Run, sidecar: SidecarSimulator) -> None:
    sidecar.answer = pb.AuthorizeResponse()
    result = cli(*ALLOWED)
    assert result.code == 1
    assert result.out.startswith("error  BadAnswer: ")


def test_no_question_at_all_is_no_allowance(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    result = cli("authorize", "--request", str(tmp_path / "empty.jsonl"))
    assert result.code == 2
    assert "there is no question" in result.err

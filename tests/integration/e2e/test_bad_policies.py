"""Policies that must not be published: the operator reads where and why, hosts go on as before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e.world import ORG, World, decided_by, permit

if TYPE_CHECKING:
    from collections.abc import Iterator

TORN = permit("whole") + '@id("torn")\npermit (principal, action, resource\n'
UNKNOWN_ATTRIBUTE = '@id("typo")\npermit (principal, action, resource)\nwhen { principal.rolez.contains("x") };\n'
WRONG_TYPE = '@id("typed")\npermit (principal, action, resource)\nwhen { principal.roles > 3 };\n'
BRACKETS = f'@id("deep")\npermit (principal, action, resource)\nwhen {{ {"(" * 40_000}true{")" * 40_000} }};\n'
TWO_MEGABYTES = f'@id("big")\npermit (principal, action, resource)\nwhen {{ "{"x" * 2_000_000}" == "" }};\n'
LATIN = permit("latin").encode() + b"// caf\xe9\n"


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """A host that enforces `first`, which no test here can change."""
    with World() as world:
        world.init()
        world.start_server()
        world.publish(permit("first"))
        world.start_sidecar()
        world.wait_decided_by("first")
        yield world


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TORN, r"bad\.cedar:4: PolicyParseError: policy `torn`: does not end with `;`"),
        (UNKNOWN_ATTRIBUTE, r"bad\.cedar:3: PolicyValidationError: policy `typo`: .*`rolez`.*did you mean `roles`"),
        (WRONG_TYPE, r"bad\.cedar:3: PolicyValidationError: policy `typed`: .*expected Long"),
        (BRACKETS, r"bad\.cedar:1: PolicyTooDeep: policy `deep`: .*64"),
        (TWO_MEGABYTES, r"bad\.cedar:1: PolicyTooLarge: policy `big`: .*16384"),
        (permit("one") * 2, r"bad\.cedar:3: PolicyIdDuplicate: policy `one`: .*line 1"),
        ("// nothing\n", r"bad\.cedar: EmptyPolicySet: "),
        (LATIN, r"bad\.cedar:3: PolicyNotUtf8: .*UTF-8"),
    ],
    ids=["torn", "unknown attribute", "wrong type", "brackets", "two megabytes", "duplicate", "empty", "latin"],
)
def test_bad_policies_are_refused_with_their_place_and_what_was_enforced_stays(
    host: World, text: str | bytes, problem: str
) -> None:
    (host.directory / "bad.cedar").write_bytes(text.encode() if isinstance(text, str) else text)
    done = host.cli("policy", "publish", "bad.cedar", "--org", ORG)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(rf"^  {problem}", done.stderr, re.MULTILINE), done.stderr
    assert re.search(r"^error: ", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr

    assert [revision.version for revision in host.history()] == [1]
    decision = host.ask()
    assert (decided_by(decision), decision.source.value) == ("first", "live")


@pytest.mark.parametrize(("text", "code"), [(BRACKETS, "PolicyTooDeep"), (TORN, "PolicyParseError")])
def test_the_same_mistakes_are_found_without_a_server(host: World, text: str, code: str) -> None:
    (host.directory / "bad.cedar").write_text(text, encoding="utf-8")
    done = host.cli("policy", "validate", "bad.cedar", env={"AKPOLICY_SERVER": "", "AKPOLICY_API_KEY": ""})
    assert done.returncode == 1
    assert f": {code}: " in done.stdout

"""`akpolicy eval`: one JSON decision a line, for any policies, schema and entities."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Run

POLICIES = """
permit (principal in Group::"staff", action, resource);
@id("broken") forbid (principal, action, resource) when { context.missing };
"""
ENTITIES = [{"uid": {"type": "User", "id": "al\nice"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]}]
REQUEST = {
    "description": "further keys do not matter",
    "principal": {"type": "User", "id": "al\nice"},
    "action": 'Action::"view"',
    "resource": {"type": "Photo", "id": 'a"b'},
    "decision": "Allow",
}


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    files = {
        "policies": POLICIES,
        "entities": json.dumps(ENTITIES),
        "requests": json.dumps(REQUEST) + "\n\n" + json.dumps({**REQUEST, "context": {"missing": False}}) + "\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [part for name in files for part in (f"--{name}", str(tmp_path / name))]


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_plain_cedar_skips_what_fails(cli: Run, options: list[str]) -> None:
    result = cli("eval", *options, "--no-strict")

    assert (result.code, result.err) == (0, "")
    first, second = lines(result.out)
    assert (first["decision"], first["reasons"], len(first["errors"])) == ("allow", ["policy0"], 1)
    assert first["errors"][0].startswith("broken: ")
    assert second == {"decision": "allow", "reasons": ["policy0"], "errors": []}


def test_a_failing_forbid_denies_and_is_named(cli: Run, options: list[str]) -> None:
    first, second = lines(cli("eval", *options).out)

    assert (first["decision"], first["reasons"], first["failed_forbid"]) == ("deny", [], "broken")
    assert second["decision"] == "allow"


def test_a_line_that_is_no_request_is_told_and_the_rest_goes_on(cli: Run, options: list[str], tmp_path: Path) -> None:
    good = json.dumps(REQUEST)
    deep = "[" * 100_000
    (tmp_path / "requests").write_text(f"{good}\nnot JSON\n[]\n{{}}\n{deep}\n{good}\n", encoding="utf-8")

    result = cli("eval", *options, "--no-strict")

    found = lines(result.out)
    assert result.code == 1
    assert [line.get("line") for line in found] == [None, 2, 3, 4, 5, None]
    assert all("error" in line for line in found[1:5])


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("policies", b"permit (", 1),
        ("policies", b"\xff", 2),
        ("policies", b"permit (principal == ?principal, action, resource);", 1),
        ("entities", b"[", 1),
        ("schema", b"entity", 1),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    cli: Run, options: list[str], tmp_path: Path, name: str, content: bytes, code: int
) -> None:
    (tmp_path / name).write_bytes(content)

    result = cli("eval", *options, *([f"--{name}", str(tmp_path / name)] if name == "schema" else []))

    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")


def test_a_missing_file_is_a_usage_error(cli: Run, options: list[str], tmp_path: Path) -> None:
    assert cli("eval", *options, "--schema", tmp_path / "none").code == 2

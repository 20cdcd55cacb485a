"""`akpolicy policy format`: what it prints, which file it writes, and what it leaves as it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.engine.layout import formatted
from akpolicy.limits import MAX_POLICY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Run

UGLY: Final = '@id("a") permit(principal,action,resource);\n'
PRETTY: Final = '@id("a")\npermit (principal, action, resource);\n'
PROGRAM: Final = "from akpolicy.cli import main; main()"


def policy(condition: str) -> str:
    return f"permit (principal, action, resource) when {{ {condition} }};\n"


def in_a_process(*arguments: object, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program by itself: Cedar may end the process that runs it."""
    command = [sys.executable, "-c", PROGRAM, "policy", "format", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env={**os.environ, **variables})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.cedar"
    path.write_text(UGLY, encoding="utf-8")
    return path


# --- text that Cedar does not survive, or would spoil -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        (" && ".join(["true"] * 20_000), "PolicyTooLarge"),
        ("1" + "&&1" * 1001, "PolicyTooDeep"),
        ("if 1 then " * 1001 + "1" + " else 1" * 1001, "PolicyTooLarge"),
        ("!" * 1001 + "true", "PolicyTooDeep"),
        ("(" * 300 + "true" + ")" * 300, "PolicyTooDeep"),
    ],
)
def test_deep_text_is_refused_before_cedar_sees_it(tmp_path: Path, condition: str, code: str) -> None:
    path = tmp_path / "deep.cedar"
    path.write_text(PRETTY + policy(condition), encoding="utf-8")

    done = in_a_process(path, "--write")

    assert done.returncode == 1, done.stderr
    assert f"deep.cedar:3: {code}:".encode() in done.stderr
    assert path.read_text(encoding="utf-8") == PRETTY + policy(condition)


def test_a_policy_that_would_be_too_large_to_publish_is_left_as_it_is(cli: Run, tmp_path: Path) -> None:
    text = '@id("deep")\n' + policy("if 1 then 1 else " * 400 + "1")
    path = tmp_path / "p.cedar"
    path.write_text(text, encoding="utf-8")
    assert len(text) < MAX_POLICY_BYTES

    result = cli("policy", "format", path, "--write")

    assert result.code == 1
    assert "p.cedar:1: PolicyTooLarge: policy `deep`: would have" in result.err
    assert path.read_text(encoding="utf-8") == text


def test_text_that_would_lose_a_comment_is_left_as_it_is(cli: Run, tmp_path: Path) -> None:
    text = PRETTY + '@id("b") permit (principal, action, resource,) // lost with the comma\nwhen { true };\n'
    path = tmp_path / "p.cedar"
    path.write_text(text, encoding="utf-8")

    result = cli("policy", "format", path, "--write")

    assert result.code == 1
    assert "p.cedar:3: PolicyParseError: policy `b`: Cedar's formatter would change" in result.err
    assert path.read_text(encoding="utf-8") == text


def test_what_does_not_parse_is_named_with_its_line(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.cedar"
    path.write_text(f"{PRETTY}\n{PRETTY}permit (principal, action resource);\n", encoding="utf-8")

    result = cli("policy", "format", path)

    assert (result.code, result.out) == (1, "")
    assert "p.cedar:6: PolicyParseError: " in result.err


def test_too_many_policies_are_refused(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.cedar"
    path.write_text("permit(principal,action,resource);" * 50_001, encoding="utf-8")

    result = cli("policy", "format", path)

    assert (result.code, "TooManyPolicies" in result.err) == (1, True)


@pytest.mark.parametrize("text", ["", " \n\t\n", "// nothing\n  // yet\n"])
def test_a_file_without_policies_stays(cli: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.cedar"
    path.write_text(text, encoding="utf-8")

    assert cli("policy", "format", path).code == 0
    cli("policy", "format", path, "--write")
    assert path.read_text(encoding="utf-8").split() == text.split()
    assert cli("policy", "format", path, "--check").code == 0


def test_many_policies_come_out_as_one_after_the_other_would(cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.cedar"
    path.write_text("// of all\n" + f"// before\n{UGLY.rstrip()} // beside\n" * 600 + "// end", encoding="utf-8")
    one = f"// before\n{PRETTY.rstrip()} // beside"

    result = cli("policy", "format", path)

    assert result.out == "// of all\n" + "\n\n".join([one] * 600) + "\n// end\n"


def test_text_that_settles_only_after_some_rounds_is_written_settled(cli: Run, tmp_path: Path) -> None:
    text = policy('("a"\n// beside\n&& [])')
    path = tmp_path / "p.cedar"
    path.write_text(text, encoding="utf-8")
    once = formatted(text, "p", line_width=100, indent=2)
    assert formatted(once, "p", line_width=100, indent=2) != once

    assert cli("policy", "format", path, "--write").code == 0
    assert cli("policy", "format", path, "--check").code == 0


# --- what goes in and out ---------------------------------------------------------------------------------------------


def test_what_is_not_utf8_is_refused(cli: Run, file: Path) -> None:
    file.write_bytes(b"// \xff\n" + UGLY.encode())

    result = cli("policy", "format", file, "--write")

    assert (result.code, "is not UTF-8" in result.err) == (2, True)
    assert file.read_bytes() == b"// \xff\n" + UGLY.encode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_policies_are_printed_as_utf8_whatever_the_terminal_has(file: Path, encoding: str) -> None:
    text = "// \u5317\u4eac\n" + PRETTY
    file.write_text(text, encoding="utf-8")

    done = in_a_process(file, PYTHONIOENCODING=encoding)

    assert (done.returncode, done.stdout, done.stderr) == (0, text.encode(), b"")


def test_a_reader_that_has_gone_ends_it_quietly(file: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", PROGRAM, "policy", "format", str(file)]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)

    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(("closed", "name"), [(0, "standard input"), (1, "standard output")])
def test_a_closed_descriptor_is_no_crash(file: Path, closed: int, name: str) -> None:
    program = [sys.executable, "-c", PROGRAM, "policy", "format", "-" if closed == 0 else str(file)]
    closing = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    command = [sys.executable, "-c", closing, str(closed), *program]

    done = subprocess.run(command, capture_output=True, check=False)

    assert (done.returncode, f"error: {name} is closed".encode() in done.stderr) == (2, True), done.stderr


def test_nothing_is_printed_or_written_unless_all_can_be(cli: Run, file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "z.cedar"
    bad.write_text("permit (", encoding="utf-8")

    assert (cli("policy", "format", file, bad).out, cli("policy", "format", file, bad, "--write").code) == ("", 1)
    assert file.read_text(encoding="utf-8") == UGLY


# --- which file is written --------------------------------------------------------------------------------------------


def test_a_file_keeps_its_mode_and_nothing_is_left_beside_it(cli: Run, file: Path) -> None:
    file.chmod(0o640)

    assert cli("policy", "format", file, "--write").code == 0

    assert file.read_text(encoding="utf-8") == PRETTY
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["p.cedar"]


def test_who_has_the_old_file_open_sees_all_of_it(cli: Run, file: Path) -> None:
    with file.open("rb") as opened:
        cli("policy", "format", file, "--write")

        assert opened.read() == UGLY.encode()


def test_a_name_that_is_no_text_names_that_file_and_no_other(cli: Run, tmp_path: Path) -> None:
    directory = tmp_path / "policies"
    directory.mkdir()
    odd = os.fsencode(directory) + b"/\xff.cedar"
    with open(odd, "wb") as opened:  # noqa: PTH123 - a path of bytes
        opened.write(UGLY.encode())
    alike = directory / "\ufffd.cedar"
    alike.write_text(PRETTY + "// another\n", encoding="utf-8")

    result = cli("policy", "format", directory, "--write")

    assert (result.code, result.err.count("changed")) == (0, 1)
    with open(odd, "rb") as opened:  # noqa: PTH123 - a path of bytes
        assert opened.read() == PRETTY.encode()
    assert alike.read_text(encoding="utf-8") == PRETTY + "// another\n"


def test_a_symbolic_link_is_neither_followed_nor_replaced(cli: Run, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.cedar"
    link.symlink_to(file)

    result = cli("policy", "format", link, "--write")

    assert (result.code, "is a symbolic link" in result.err) == (2, True)
    assert link.is_symlink()
    assert file.read_text(encoding="utf-8") == UGLY
    assert cli("policy", "format", link).out == PRETTY


def test_a_file_with_two_names_is_not_torn_apart(cli: Run, file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "other")

    result = cli("policy", "format", file, "--write")

    assert (result.code, "hard links" in result.err) == (2, True)
    assert (file.read_text(encoding="utf-8"), file.stat().st_nlink) == (UGLY, 2)


def test_what_is_no_regular_file_is_refused_at_once(cli: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    result = cli("policy", "format", tmp_path / "fifo", "--write")

    assert (result.code, "not a regular file" in result.err) == (2, True)


def test_one_file_by_two_names_is_refused(cli: Run, file: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()

    result = cli("policy", "format", file, tmp_path / "d" / ".." / "p.cedar", "--write")

    assert (result.code, "twice" in result.err) == (2, True)
    assert file.read_text(encoding="utf-8") == UGLY


def test_an_empty_name_is_not_everything_here(cli: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)

    result = cli("policy", "format", "", "--write")

    assert (result.code, "is empty" in result.err) == (2, True)
    assert file.read_text(encoding="utf-8") == UGLY


def test_standard_input_cannot_be_written(cli: Run) -> None:
    assert cli("policy", "format", "-", "--write").code == 2

"""The command line as a whole: help, version, exit codes, and what it never shows."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from akpolicy import __version__
from akpolicy.cli.output import counted, print_json, printable, table, uploading, working
from tests.unit.cli.conftest import Terminal

if TYPE_CHECKING:
    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import Run

COMMANDS = [
    ["keys", "generate"],
    ["keys", "show"],
    ["org", "create"],
    ["org", "freeze"],
    ["org", "unfreeze"],
    ["root", "init"],
    ["root", "propose"],
    ["root", "sign"],
    ["root", "publish"],
    ["root", "show"],
    ["root", "rotate"],
    ["root", "revoke"],
    ["apikey", "create"],
    ["apikey", "revoke"],
    ["policy", "validate"],
    ["policy", "publish"],
    ["policy", "sign"],
    ["policy", "rollback"],
    ["policy", "history"],
    ["policy", "show"],
    ["authorize"],
    ["inspect"],
]


def test_the_version_is_the_packages(cli: Run) -> None:
    result = cli("--version")
    assert (result.code, result.out) == (0, f"akpolicy {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_examples(cli: Run, command: list[str]) -> None:
    result = cli(*command, "--help")
    assert result.code == 0
    assert f"\n  Examples:\n    akpolicy {' '.join(command)}" in result.out


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["policy", "bogus"], ["keys", "show"], ["--bogus"], ["authorize", "--output", "xml"]]
)
def test_wrong_usage_ends_with_2(cli: Run, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert "Error: " in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["policy", "publish", "good.cedar", "--org", "acme", "--message", "a\udcff"],
        ["apikey", "revoke", "\udcff"],
        ["org", "freeze", "\udc80"],
        ["root", "show", "--org", "acme\udcfe"],
    ],
)
def test_an_argument_that_is_no_text_is_said_before_anything_is_sent(
    cli: Run, server: PublishingSimulator, arguments: list[str]
) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert result.err.startswith("error: the argument `")
    assert result.err.endswith("` is not UTF-8; write it as UTF-8, or rename the file\n")
    assert server.frozen == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["policy", "publish", "x.cedar", "--org", "acme", "--expected-version"],
        ["policy", "rollback", "--org", "acme", "--to"],
        ["policy", "rollback", "--org", "acme", "--expected-version"],
        ["policy", "show", "--org", "acme", "--version"],
        ["root", "init", "--org", "acme", "--root-key", "ed25519:A", "--out", "x", "--threshold"],
    ],
    ids=lambda arguments: f"{arguments[1]} {arguments[-1]}",
)
def test_a_number_that_nothing_can_have_ends_with_2(
    cli: Run, server: PublishingSimulator, arguments: list[str]
) -> None:
    result = cli(*arguments, 2**64)
    assert result.code == 2
    assert f"Invalid value for '{arguments[-1]}': Input should be less than or equal to" in result.err


def test_the_installed_program_ends_with_the_exit_code_and_without_a_traceback() -> None:
    command = [sys.executable, "-c", "from akpolicy.cli import main; main()", "keys", "show", "/nonexistent/key.pem"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: cannot use the key `/nonexistent/key.pem`")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["policy", "publish"], ["root", "propose"], ["inspect"]], ids=" ".join)
def test_help_needs_neither_grpc_nor_cedar(command: list[str]) -> None:
    code = (
        f"import sys; from akpolicy.cli import run; code = run([*{command}, '--help']); "
        "sys.exit(code or any(name in sys.modules for name in ('grpc', 'cedarpy', 'cryptography')))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\u202etfel", "\\x202etfel"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_a_terminal_gets_no_control_characters_of_others(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_json_has_control_characters_as_escapes_and_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"message": "\x9b31m\u202etfel\x7f\n\u00fc"}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert printable(text) == text
    assert "\u00fc" in text


def test_progress_is_shown_to_a_person_and_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with working("checking"):
            pass
        with uploading("publishing org/acme", 100) as progress:
            progress(100)
        assert ("checking" in stream.getvalue()) == shown
        assert ("publishing org/acme" in stream.getvalue()) == shown


def test_a_table_aligns_its_columns() -> None:
    assert table(("A", "B"), [("longer", "x"), ("s", "")]) == "A       B\nlonger  x\ns"


@pytest.mark.parametrize(
    ("number", "noun", "text"), [(1, "policy", "1 policy"), (2, "policy", "2 policies"), (0, "file", "0 files")]
)
def test_counts_read_well(number: int, noun: str, text: str) -> None:
    assert counted([0] * number, noun) == text

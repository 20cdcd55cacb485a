"""The command line as a whole: help, version, exit codes, and what it never shows."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from akpolicy import __version__
from akpolicy.cli.output import counted, printable, table, uploading, working

if TYPE_CHECKING:
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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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

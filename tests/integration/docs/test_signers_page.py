"""docs/operations/signers.md: its commands, typed as they stand there and in that order.

Replaced is only where SoftHSM's library lies, which is not the same on every system.
"""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

import pytest

from akpolicy.signing.registry import BUILT_IN_SCHEMES
from tests.integration.docs.pages import blocks, column, read, section
from tests.integration.e2e import programs
from tests.simulators.tokens import library

if TYPE_CHECKING:
    from pathlib import Path

PAGE = read("docs/operations/signers.md")
FILES = section(PAGE, "## Key files")
VARIABLES = section(PAGE, "## Variables")
TOKENS = section(PAGE, "## Tokens and HSMs")


def type_in(directory: Path, *sections: str) -> str:
    """Type the commands of whole sections into one shell and return what they print; each must succeed."""
    script = "".join(block.text for text in sections for block in blocks(text, "console"))
    done = programs.run(["sh", "-eu"], text=script, cwd=directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def anchors(printed: str) -> list[str]:
    return re.findall(r"^anchor  (ed25519:\S+)$", printed, re.MULTILINE)


def test_every_command_of_the_page_is_in_a_section_that_is_typed_here() -> None:
    typed = [block for text in (FILES, VARIABLES, TOKENS) for block in blocks(text, "console")]
    assert blocks(PAGE, "console") == typed
    assert typed


@pytest.mark.needs_program("openssl")
def test_the_commands_for_files_and_variables_print_the_anchors_of_two_keys(tmp_path: Path) -> None:
    made, shown, protected, by_file, by_variable, from_variable = anchors(type_in(tmp_path, FILES, VARIABLES))
    assert made == shown == from_variable
    assert protected == by_file == by_variable
    assert made != protected
    for name in ("root.pem", "protected.pem", "root.pass"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert b"ENCRYPTED" in (tmp_path / "protected.pem").read_bytes()


@pytest.mark.needs_program("softhsm2-util")
@pytest.mark.needs_program("openssl")
def test_the_commands_for_tokens_make_a_key_that_is_opened_again(tmp_path: Path) -> None:
    [path] = set(re.findall(r"PKCS11_MODULE=(\S+)$", TOKENS, re.MULTILINE))
    made, shown = anchors(type_in(tmp_path, TOKENS.replace(path, str(library()))))
    assert made == shown


def test_the_page_has_every_scheme() -> None:
    named = [re.sub(r"^`([a-z0-9]+):.*", r"\1", cell) for cell in column(PAGE, "URI")]
    assert sorted(named[:-1]) == sorted(BUILT_IN_SCHEMES)


def test_the_page_has_every_part_of_a_token_uri() -> None:
    parts = {name for cell in column(PAGE, "Part") for name in re.findall(r"([a-z-]+)=", cell)}
    assert parts == {"token", "serial", "object", "id", "module-path", "pin-source"}

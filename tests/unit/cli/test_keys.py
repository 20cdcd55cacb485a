"""`akpolicy keys`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from akpolicy.keys import parse_anchor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Run


def test_a_generated_key_is_private_and_shown_by_its_anchor(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    made = json.loads(cli("keys", "generate", "--out", file, "--output", "json").out)
    assert file.stat().st_mode & 0o777 == 0o600
    assert parse_anchor(made["anchor"]).key_id == made["key_id"]
    assert json.loads(cli("keys", "show", file, "--output", "json").out) == made
    assert cli("keys", "show", file).out == f"anchor  {made['anchor']}\nkey id  {made['key_id']}\n"


def test_a_key_is_never_overwritten(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    cli("keys", "generate", "--out", file)
    before = file.read_bytes()
    result = cli("keys", "generate", "--out", file)
    assert result.code == 1
    assert "never overwritten" in result.err
    assert file.read_bytes() == before


def test_a_key_that_others_can_read_is_refused(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    cli("keys", "generate", "--out", file)
    file.chmod(0o644)
    result = cli("keys", "show", file)
    assert result.code == 1
    assert "chmod 600" in result.err

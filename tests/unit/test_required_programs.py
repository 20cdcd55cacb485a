"""The suite's own rule: a missing program skips by name, and fails where everything is required."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

CONFTEST = """
from tests.conftest import pytest_runtest_setup

def pytest_configure(config):
    config.addinivalue_line("markers", "needs_program(name): needs a program")
"""
TEST = """
import pytest

@pytest.mark.needs_program("no-such-program")
def test_that_needs_a_program():
    pass
"""


@pytest.mark.parametrize(("require_all", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_a_missing_program_skips_unless_everything_is_required(
    tmp_path: Path, pytestconfig: pytest.Config, require_all: str, outcome: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        env=os.environ | {"AKPOLICY_TEST_REQUIRE_ALL": require_all, "PYTHONPATH": str(pytestconfig.rootpath)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert outcome in result.stdout
    assert "`no-such-program`, which is not on PATH" in result.stdout

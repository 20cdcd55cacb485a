"""What every test shares.

- A test that needs a program which is no Python package says so: `@pytest.mark.needs_program("promtool")`. Without the
  program it is skipped, and the reason names it; with `AKPOLICY_TEST_REQUIRE_ALL=1` it fails instead, so that CI cannot
  pass by skipping.
- Hypothesis draws the same examples on every CI run (profile `ci`); a developer's runs explore.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.postgresql import PostgreSQL

REQUIRE_ALL = "AKPOLICY_TEST_REQUIRE_ALL"

# No deadlines: the machine is shared, and a slow example is no wrong one.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") or os.environ.get(REQUIRE_ALL) == "1" else "dev")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """Return a PostgreSQL that runs for all tests of this process; each makes databases of its own."""
    from tests.simulators.postgresql import PostgreSQL  # noqa: PLC0415 - most tests need none

    with PostgreSQL() as running:
        yield running


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose program is missing."""
    for marker in item.iter_markers("needs_program"):
        for name in marker.args:
            _require_program(str(name))


def _require_program(name: str) -> None:
    if shutil.which(name) is not None:
        return
    reason = f"needs the program `{name}`, which is not on PATH"
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(f"{reason} ({REQUIRE_ALL}=1)", pytrace=False)
    pytest.skip(reason)

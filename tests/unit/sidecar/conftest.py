"""A whole sidecar without network and sockets, before and after its first connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy_sidecar.cache import StateDirectory
from tests.simulators.host import HostSimulator
from tests.unit.sidecar.state_files import FORBID, PERMIT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def new_host(tmp_path: Path) -> Iterator[HostSimulator]:
    """A host that has heard nothing yet."""
    made = HostSimulator(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def host(new_host: HostSimulator) -> HostSimulator:
    """A host that trusts the org's root and has heard a heartbeat about nothing."""
    return new_host.connect()


@pytest.fixture
def enforcing(host: HostSimulator) -> HostSimulator:
    """A host that enforces both its scopes, the second version of `global`."""
    return host.update(PERMIT).update(FORBID).update(PERMIT, scope="org/acme")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def directory(place: Path) -> Iterator[StateDirectory]:
    opened = StateDirectory.open(place, "acme")
    yield opened
    opened.close()

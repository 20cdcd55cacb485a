"""A real sidecar process beside a policy server that can misbehave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.clock import SystemClock
from tests.integration.sidecar.process import EXIT_DEADLINE_S, Sidecar
from tests.simulators.org import OrgSimulator
from tests.simulators.policy_server import PolicyServerSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def org() -> OrgSimulator:
    return OrgSimulator(clock=SystemClock())


@pytest.fixture
def server(org: OrgSimulator) -> Iterator[PolicyServerSimulator]:
    with PolicyServerSimulator(org, keep_alive_s=0.2) as running:
        yield running


@pytest.fixture
def sidecar(tmp_path: Path, org: OrgSimulator, server: PolicyServerSimulator) -> Iterator[Sidecar]:
    made = Sidecar(tmp_path, server.url, org.anchor)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(EXIT_DEADLINE_S)

"""What the end-to-end tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e.world import World, permit

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[World]:
    """Nothing runs yet."""
    with World() as made:
        yield made


@pytest.fixture
def enforcing(world: World) -> World:
    """A server and a sidecar that enforces version 1, whose policy is `first`."""
    world.init()
    world.start_server()
    world.publish(permit("first"))
    world.start_sidecar()
    world.wait_decided_by("first")
    return world

"""The roots on a host's disk, and a disk that is full."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.host import HostSimulator


def roots_on_disk(host: HostSimulator) -> list[str]:
    return sorted(path.name for path in (host.place / "roots").iterdir())


@contextmanager
def full_disk(host: HostSimulator, name: str = "roots") -> Iterator[None]:
    """Let nothing be written to a directory."""
    (host.place / name).rename(host.place / "gone")
    yield
    (host.place / "gone").rename(host.place / name)

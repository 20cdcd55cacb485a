"""The roots on a host's disk, and a disk that is full."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.simulators.messages import check_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import AkpolicyError
    from tests.simulators.host import HostSimulator


def roots_on_disk(host: HostSimulator) -> list[str]:
    return sorted(path.name for path in (host.place / "roots").iterdir())


@contextmanager
def full_disk(host: HostSimulator, name: str = "roots") -> Iterator[None]:
    """Let nothing be written to a directory."""
    (host.place / name).rename(host.place / "gone")
    yield
    (host.place / "gone").rename(host.place / name)


def refused(host: HostSimulator, error: type[AkpolicyError], envelope: SignedEnvelope) -> None:
    """Assert that a root is refused with this error, and that nothing is as if it had come."""
    before = host.facts()
    with pytest.raises(error) as caught:
        host.updater.apply_root(envelope)
    assert type(caught.value) is error
    check_text(caught.value.message)
    assert host.facts() == before

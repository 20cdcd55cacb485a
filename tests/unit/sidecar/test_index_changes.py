"""An index that comes as what is different from one that the host has."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.v1 import distribution_pb2 as pb
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


@pytest.fixture
def enforcing(host: HostSimulator) -> HostSimulator:
    """A host that enforces both its scopes."""
    return host.update(PERMIT).update(FORBID, scope="org/acme")


def test_an_index_can_come_as_what_is_different(enforcing: HostSimulator) -> None:
    base = enforcing.office.heartbeat().heartbeat.index
    enforcing.office.publish(FORBID)
    enforcing.office.publish(FORBID, scope="org/acme/team/new")
    del enforcing.office.current["org/acme"]
    message = enforcing.office.heartbeat(changes_from=base)

    enforcing.clock.advance(1)
    enforcing.hear(message)

    assert enforcing.nacks == []
    assert enforcing.updater.lacking == ("global", "org/acme/team/new")
    assert (
        enforcing.updater.holdings.index_digest
        == hashlib.sha256(enforcing.office.heartbeat().heartbeat.index).hexdigest()
    )


SPOILT_CHANGES: list[Callable[[pb.IndexChanges], None]] = [
    lambda changes: setattr(changes, "base", b"x" * 32),
    lambda changes: setattr(changes, "base", b""),
    lambda changes: setattr(changes, "lines", b""),
    lambda changes: setattr(changes, "lines", changes.lines.replace(b" 1 2 ", b" 1 3 ")),
    lambda changes: setattr(changes, "lines", changes.lines * 2),
    lambda changes: setattr(changes, "lines", changes.lines[:-1]),
    lambda changes: setattr(changes, "lines", b"\xff\n"),
    lambda changes: changes.gone.append("org/acme"),
]


@pytest.mark.parametrize("spoil", SPOILT_CHANGES)
def test_changes_that_do_not_make_the_named_index_are_refused_and_no_evidence(
    enforcing: HostSimulator, spoil: Callable[[pb.IndexChanges], None]
) -> None:
    base = enforcing.office.heartbeat().heartbeat.index
    enforcing.clock.advance(1)
    enforcing.office.publish(FORBID)
    message = enforcing.office.heartbeat(changes_from=base)
    before = enforcing.updater.holdings.index_digest
    spoil(message.heartbeat.index_changes)

    enforcing.hear(message)

    assert enforcing.updater.holdings.index_digest == before
    assert len(enforcing.nacks) == 1
    assert enforcing.updater.evidence_count == 0
    enforcing.hear(enforcing.office.heartbeat())
    assert enforcing.updater.lacking == ("global",)


def test_names_that_are_none_among_changes_change_nothing(enforcing: HostSimulator) -> None:
    base = enforcing.office.heartbeat().heartbeat.index
    enforcing.clock.advance(1)
    enforcing.office.publish(FORBID)
    message = enforcing.office.heartbeat(changes_from=base)
    message.heartbeat.index_changes.gone.extend(["\u00e9", "", "org/acme/team/none"])

    enforcing.hear(message)

    assert enforcing.nacks == []

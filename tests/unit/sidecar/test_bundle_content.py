"""Where the content of a bundle comes from, and what becomes of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    AkpolicyError,
    CacheWriteFailed,
    StreamProtocolError,
)
from akpolicy_sidecar.updates import Outcome
from tests.simulators.tampering import flip_bit, with_payload

if TYPE_CHECKING:
    from akpolicy.bundle import ContentReference
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


def unused(_: ContentReference) -> bytes:
    pytest.fail("the content was asked for")


def test_what_the_content_source_raises_comes_through_and_changes_nothing(host: HostSimulator) -> None:
    host.update(PERMIT)
    before = host.facts()

    def broken(_: ContentReference) -> bytes:
        msg = "the stream ended"
        raise StreamProtocolError(msg)

    with pytest.raises(StreamProtocolError):
        host.updater.apply_bundle(host.office.publish(FORBID).envelope, broken)

    assert host.facts() == before


def test_content_of_a_refused_manifest_is_not_asked_for(host: HostSimulator) -> None:
    held = host.office.publish(PERMIT)
    forged = with_payload(held.envelope, flip_bit(held.envelope.payload, 100))

    with pytest.raises(AkpolicyError):
        host.updater.apply_bundle(forged, unused)


def test_a_bundle_that_cannot_be_written_is_not_enforced(host: HostSimulator) -> None:
    host.update(PERMIT)
    before = host.facts()
    held = host.office.publish(FORBID)
    (host.place / "envelopes").rename(host.place / "gone")

    with pytest.raises(CacheWriteFailed):
        host.take(held)

    (host.place / "gone").rename(host.place / "envelopes")
    assert host.facts() == before
    assert host.take(held) is Outcome.APPLIED


def test_only_content_that_is_enforced_is_said_to_be_held(host: HostSimulator) -> None:
    host.update(PERMIT)
    held = host.office.publish(FORBID)
    host.take(held)

    assert held.blob is not None
    assert host.updater.holdings.blobs == (hashlib.sha256(held.blob).hexdigest(),)

"""The heartbeat as a document: its fields and their bounds, and what it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.envelope import PayloadType
from akpolicy.errors import AkpolicyError, DuplicateField, FieldInvalid, MissingField, UnknownField
from akpolicy.heartbeat import Heartbeat, IndexReference, RootReference
from akpolicy.limits import MAX_INDEX_BYTES, MAX_JSON_INT, MAX_PAE_BYTES
from akpolicy.strict_json import dump, load
from tests.simulators.org import ABSENT, OrgSimulator, index_of, overridden

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
COUNTERS = st.integers(1, MAX_JSON_INT)


@st.composite
def heartbeats(draw: st.DrawFn) -> Heartbeat:
    issued_at = draw(st.integers(0, MAX_JSON_INT - 1))
    return Heartbeat(
        type="heartbeat",
        spec=1,
        org=draw(st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", fullmatch=True)),
        seq=draw(COUNTERS),
        issued_at=issued_at,
        expires_at=draw(st.integers(issued_at + 1, MAX_JSON_INT)),
        root=RootReference(version=draw(COUNTERS), digest=draw(DIGESTS)),
        index=IndexReference(digest=draw(DIGESTS), size=draw(st.integers(0, MAX_INDEX_BYTES))),
        nonce=draw(st.none() | st.from_regex(r"[0-9a-f]{32}", fullmatch=True)),
    )


def document(**overrides: Any) -> dict[str, Any]:
    """Return a right heartbeat with changes."""
    org = OrgSimulator()
    return overridden(org.heartbeat_document(org.root_envelope(), index_of([])), overrides)


def refused(changed: Mapping[str, Any], error: type[AkpolicyError]) -> str:
    with pytest.raises(error) as caught:
        load(dump(changed), Heartbeat)
    assert type(caught.value) is error
    return caught.value.message


@given(heartbeats())
def test_what_is_written_is_read_again(heartbeat: Heartbeat) -> None:
    assert load(heartbeat.to_bytes(), Heartbeat) == heartbeat


@given(heartbeats())
def test_it_is_small_enough_for_every_signer(heartbeat: Heartbeat) -> None:
    assert len(f"DSSEv1 {PayloadType.HEARTBEAT}") + len(heartbeat.to_bytes()) < MAX_PAE_BYTES / 2


def test_it_names_root_and_index_by_digest() -> None:
    org = OrgSimulator()
    root, (bundle, _) = org.root_envelope(version=4), org.bundle_envelope()

    envelope, index = org.heartbeat_envelope(root, [bundle])

    heartbeat = load(envelope.payload, Heartbeat)
    assert heartbeat.root == RootReference(version=4, digest=root.digest().hex())
    assert heartbeat.index == IndexReference(digest=index_of([bundle]).digest, size=len(index))
    assert heartbeat.nonce is None


@pytest.mark.parametrize("field", ["type", "spec", "org", "seq", "issued_at", "expires_at", "root", "index"])
def test_every_field_but_the_nonce_must_be_there(field: str) -> None:
    assert f"`{field}`" in refused(document(**{field: ABSENT}), MissingField)


@pytest.mark.parametrize("where", ["root", "index"])
def test_no_field_may_be_added(where: str) -> None:
    refused(document(comment="hello"), UnknownField)
    refused(document(**{where: {**document()[where], "comment": "hello"}}), UnknownField)


def test_no_field_may_stand_twice() -> None:
    with pytest.raises(DuplicateField):
        load(dump(document())[:-1] + b',"seq":9}', Heartbeat)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "bundle"),
        ("type", "Heartbeat"),
        ("spec", 2),
        ("spec", 0),
        ("spec", True),
        ("spec", "1"),
        ("org", ""),
        ("org", "-acme"),
        ("org", "a" * 64),
        ("org", "acme/team"),
        ("seq", 0),
        ("seq", -1),
        ("seq", "1"),
        ("seq", True),
        ("seq", None),
        ("issued_at", -1),
        ("issued_at", "2027-01-15"),
        ("expires_at", None),
        ("nonce", ""),
        ("nonce", "a" * 31),
        ("nonce", "a" * 33),
        ("nonce", "A" * 32),
        ("nonce", 7),
        ("root", None),
        ("root", {"version": 0, "digest": "0" * 64}),
        ("root", {"version": 1, "digest": "0" * 63}),
        ("root", {"version": 1, "digest": "F" * 64}),
        ("index", []),
        ("index", {"digest": "0" * 64, "size": -1}),
        ("index", {"digest": "0" * 64, "size": MAX_INDEX_BYTES + 1}),
        ("index", {"digest": "0x" + "0" * 62, "size": 1}),
    ],
)
def test_a_value_out_of_bounds_is_refused(field: str, value: object) -> None:
    assert f"`{field}" in refused(document(**{field: value}), FieldInvalid)


@pytest.mark.parametrize("field", ["seq", "issued_at", "expires_at"])
def test_numbers_stay_below_the_greatest_that_json_has(field: str) -> None:
    refused(document(**{field: MAX_JSON_INT + 1}), FieldInvalid)


@pytest.mark.parametrize("life", [0, -1, -300])
def test_it_expires_after_it_was_issued(life: int) -> None:
    right = document()

    message = refused({**right, "expires_at": right["issued_at"] + life}, FieldInvalid)

    assert "expires_at is not after issued_at" in message
    assert load(dump({**right, "expires_at": right["issued_at"] + 1}), Heartbeat).expires_at == right["issued_at"] + 1


def test_an_index_may_be_empty_and_as_long_as_allowed() -> None:
    for size in (0, MAX_INDEX_BYTES):
        index = {"digest": "0" * 64, "size": size}
        assert load(dump(document(index=index)), Heartbeat).index.size == size

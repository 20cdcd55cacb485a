"""`state.json`: what is written is read again, and nothing else is."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.clock import Moment
from akpolicy.errors import CacheCorrupt
from akpolicy.limits import MAX_JSON_INT
from akpolicy.strict_json import MAX_OBJECT_FIELDS, dump
from akpolicy.trust import HeartbeatMark, Mark
from akpolicy.trusted_time import TimeProof
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED, Confirmation, Freshness
from akpolicy_sidecar.state import (
    ConfirmationState,
    FreshnessState,
    HeartbeatState,
    RootState,
    ScopeState,
    State,
    TimeState,
    decode_state,
    encode_state,
)
from akpolicy_sidecar.updater import _schema_first

if TYPE_CHECKING:
    from collections.abc import Callable

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
COUNTERS = st.integers(1, MAX_JSON_INT)
SECONDS = st.integers(0, MAX_JSON_INT)
SCOPES = st.sampled_from(["global", "org/acme", "org/acme/team/a%20b", "org/acme/user/u"])
ROOTS = st.builds(RootState, first=COUNTERS, version=COUNTERS, digest=DIGESTS, anchors=DIGESTS)
SCOPE_STATES = st.builds(
    ScopeState,
    epoch=COUNTERS,
    version=COUNTERS,
    digest=DIGESTS,
    min_version=COUNTERS,
    previous_digest=st.none() | DIGESTS,
    envelope=DIGESTS,
    original=st.none() | DIGESTS,
    blob=st.none() | DIGESTS,
    engine=st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
)
HEARTBEATS = st.builds(
    HeartbeatState,
    epoch=COUNTERS,
    seq=COUNTERS,
    issued_at=SECONDS,
    index_digest=DIGESTS,
    keys=st.lists(DIGESTS, max_size=3),
)
TIMES = st.builds(TimeState, signed_ms=SECONDS, elapsed_ms=SECONDS, boot_id=st.text("abc-1", max_size=64))
CONFIRMATIONS = st.builds(ConfirmationState, issued_at=SECONDS, expires_at=SECONDS)
FRESHNESS = st.builds(
    FreshnessState, by_scope=st.dictionaries(SCOPES, CONFIRMATIONS, max_size=3), whole=st.none() | CONFIRMATIONS
)
STATES = st.builds(
    State,
    format=st.just(2),
    org=st.sampled_from(["acme", "o", "A-1"]),
    root=st.none() | ROOTS,
    scopes=st.dictionaries(SCOPES, SCOPE_STATES, max_size=3),
    heartbeat=st.none() | HEARTBEATS,
    time=st.none() | TIMES,
    freshness=FRESHNESS,
)


def sealed(body: bytes) -> bytes:
    """Return any bytes as the file would have them, with a digest that fits."""
    return b'{"sha256":"%b","state":' % hashlib.sha256(body).hexdigest().encode() + body + b"}"


@given(STATES)
def test_what_is_written_is_read_again(state: State) -> None:
    assert decode_state(encode_state(state)) == state


@given(STATES)
def test_the_file_is_one_json_object_that_people_can_read(state: State) -> None:
    content = json.loads(encode_state(state))

    assert content.keys() == {"sha256", "state"}
    assert content["state"]["org"] == state.org


@given(STATES, st.data())
def test_any_byte_that_is_changed_is_noticed(state: State, data: st.DataObject) -> None:
    written = encode_state(state)
    place = data.draw(st.integers(0, len(written) - 1))
    edited = bytearray(written)
    edited[place] ^= data.draw(st.integers(1, 255))

    with pytest.raises(CacheCorrupt):
        decode_state(bytes(edited))


@given(STATES, st.data())
def test_bytes_that_are_added_or_cut_off_anywhere_are_noticed(state: State, data: st.DataObject) -> None:
    written = encode_state(state)
    place = data.draw(st.integers(0, len(written)))
    end = data.draw(st.integers(place, len(written)))
    added = data.draw(st.binary(max_size=4))
    edited = written[:place] + added + written[end:]

    if edited != written:
        with pytest.raises(CacheCorrupt):
            decode_state(edited)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for written in (data, sealed(data)):
        with pytest.raises(CacheCorrupt):
            decode_state(written)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format":1,"org":"acme"}',
        b'{"format":3,"org":"acme"}',
        b'{"format":2,"org":"acme","org":"acme"}',
        b'{"format":2,"org":"acme","more":1}',
        b'{"format":2,"org":"-"}',
        b'{"format":2,"org":"acme","scopes":{"everything":{}}}',
        b'{"format":2,"org":"acme","root":{"first":0,"version":1,"digest":"' + b"0" * 64 + b'"}}',
        b'{"format":2,"org":"acme","time":{"signed_ms":-1,"elapsed_ms":0,"boot_id":""}}',
        b"\xff" * 40,
    ],
)
def test_a_digest_that_fits_does_not_make_up_for_a_state_that_is_none(body: bytes) -> None:
    with pytest.raises(CacheCorrupt):
        decode_state(sealed(body))


@pytest.mark.parametrize(
    "spaced", [lambda text: text + b"\n", lambda text: b" " + text, lambda text: text.replace(b":", b": ", 1)]
)
def test_the_same_state_in_another_spelling_is_noticed(spaced: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CacheCorrupt, match="digest does not fit"):
        decode_state(spaced(encode_state(State(format=2, org="acme"))))


# --- what the parts mean ----------------------------------------------------------------------------------------------


@given(SCOPE_STATES)
def test_a_scope_has_the_mark_that_the_judge_goes_by(kept: ScopeState) -> None:
    assert kept.mark == Mark(kept.epoch, kept.version, kept.digest, kept.min_version, kept.previous_digest or "")


@given(HEARTBEATS)
def test_a_heartbeat_has_the_mark_that_the_judge_goes_by(kept: HeartbeatState) -> None:
    assert kept.mark == HeartbeatMark(kept.epoch, kept.seq, kept.issued_at, kept.index_digest)


@given(
    st.dictionaries(SCOPES, st.builds(Confirmation, SECONDS, SECONDS), max_size=3),
    st.none() | st.builds(Confirmation, SECONDS, SECONDS),
)
def test_freshness_survives(by_scope: dict[str, Confirmation], whole: Confirmation | None) -> None:
    freshness = Freshness(by_scope, whole)

    kept = decode_state(encode_state(State(format=2, org="acme", freshness=FreshnessState.of(freshness))))

    assert kept.freshness.freshness(()) == freshness


def test_a_state_without_heartbeats_confirms_nothing() -> None:
    assert State(format=2, org="acme").freshness.freshness(()) == NOTHING_CONFIRMED


@given(signed_at=st.floats(0, 4e9), elapsed=st.floats(0, 4e8), ahead=st.floats(0, 4e8), later=st.floats(0, 4e8))
def test_a_proof_that_is_read_again_proves_no_more_and_hardly_less(
    signed_at: float, elapsed: float, ahead: float, later: float
) -> None:
    proof = TimeProof(signed_at, Moment(signed_at, elapsed, "b"), ahead)

    kept = TimeState.of(proof).proof

    moment = Moment(signed_at + later, elapsed + later + 0.001, "b")
    assert kept.least(moment) <= proof.least(moment) + 1e-6
    assert kept.least(moment) == pytest.approx(proof.least(moment), abs=0.003)
    assert kept.ahead == pytest.approx(proof.ahead, abs=0.002)
    assert kept.at.boot_id == "b"


def test_every_number_of_the_file_is_whole() -> None:
    proof = TimeProof(1.2345, Moment(1.2345, 9.8765, "b"), 61.5555)

    assert TimeState.of(proof) == TimeState(signed_ms=1234, elapsed_ms=9877, boot_id="b", ahead_ms=61555)
    assert dump(TimeState.of(proof).model_dump()).count(b".") == 0


def test_a_state_may_have_more_scopes_than_a_document_has_fields() -> None:
    kept = ScopeState(epoch=1, version=1, digest="a" * 64, min_version=1, envelope="b" * 64)
    scopes = {f"org/acme/team/t{number}": kept for number in range(MAX_OBJECT_FIELDS + 1)}

    assert len(decode_state(encode_state(State(format=2, org="acme", scopes=scopes))).scopes) == MAX_OBJECT_FIELDS + 1


def test_the_scope_that_can_bring_a_schema_is_loaded_before_the_others() -> None:
    kept = ScopeState(epoch=1, version=1, digest="a" * 64, min_version=1, envelope="b" * 64)
    scopes = dict.fromkeys(["global", "org/acme/team/a", "org/acme", "org/acme/user/b"], kept)

    first, *rest = [scope for scope, _ in _schema_first(scopes)]

    assert first == "org/acme"
    assert rest == ["global", "org/acme/team/a", "org/acme/user/b"]

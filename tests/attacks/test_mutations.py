"""Random bytes in every document and file: never believed, never anything but a typed error.

`CASES` mutations of each kind of document, as it travels and as it lies on disk, seeded; one that leaves what was
signed as it was (protobuf and JSON have several spellings of one message) may be believed, and then is the very same
document. Whole state directories are damaged and started on, fewer times.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import describe_content, open_content
from akpolicy.envelope import from_dsse_json
from akpolicy.errors import AkpolicyError, CacheCorrupt, EnvelopeMalformed, StateDirUnusable
from akpolicy.index import parse_index
from akpolicy.trust import Judge
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_sidecar.state import decode_checkpoint, decode_state, encode_state
from tests.attacks.stage import FORBID, ORG, Stage
from tests.simulators.host import HostSimulator
from tests.simulators.messages import check_text
from tests.simulators.org import sign

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.envelope import SignedEnvelope

CASES = 1_000
SEEDS = range(2)
DIRECTORIES = 150

TOKENS = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"-", b" ", b"\n"),
    *(b"\\ud800", b"\x00", b"1e9", b"null", b"\xff", b"9" * 40),
)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return `data` with one to four changes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                changed[at:at] = draw.choice(TOKENS)
            case 2:
                del changed[at : at + draw.randint(1, 20)]
            case 3:
                other = draw.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + draw.randint(1, 40)]
            case _:
                changed[at:at] = draw.randbytes(draw.randint(1, 8))
    return bytes(changed)


class Bench:
    """A judge that trusts an org and has accepted a first bundle, and one right document of each kind."""

    def __init__(self, place: Path) -> None:
        stage = Stage(place).enforce()
        self.org, self.now = stage.org, stage.host.clock.now()
        self.root = stage.office.root
        self.judge = Judge("acme", self.org.anchors, marks={})
        self.judge.trust_root(self.root, self.now)
        self.original, self.blob = stage.old[ORG]
        self.state = (place / "state.json").read_bytes()
        self.bundle, self.content = self.org.bundle_envelope(ORG, FORBID, version=9)
        self.rollback = self.org.rollback_envelope(self.original, version=9)
        self.next_root = self.org.root_envelope(version=2)
        self.heartbeat, self.index = self.org.heartbeat_envelope(self.root, [self.bundle], seq=9)

    # Each returns what was believed, or raises.

    def as_bundle(self, envelope: SignedEnvelope) -> Any:
        verified = self.judge.judge_manifest(envelope, self.now)
        return self.judge.judge_content(verified, self.content)

    def as_rollback(self, envelope: SignedEnvelope) -> Any:
        return self.judge.judge_manifest(envelope, self.now, original=self.original)

    def as_root(self, envelope: SignedEnvelope) -> Any:
        return self.judge.judge_root(envelope, self.now)

    def as_heartbeat(self, envelope: SignedEnvelope) -> Any:
        return self.judge.judge_heartbeat(envelope, self.index, self.now)


KINDS: list[tuple[str, Callable[[Bench], SignedEnvelope], Callable[[Bench, SignedEnvelope], Any]]] = [
    ("root", lambda b: b.next_root, Bench.as_root),
    ("bundle", lambda b: b.bundle, Bench.as_bundle),
    ("rollback", lambda b: b.rollback, Bench.as_rollback),
    ("heartbeat", lambda b: b.heartbeat, Bench.as_heartbeat),
]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("right", "judged"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
def test_a_mutated_document_is_never_believed(
    bench: Bench, right: Callable[[Bench], SignedEnvelope], judged: Callable[[Bench, Any], Any], seed: int
) -> None:
    draw = random.Random(seed)
    envelope = right(bench)
    data = envelope_to_bytes(envelope)
    before = bench.judge.marks, bench.judge.root, bench.judge.heartbeat
    judged(bench, envelope)
    for _ in range(CASES // len(SEEDS)):
        try:
            received = envelope_from_bytes(mutated(data, draw))
            judged(bench, received)
        except AkpolicyError as error:
            check_text(error.message)
            continue
        # What was signed must be what is believed.
        assert (received.payload_type, received.payload) == (envelope.payload_type, envelope.payload)
    assert (bench.judge.marks, bench.judge.root, bench.judge.heartbeat) == before


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("right", "judged"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
def test_a_signer_who_signs_rubbish_gets_a_typed_error(
    bench: Bench, right: Callable[[Bench], SignedEnvelope], judged: Callable[[Bench, Any], Any], seed: int
) -> None:
    # The signature is good, so that the parser sees the mutation.
    draw = random.Random(seed)
    envelope = right(bench)
    signers = [
        signer
        for signer in vars(bench.org).values()
        if getattr(getattr(signer, "public_key", None), "key_id", None) == envelope.signatures[0].key_id
    ]
    for _ in range(CASES // len(SEEDS) // 2):
        changed = sign(envelope.payload_type, mutated(envelope.payload, draw), signers)
        try:
            believed = judged(bench, changed)
        except AkpolicyError as error:
            check_text(error.message)
            continue
        assert believed.envelope.payload == changed.payload


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_content_is_never_taken_for_what_was_signed(bench: Bench, seed: int) -> None:
    draw = random.Random(seed)
    verified = bench.judge.judge_manifest(bench.bundle, bench.now)
    for _ in range(CASES // len(SEEDS)):
        changed = mutated(bench.content, draw)
        if changed == bench.content:
            continue
        with pytest.raises(AkpolicyError) as caught:
            bench.judge.judge_content(verified, changed)
        check_text(caught.value.message)
        # Nor can a publisher of rubbish cause anything but a typed error.
        try:
            open_content(changed, describe_content(changed or b"-", 1))
        except AkpolicyError as error:
            check_text(error.message)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_index_is_never_taken_for_the_one_that_is_named(bench: Bench, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(CASES // len(SEEDS)):
        changed = mutated(bench.index, draw)
        if changed == bench.index:
            continue
        with pytest.raises(AkpolicyError):
            bench.judge.judge_heartbeat(bench.heartbeat, changed, bench.now)
        try:
            # There is one spelling of an index.
            assert parse_index(changed).text == changed
        except AkpolicyError as error:
            check_text(error.message)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_state_is_corrupt(bench: Bench, seed: int) -> None:
    draw = random.Random(seed)
    whole = decode_checkpoint(bench.state)
    assert encode_state(whole.state, whole.journal) == bench.state
    for _ in range(CASES // len(SEEDS)):
        changed = mutated(bench.state, draw)
        if changed == bench.state:
            continue
        with pytest.raises(CacheCorrupt) as caught:
            decode_state(changed)
        check_text(caught.value.message)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_dsse_file_gives_an_envelope_or_a_typed_error(bench: Bench, seed: int) -> None:
    draw = random.Random(seed)
    text = json.dumps(bench.bundle.to_dsse_json()).encode()
    for _ in range(CASES // len(SEEDS)):
        try:
            value = json.loads(mutated(text, draw))
        except ValueError:
            continue
        try:
            bench.as_bundle(from_dsse_json(value))
        except AkpolicyError as error:
            check_text(error.message)


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_that_never_were_an_envelope_are_none(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(CASES // len(SEEDS)):
        data = draw.randbytes(draw.randrange(200))
        try:
            envelope_from_bytes(data)
        except EnvelopeMalformed as error:
            check_text(error.message)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_starts_on_a_damaged_directory_and_enforces_nothing_else(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    stage = Stage(tmp_path / "state").enforce()
    stage.host.close()
    place, right = stage.host.place, stage.host.digests
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "lock")
    whole = {path: path.read_bytes() for path in files}
    for _ in range(DIRECTORIES // len(SEEDS)):
        for path, data in whole.items():
            path.write_bytes(data)
        victim = draw.choice(files)
        victim.write_bytes(mutated(whole[victim], draw))
        try:
            host = HostSimulator(place, org=stage.org, clock=stage.host.clock, office=stage.office)
        except StateDirUnusable as error:
            check_text(error.message)
            continue
        assert host.digests.items() <= right.items()
        assert host.decide() is None or host.digests == right
        assert host.troubles or host.digests == right
        for trouble in host.troubles:
            check_text(trouble.error.message)
        host.connect()
        assert host.digests == right
        host.close()
        for path in files:
            path.touch(0o600)

"""Whatever bytes come: nothing but the document itself is believed, and nothing but typed errors is raised."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from akpolicy.bundle import describe_content, open_content
from akpolicy.envelope import from_dsse_json
from akpolicy.errors import AkpolicyError
from akpolicy.trust import Judge
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from tests.unit.trust.scene import Scene, check_message

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope

ROUNDS = 500
TOKENS = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"\x00",
    b"1e9",
    b"-",
    b"null",
    b"\xff",
    b"9" * 40,
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


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_bundle_is_never_believed(scene: Scene, seed: int) -> None:
    draw = random.Random(seed)
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    data = envelope_to_bytes(envelope)
    before = scene.judge.marks
    for _ in range(ROUNDS):
        try:
            received = envelope_from_bytes(mutated(data, draw))
            bundle = scene.judged(received, blob)
        except AkpolicyError as error:
            check_message(error)
            continue
        # Protobuf has many encodings of one message; what was signed must be what is believed.
        assert said_by(received) == said_by(envelope)
        assert bundle.digest == envelope.digest().hex()
    assert scene.judge.marks == before


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_root_is_never_believed(scene: Scene, seed: int) -> None:
    draw = random.Random(seed)
    data = envelope_to_bytes(scene.root)
    for _ in range(ROUNDS):
        judge = Judge("acme", scene.org.anchors)
        try:
            received = envelope_from_bytes(mutated(data, draw))
            judge.trust_root(received, scene.now)
        except AkpolicyError as error:
            check_message(error)
            assert judge.root is None
            continue
        assert said_by(received) == said_by(scene.root)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_content_is_never_taken_for_what_was_signed(scene: Scene, seed: int) -> None:
    draw = random.Random(seed)
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    verified = scene.judge.judge_manifest(envelope, scene.now)
    for _ in range(ROUNDS):
        changed = mutated(blob, draw)
        if changed != blob:
            with pytest.raises(AkpolicyError):
                scene.judge.judge_content(verified, changed)


@pytest.mark.parametrize("seed", range(4))
def test_a_signer_who_signs_rubbish_gets_a_typed_error(scene: Scene, seed: int) -> None:
    # The signature is good, so that the parser sees the mutation.
    draw = random.Random(seed)
    envelope, _ = scene.org.bundle_envelope(scene.org.scope)
    for _ in range(ROUNDS):
        signed = scene.org.sign_manifest(mutated(envelope.payload, draw))
        try:
            verified = scene.judge.judge_manifest(signed, scene.now)
        except AkpolicyError as error:
            check_message(error)
            continue
        assert verified.manifest.scope.startswith("org/acme")


@pytest.mark.parametrize("seed", range(4))
def test_a_publisher_of_rubbish_gets_a_typed_error(seed: int) -> None:
    draw = random.Random(seed)
    _, blob = Scene().org.bundle_envelope("global", {"a": "permit (principal, action, resource);", "b": "\u00fc\n"})
    for _ in range(ROUNDS):
        changed = mutated(blob, draw)
        if not changed:
            continue
        try:
            opened = open_content(changed, describe_content(changed, 2))
        except AkpolicyError as error:
            check_message(error)
            continue
        assert len(opened.content.policies) == 2


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_dsse_file_gives_an_envelope_or_a_typed_error(scene: Scene, seed: int) -> None:
    draw = random.Random(seed)
    text = json.dumps(scene.first.to_dsse_json()).encode()
    for _ in range(ROUNDS):
        try:
            value = json.loads(mutated(text, draw))
        except ValueError:
            continue
        try:
            envelope_to_bytes(from_dsse_json(value))
        except AkpolicyError as error:
            check_message(error)


def said_by(envelope: SignedEnvelope) -> tuple[str, bytes]:
    return envelope.payload_type, envelope.payload

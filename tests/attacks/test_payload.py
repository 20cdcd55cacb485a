"""Attacks on what is inside a signed payload (A-44 to A-57): a key holder's mistakes and tricks."""

from __future__ import annotations

import pytest

from akpolicy.errors import (
    DuplicateField,
    FieldInvalid,
    MissingField,
    PayloadMalformed,
    PayloadNotUtf8,
    UnknownField,
)
from akpolicy.strict_json import dump
from tests.attacks.stage import ORG, REGISTER, Attack, Stage, bundle_of, root_of
from tests.simulators.office import heartbeat_message
from tests.simulators.org import ABSENT, content_reference, index_of, overridden, sign

BLOB = b"{}"

# What is done to the text of a right manifest (version 3) before it is signed.
TEXTS = REGISTER.table(
    (44, "a field named twice is refused", DuplicateField, lambda p: p[:-1] + b',"version":9}'),
    (44, "a field named twice in two spellings is refused", DuplicateField, lambda p: p[:-1] + b',"v\\u0065rsion":9}'),
    (45, "bytes that are no UTF-8 are refused", PayloadNotUtf8, lambda p: p.replace(b"bundle", b"bundl\xe9")),
    (45, "overlong UTF-8 is refused", PayloadNotUtf8, lambda p: p.replace(b"/acme", b"\xc0\xafacme")),
    (46, "UTF-16 is refused", PayloadNotUtf8, lambda p: p.decode().encode("utf-16")),
    (46, "UTF-16 without a mark is refused", PayloadNotUtf8, lambda p: p.decode().encode("utf-16-le")),
    (47, "a lone surrogate is refused", PayloadNotUtf8, lambda p: p.replace(b"org/acme", b"org/\\udc00")),
    (48, "a float is refused", FieldInvalid, lambda p: p.replace(b'"version":3', b'"version":3.0')),
    (48, "an exponent is refused", FieldInvalid, lambda p: p.replace(b'"version":3', b'"version":3e0')),
    (49, "2^64-1 is refused", FieldInvalid, lambda p: p.replace(b'"version":3', b'"version":18446744073709551615')),
    (49, "2^53 is refused", FieldInvalid, lambda p: p.replace(b'"version":3', b'"version":9007199254740992')),
    (54, "deep nesting is refused", PayloadMalformed, lambda _: b'{"a":' + b"[" * 1500 + b"]" * 1500 + b"}"),
    (55, "an array is refused", PayloadMalformed, lambda p: b"[" + p + b"]"),
    (55, "a second document behind the first is refused", PayloadMalformed, lambda p: p + p),
)


@pytest.mark.parametrize("attack", TEXTS, ids=str)
def test_a_signed_text_that_is_no_strict_json_is_refused(stage: Stage, attack: Attack) -> None:
    payload = dump(stage.org.manifest_document(ORG, BLOB, 1))
    changed = attack.act(payload)
    assert changed != payload
    stage.refuses(attack, bundle_of(stage.org.sign_manifest(changed), BLOB))


FIELDS = REGISTER.table(
    (50, "a bool for an int is refused", FieldInvalid, lambda: {"version": True}),
    (51, "a negative version is refused", FieldInvalid, lambda: {"version": -1}),
    (51, "a negative time is refused", FieldInvalid, lambda: {"issued_at": -1}),
    (52, "a path traversal in a scope is refused", FieldInvalid, lambda: {"scope": "org/../acme"}),
    (52, "encoded dots in a scope are refused", FieldInvalid, lambda: {"scope": "org/acme/team/%2e%2e"}),
    (53, "an unknown spec is refused", FieldInvalid, lambda: {"spec": 2}),
    (53, "spec true is refused", FieldInvalid, lambda: {"spec": True}),
    (56, "an unknown field is refused", UnknownField, lambda: {"admin": True}),
    (
        56,
        "an unknown field below the top is refused",
        UnknownField,
        lambda: {"content": {**content_reference(BLOB), "x": 1}},
    ),
    (57, "a missing version is refused", MissingField, lambda: {"version": ABSENT}),
    (57, "a missing expiry is refused", MissingField, lambda: {"expires_at": ABSENT}),
)


@pytest.mark.parametrize("attack", FIELDS, ids=str)
def test_a_signed_manifest_with_a_wrong_field_is_refused(stage: Stage, attack: Attack) -> None:
    document = overridden(stage.org.manifest_document(ORG, BLOB, 1), attack.act())
    stage.refuses(attack, bundle_of(stage.org.sign_manifest(document, [stage.org.bundle_signer]), BLOB))


OTHERS = REGISTER.table(
    (44, "a field named twice in a heartbeat is refused", DuplicateField, lambda s: heartbeat(s, b',"seq":9}')),
    (56, "an unknown field in a heartbeat is refused", UnknownField, lambda s: heartbeat(s, b',"more":9}')),
    (44, "a field named twice in a root is refused", DuplicateField, lambda s: root(s, b',"version":9}')),
    (56, "an unknown field in a root is refused", UnknownField, lambda s: root(s, b',"more":9}')),
    (44, "a field named twice in a rollback is refused", DuplicateField, lambda s: rollback(s, b',"version":9}')),
    (56, "an unknown field in a rollback is refused", UnknownField, lambda s: rollback(s, b',"more":9}')),
)


def heartbeat(stage: Stage, more: bytes) -> object:
    index = index_of([held.envelope for held in stage.office.current.values()])
    payload = dump(stage.org.heartbeat_document(stage.office.root, index, seq=stage.office.seq + 1))[:-1] + more
    kind = stage.org.heartbeat_envelope(stage.office.root, [], seq=9)[0].payload_type
    return [heartbeat_message(sign(kind, payload, [stage.org.heartbeat_signer]), index.text)]


def root(stage: Stage, more: bytes) -> object:
    payload = dump(stage.org.root_document(version=2))[:-1] + more
    return root_of(sign(stage.office.root.payload_type, payload, [stage.org.root_signer]))


def rollback(stage: Stage, more: bytes) -> object:
    original, blob = stage.old[ORG]
    payload = dump(stage.org.rollback_document(original))[:-1] + more
    kind = stage.org.rollback_envelope(original).payload_type
    return bundle_of(sign(kind, payload, [stage.org.rollback_signer]), blob, original)


@pytest.mark.parametrize("attack", OTHERS, ids=str)
def test_every_kind_of_document_is_strict(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, attack.act(stage))

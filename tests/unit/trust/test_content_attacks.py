"""Attacks on content: right manifests, wrong blobs."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import (
    ContentReference,
    check_reference,
    describe_content,
    encode_content,
    open_content,
)
from akpolicy.errors import (
    ContentDigestMismatch,
    ContentTooLarge,
    DuplicateField,
    EmptyPolicySet,
    EncodingNotAllowed,
    FieldInvalid,
    MissingField,
    PayloadMalformed,
    PayloadNotUtf8,
    PolicyCountMismatch,
    PolicyError,
    PolicyIdDuplicate,
    PolicyIdInvalid,
    PolicyTooLarge,
    ScopeMismatch,
    TooManyPolicies,
    UnknownField,
)
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_POLICIES, MAX_POLICY_BYTES
from akpolicy.stepwise_json import ELEMENTS_A_STEP
from akpolicy.strict_json import MAX_STRUCTURE_BYTES, shown
from tests.simulators.org import PERMIT_ALL, content_reference, delegation, role
from tests.simulators.tampering import flip_bit

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.errors import AkpolicyError
    from tests.unit.trust.scene import Scene

TEXT = "permit (principal, action, resource);"


def blob_of(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"policies": list(entries), **more}).encode()


def entry(policy_id: str = "p", text: str = TEXT) -> dict[str, str]:
    return {"id": policy_id, "text": text}


SWAPPED: list[tuple[str, type[AkpolicyError], Callable[[bytes], bytes]]] = [
    ("swapped", ContentDigestMismatch, lambda b: b.replace(b"allow-all", b"other-one")),
    ("bit flip", ContentDigestMismatch, lambda b: flip_bit(b, 40)),
    ("short", ContentDigestMismatch, lambda b: b[:-1]),
    ("empty", ContentDigestMismatch, lambda _: b""),
    ("long", ContentTooLarge, lambda b: b + b" "),
    ("compressed on the way", ContentDigestMismatch, lambda b: gzip.compress(b, mtime=0)[: len(b)]),
]


@pytest.mark.parametrize(("error", "change"), [c[1:] for c in SWAPPED], ids=[c[0] for c in SWAPPED])
def test_content_that_the_manifest_does_not_name_is_refused(
    scene: Scene, error: type[AkpolicyError], change: Callable[[bytes], bytes]
) -> None:
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    scene.refuses(error, envelope, change(blob))


REFERENCES: list[tuple[str, type[AkpolicyError], dict[str, Any]]] = [
    ("over the limit", ContentTooLarge, {"size": MAX_CONTENT_BYTES + 1}),
    ("2^53-1 bytes", ContentTooLarge, {"size": 2**53 - 1}),
    ("compressed by its media type", EncodingNotAllowed, {"media": "application/gzip"}),
    ("media type with a parameter", EncodingNotAllowed, {"media": "application/vnd.akpolicy.content.v1+json;x"}),
    ("zero policies", EmptyPolicySet, {"policies": 0}),
    ("too many policies", TooManyPolicies, {"policies": MAX_POLICIES + 1}),
    ("negative count", FieldInvalid, {"policies": -1}),
]


@pytest.mark.parametrize(("error", "changes"), [c[1:] for c in REFERENCES], ids=[c[0] for c in REFERENCES])
def test_content_is_refused_by_what_the_manifest_says_before_it_is_fetched(
    scene: Scene, error: type[AkpolicyError], changes: dict[str, Any]
) -> None:
    envelope, _ = scene.org.bundle_envelope(scene.org.scope, content=content_reference(b"{}", **changes))
    # No blob is given: the manifest alone is refused.
    scene.refuses(error, envelope)


# Blobs that the manifest names truly: an authorised signer signed them.
SIGNED: list[tuple[str, type[AkpolicyError], bytes, int]] = [
    ("gzip", EncodingNotAllowed, gzip.compress(blob_of(entry()), mtime=0), 1),
    ("zstd", EncodingNotAllowed, b"\x28\xb5\x2f\xfd" + b"\x00" * 20, 1),
    ("blank policy", EmptyPolicySet, blob_of(entry(text=" \n\t")), 1),
    ("empty policy", EmptyPolicySet, blob_of(entry(text="")), 1),
    ("policy of no-break spaces", EmptyPolicySet, blob_of(entry(text="\u00a0\u2003")), 1),
    ("a policy dropped", PolicyCountMismatch, blob_of(entry()), 2),
    ("all policies dropped", PolicyCountMismatch, blob_of(), 1),
    ("a policy slipped in", PolicyCountMismatch, blob_of(entry("a"), entry("b")), 1),
    ("an id twice", PolicyIdDuplicate, blob_of(entry("a"), entry("a", TEXT + " ")), 2),
    ("empty id", PolicyIdInvalid, blob_of(entry("")), 1),
    ("id of 129 characters", PolicyIdInvalid, blob_of(entry("a" * 129)), 1),
    ("id of 100,000 characters", PolicyIdInvalid, blob_of(entry("a b" * 33_333)), 1),
    ("id with a slash", PolicyIdInvalid, blob_of(entry("../a")), 1),
    ("id with a line feed at its end", PolicyIdInvalid, blob_of(entry("a\n")), 1),
    ("id with terminal escapes", PolicyIdInvalid, blob_of(entry("\x1b[2J")), 1),
    ("id beyond ASCII", PolicyIdInvalid, blob_of(entry("\u0430")), 1),
    ("policy over its limit", PolicyTooLarge, blob_of(entry(text="/" * (MAX_POLICY_BYTES + 1))), 1),
    ("policy over its limit in bytes", PolicyTooLarge, blob_of(entry(text="\u00e9" * (MAX_POLICY_BYTES // 2 + 1))), 1),
    ("duplicate key", DuplicateField, b'{"policies":[{"id":"a","id":"b","text":"x"}]}', 1),
    ("policies twice", DuplicateField, b'{"policies":[],"policies":[]}', 1),
    ("bad UTF-8", PayloadNotUtf8, b'{"policies":[{"id":"a","text":"\xff"}]}', 1),
    ("lone surrogate", PayloadNotUtf8, b'{"policies":[{"id":"a","text":"\\udfff"}]}', 1),
    ("deep nesting", PayloadMalformed, b'{"policies":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 1),
    ("unknown field", UnknownField, blob_of(entry(), comment=""), 1),
    ("unknown field of a megabyte", UnknownField, blob_of(entry(), **{"x" * 1_000_000: ""}), 1),
    ("no text", MissingField, blob_of({"id": "a"}), 1),
    ("no policies", MissingField, b"{}", 1),
    ("policies by id", FieldInvalid, b'{"policies":{"a":"permit"}}', 1),
    ("text as a list", FieldInvalid, blob_of({"id": "a", "text": [TEXT]}), 1),
    ("millions of values", PayloadMalformed, b'{"policies":[' + b"[]," * (MAX_STRUCTURE_BYTES // 3) + b"[]]}", 1),
    ("many wrong entries", MissingField, b'{"policies":[' + b"{}," * 100_000 + b"{}]}", 1),
    ("many wrong fields", FieldInvalid, json.dumps({str(i): 1 for i in range(5000)}).encode(), 1),
]


@pytest.mark.parametrize(("error", "blob", "count"), [c[1:] for c in SIGNED], ids=[c[0] for c in SIGNED])
def test_signed_content_that_cannot_be_policies_is_refused(
    scene: Scene, error: type[AkpolicyError], blob: bytes, count: int
) -> None:
    scene.refuses(error, *scene.org.bundle_envelope(scene.org.scope, blob, policy_count=count))


@pytest.mark.parametrize(
    ("blob", "policy_id"),
    [
        (blob_of(entry("a"), entry("b ")), "b "),
        (blob_of(entry("a"), entry("\x1b" + "c" * 100)), shown("\x1b" + "c" * 100)),
        (blob_of(entry("a"), entry("b"), entry("b")), "b"),
        (blob_of(entry("a"), entry("b", "/" * (MAX_POLICY_BYTES + 1))), "b"),
        (blob_of(entry("a"), entry("b", " ")), "b"),
    ],
)
def test_the_entry_that_is_wrong_is_named(blob: bytes, policy_id: str) -> None:
    reference = describe_content(blob, blob.count(b'"id"'))
    with pytest.raises(PolicyError) as caught:
        open_content(blob, reference)
    assert caught.value.policy_id == policy_id


@pytest.mark.parametrize("scope", ["org/acme/team/a", "org/acme/user/u"])
def test_a_schema_in_a_layer_below_the_org_is_refused(scene: Scene, scope: str) -> None:
    org = scene.org
    scene.with_root(roles={"root": role(org.root_signer), "bundle": [delegation(org.scope, org.bundle_signer)]})
    scene.refuses(ScopeMismatch, *org.bundle_envelope(scope, blob_of(entry(), schema="entity User;")))


def test_content_goes_with_a_manifest_that_has_content(scene: Scene) -> None:
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    verified = scene.judge.judge_manifest(envelope, scene.now)
    with pytest.raises(RuntimeError):
        scene.judge.judge_content(verified, None)
    deletion = scene.judge.judge_manifest(scene.org.deletion_envelope(scene.org.scope), scene.now)
    with pytest.raises(RuntimeError):
        scene.judge.judge_content(deletion, blob)


def test_believed_content_is_what_was_published(scene: Scene) -> None:
    policies = {f"p{i}": f"{TEXT} // \u00fc \U0001f600 {i}" for i in range(100)}
    bundle = scene.accept(*scene.org.bundle_envelope(scene.org.scope, policies))
    assert bundle.content is not None
    assert {p.id: p.text for p in bundle.content.content.policies} == policies
    assert bundle.content.digest == hashlib.sha256(bundle.content.blob).hexdigest()


def test_content_at_its_limits_is_believed(scene: Scene) -> None:
    text = TEXT + "/" * (MAX_POLICY_BYTES - len(TEXT))
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, {"a" * 128: text}))
    many = {f"p{i}": "x" for i in range(MAX_POLICIES)}
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, many))
    check_reference(ContentReference.model_validate(content_reference(b"{}", size=MAX_CONTENT_BYTES)))


def test_what_a_publisher_says_of_content_is_what_a_host_checks() -> None:
    blob = encode_content(list(PERMIT_ALL.items()))
    reference = describe_content(blob, 1)
    check_reference(reference)
    assert (reference.size, reference.digest) == (len(blob), hashlib.sha256(blob).hexdigest())


@pytest.mark.parametrize("count", [1, ELEMENTS_A_STEP, ELEMENTS_A_STEP + 1, 2 * ELEMENTS_A_STEP + 7])
def test_content_of_several_steps_is_whole_and_in_order(count: int) -> None:
    blob = blob_of(*(entry(f"p{number}") for number in range(count)))

    opened = open_content(blob, describe_content(blob, count))

    assert [policy.id for policy in opened.content.policies] == [f"p{number}" for number in range(count)]
    assert opened.content.schema_text is None


@pytest.mark.parametrize("at", [0, ELEMENTS_A_STEP - 1, ELEMENTS_A_STEP, 2 * ELEMENTS_A_STEP + 3])
@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"id": "a"}, MissingField, "content lacks the field `policies.{}.text`"),
        ({"id": "a", "text": TEXT, "more": 1}, UnknownField, "content has the unknown field `policies.{}.more`"),
        ({"id": 1, "text": TEXT}, FieldInvalid, "content field `policies.{}.id` is invalid"),
        ("text", FieldInvalid, "content field `policies.{}` is invalid"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place_whatever_step_it_is_in(
    at: int, wrong: object, error: type[AkpolicyError], words: str
) -> None:
    entries: list[object] = [entry(f"p{number}") for number in range(2 * ELEMENTS_A_STEP + 7)]
    entries[at] = wrong
    blob = blob_of(*entries)

    with pytest.raises(error) as caught:
        open_content(blob, describe_content(blob, len(entries)))

    assert words.format(at) in caught.value.message


@pytest.mark.parametrize("entries", [0, 1, ELEMENTS_A_STEP, ELEMENTS_A_STEP + 1])
def test_what_is_wrong_beside_good_entries_is_told(entries: int) -> None:
    blob = blob_of(*(entry(f"p{number}") for number in range(entries)), surprise=1)

    with pytest.raises(UnknownField, match="`surprise`"):
        open_content(blob, describe_content(blob, max(1, entries)))

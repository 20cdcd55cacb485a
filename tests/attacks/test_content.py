"""Attacks on content: right manifests with wrong blobs, and policies that cannot be enforced (A-111 to A-128)."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from akpolicy.errors import (
    ContentDigestMismatch,
    ContentTooLarge,
    EmptyPolicySet,
    EncodingNotAllowed,
    PolicyCountMismatch,
    PolicyCrashesEngine,
    PolicyIdDuplicate,
    PolicyIdInvalid,
    PolicyParseError,
    PolicyTooDeep,
    PolicyValidationError,
    SchemaInvalid,
)
from akpolicy.fence.fence import Fence
from akpolicy.limits import MAX_CONTENT_BYTES, MIB
from tests.attacks.stage import FORBID, ORG, REGISTER, Attack, Stage, bundle_of
from tests.simulators.org import content_reference

TEXT = FORBID["forbid-ssh"].replace('@id("forbid-ssh") ', "")


def blob_of(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"policies": list(entries), **more}).encode()


def entry(policy_id: str = "p", text: str = TEXT) -> dict[str, str]:
    return {"id": policy_id, "text": text}


SWAPPED = REGISTER.table(
    (111, "swapped content is refused", ContentDigestMismatch, lambda b: b.replace(b"forbid-ssh", b"forbid-all")),
    (112, "short content is refused", ContentDigestMismatch, lambda b: b[:-1]),
    (113, "long content is refused", ContentTooLarge, lambda b: b + b" "),
)


@pytest.mark.parametrize("attack", SWAPPED, ids=str)
def test_content_that_the_manifest_does_not_name_is_refused(stage: Stage, attack: Attack) -> None:
    envelope, blob = stage.org.bundle_envelope(ORG, FORBID)
    stage.refuses(attack, bundle_of(envelope, attack.act(blob)))


REFERENCES = REGISTER.table(
    (114, "content over the limit is refused unread", ContentTooLarge, lambda: {"size": MAX_CONTENT_BYTES + 1}),
    (115, "a compressed media type is refused", EncodingNotAllowed, lambda: {"media": "application/gzip"}),
    (116, "zero policies are refused", EmptyPolicySet, lambda: {"policies": 0}),
)


@pytest.mark.parametrize("attack", REFERENCES, ids=str)
def test_content_is_refused_by_what_the_manifest_says_of_it(stage: Stage, attack: Attack) -> None:
    envelope, _ = stage.org.bundle_envelope(ORG, FORBID, content=content_reference(b"{}", **attack.act()))
    stage.refuses(attack, bundle_of(envelope, b"{}"))


# Blobs that the manifest names truly: an authorised signer signed them. With the number of policies that it says.
SIGNED = REGISTER.table(
    (115, "compressed content is refused", EncodingNotAllowed, lambda: (gzip.compress(blob_of(entry()), mtime=0), 1)),
    (117, "a blank policy is refused", EmptyPolicySet, lambda: one(text=" \n\t")),
    (118, "a policy of comments alone is refused", PolicyCountMismatch, lambda: one(text="// nothing")),
    (119, "two policies in one entry are refused", PolicyCountMismatch, lambda: one(text=TEXT + TEXT)),
    (120, "a dropped policy is noticed", PolicyCountMismatch, lambda: (blob_of(entry()), 2)),
    (120, "a policy slipped in is noticed", PolicyCountMismatch, lambda: (blob_of(entry("a"), entry("b")), 1)),
    (121, "an id used twice is refused", PolicyIdDuplicate, lambda: (blob_of(entry("a"), entry("a", TEXT + " ")), 2)),
    (122, "an id with a slash is refused", PolicyIdInvalid, lambda: (blob_of(entry("../a")), 1)),
    (122, "an id of 129 characters is refused", PolicyIdInvalid, lambda: (blob_of(entry("a" * 129)), 1)),
    (
        123,
        "an id that is not the annotation is refused",
        PolicyIdInvalid,
        lambda: one("p", '@id("q") ' + TEXT),
    ),
    (
        124,
        "a policy that does not parse is refused",
        PolicyParseError,
        lambda: (blob_of(entry(text="permit nothing;")), 1),
    ),
    (125, "a policy nested too deep is refused", PolicyTooDeep, lambda: one(text=nested(65))),
    (
        125,
        "nesting that would crash Cedar is refused",
        PolicyTooDeep,
        lambda: (blob_of(entry(text=nested(700))), 1),
    ),
    (126, "a schema that is none is refused", SchemaInvalid, lambda: (blob_of(entry(), schema="entity {"), 1)),
    (
        127,
        "a policy that does not fit the schema is refused",
        PolicyValidationError,
        lambda: (blob_of(entry(text=unfit())), 1),
    ),
)


def one(policy_id: str = "p", text: str = TEXT) -> tuple[bytes, int]:
    return blob_of(entry(policy_id, text)), 1


def nested(depth: int) -> str:
    return f"forbid (principal, action, resource) when {{ {'(' * depth}true{')' * depth} }};"


def unfit() -> str:
    return "forbid (principal, action, resource) when { principal.shoe_size == 42 };"


@pytest.mark.parametrize("attack", SIGNED, ids=str)
def test_signed_content_that_cannot_be_enforced_is_refused(stage: Stage, attack: Attack) -> None:
    blob, count = attack.act()
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, blob, policy_count=count)))


# Within every limit, and yet Cedar needs more memory than this for them: parsed, they are about 500 times their size.
CHILD_BYTES = 192 * MIB
NUMBERS = f"forbid (principal, action, resource) when {{ [{'1,' * 7000}1].isEmpty() }};"
GLUTTONS = 20


@REGISTER.single(128, "content that a process which parses it dies of is refused", PolicyCrashesEngine)
def test_content_that_the_parser_dies_of_is_refused(stage: Stage, attack: Attack) -> None:
    blob = blob_of(*(entry(f"p{number}", NUMBERS) for number in range(GLUTTONS)))
    with Fence(memory_bytes=CHILD_BYTES) as fence:
        stage.host = stage.host.restart(fence=fence)
        stage.host.connect()
        stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, blob, policy_count=GLUTTONS)))
        assert fence.crashes == 1
        # The next child parses what is sound.
        stage.host.connect()
        stage.host.update(
            {**FORBID, "sound": '@id("sound") forbid (principal, action, resource) when { false };'}, scope=ORG
        )
        assert fence.starts >= 2
        assert stage.host.versions[ORG] == 4

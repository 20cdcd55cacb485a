"""Attacks on what is inside a signed payload: a key holder's mistakes and tricks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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
from tests.simulators.org import ABSENT, content_reference, overridden

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.errors import AkpolicyError
    from tests.unit.trust.scene import Scene

BLOB = b"{}"

# What is done to the text of a right manifest before it is signed.
TEXTS: list[tuple[str, type[AkpolicyError], Callable[[bytes], bytes]]] = [
    ("duplicate key", DuplicateField, lambda p: p[:-1] + b',"version":9}'),
    ("duplicate key in another spelling", DuplicateField, lambda p: p[:-1] + b',"v\\u0065rsion":9}'),
    ("duplicate key below the top", DuplicateField, lambda p: p.replace(b'"mode"', b'"max_age_s":1,"mode"')),
    ("duplicate key that is a lone surrogate", DuplicateField, lambda p: p[:-1] + b',"\\ud800":1,"\\ud800":2}'),
    (
        "duplicate key of 900 characters",
        DuplicateField,
        lambda p: _long(p, b'"%b":1,"%b":2' % (b"x" * 900, b"x" * 900)),
    ),
    ("bad UTF-8", PayloadNotUtf8, lambda p: p.replace(b"bundle", b"bundl\xe9")),
    ("overlong UTF-8", PayloadNotUtf8, lambda p: p.replace(b"/acme", b"\xc0\xafacme")),
    ("surrogate in UTF-8", PayloadNotUtf8, lambda p: p.replace(b"bundle", b"\xed\xa0\x80")),
    ("UTF-16 with mark", PayloadNotUtf8, lambda p: p.decode().encode("utf-16")),
    ("UTF-16 without mark", PayloadNotUtf8, lambda p: p.decode().encode("utf-16-le")),
    ("UTF-32", PayloadNotUtf8, lambda p: p.decode().encode("utf-32-be")),
    ("lone surrogate in a value", PayloadNotUtf8, lambda p: p.replace(b"org/acme", b"org/\\udc00")),
    ("lone surrogate in a key", PayloadNotUtf8, lambda p: p[:-1] + b',"\\uD800":1}'),
    ("byte order mark", PayloadMalformed, lambda p: b"\xef\xbb\xbf" + p),
    ("float", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":2.0')),
    ("exponent", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":2e0')),
    ("NaN", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":NaN')),
    ("Infinity", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":-Infinity')),
    ("2^64-1", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":18446744073709551615')),
    ("2^53", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":9007199254740992')),
    ("3,000 digits", FieldInvalid, lambda p: p.replace(b'"version":2', b'"version":' + b"9" * 3000)),
    ("deep arrays", PayloadMalformed, lambda _: b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    ("deep objects", PayloadMalformed, lambda _: b'{"a":' * 600 + b"1" + b"}" * 600),
    ("17 deep", PayloadMalformed, lambda p: p[:-1] + b',"a":' + b"[" * 16 + b"]" * 16 + b"}"),
    ("16 deep", UnknownField, lambda p: p[:-1] + b',"a":' + b"[" * 15 + b"]" * 15 + b"}"),
    ("deep and unclosed", PayloadMalformed, lambda _: b"[" * 4000),
    ("array", PayloadMalformed, lambda p: b"[" + p + b"]"),
    ("string", PayloadMalformed, lambda _: b'"bundle"'),
    ("null", PayloadMalformed, lambda _: b"null"),
    ("empty", PayloadMalformed, lambda _: b""),
    ("cut off", PayloadMalformed, lambda p: p[:-1]),
    ("a second document behind", PayloadMalformed, lambda p: p + p),
    ("a comment", PayloadMalformed, lambda p: p[:-1] + b"/* */}"),
    ("raw control character", PayloadMalformed, lambda p: p.replace(b"org/acme", b"org/\nacme")),
]


def _long(payload: bytes, fields: bytes) -> bytes:
    return payload[:-1] + b"," + fields + b"}"


@pytest.mark.parametrize(("error", "change"), [c[1:] for c in TEXTS], ids=[c[0] for c in TEXTS])
def test_a_signed_text_that_is_no_strict_json_is_refused(
    scene: Scene, error: type[AkpolicyError], change: Callable[[bytes], bytes]
) -> None:
    payload = dump(scene.org.manifest_document(scene.org.scope, BLOB, 1))
    changed = change(payload)
    assert changed != payload
    scene.refuses(error, scene.org.sign_manifest(changed))


FIELDS: list[tuple[str, type[AkpolicyError], dict[str, Any]]] = [
    ("string for int", FieldInvalid, {"version": "2"}),
    ("bool for int", FieldInvalid, {"version": True}),
    ("int for bool", FieldInvalid, {"deleted": 0}),
    ("null for int", FieldInvalid, {"issued_at": None}),
    ("negative version", FieldInvalid, {"version": -1}),
    ("version 0", FieldInvalid, {"version": 0}),
    ("negative time", FieldInvalid, {"issued_at": -1}),
    ("negative age", FieldInvalid, {"offline": {"mode": "fail_closed", "max_age_s": -1}}),
    ("path traversal", FieldInvalid, {"scope": "org/../acme"}),
    ("path traversal in a team", FieldInvalid, {"scope": "org/acme/team/.."}),
    ("encoded dots", FieldInvalid, {"scope": "org/acme/team/%2e%2e"}),
    ("absolute path", FieldInvalid, {"scope": "/org/acme"}),
    ("slash at the end", FieldInvalid, {"scope": "org/acme/"}),
    ("backslash", FieldInvalid, {"scope": "org\\acme"}),
    ("line feed at the end", FieldInvalid, {"scope": "org/acme\n"}),
    ("another alphabet", FieldInvalid, {"scope": "org/\u0430cme"}),
    ("terminal escapes", FieldInvalid, {"scope": "org/\x1b[2J" * 60}),
    ("spec 2", FieldInvalid, {"spec": 2}),
    ("spec 0", FieldInvalid, {"spec": 0}),
    ("spec true", FieldInvalid, {"spec": True}),
    ("spec text", FieldInvalid, {"spec": "1"}),
    ("a root's type", FieldInvalid, {"type": "root"}),
    ("unknown offline mode", FieldInvalid, {"offline": {"mode": "always", "max_age_s": 1}}),
    ("min_version above version", FieldInvalid, {"version": 2, "min_version": 3}),
    ("expires before it begins", FieldInvalid, {"not_before": 20, "expires_at": 20}),
    ("deleted with content", FieldInvalid, {"deleted": True}),
    ("content missing", FieldInvalid, {"content": ABSENT}),
    ("digest in capitals", FieldInvalid, {"content": content_reference(BLOB, digest="AB" * 32)}),
    ("digest with a line feed", FieldInvalid, {"content": content_reference(BLOB, digest="ab" * 32 + "\n")}),
    ("digest that is a path", FieldInvalid, {"content": content_reference(BLOB, digest="../" * 21 + "a")}),
    ("size 0", FieldInvalid, {"content": content_reference(BLOB, size=0)}),
    ("unknown field", UnknownField, {"admin": True}),
    ("unknown field below the top", UnknownField, {"offline": {"mode": "fail_closed", "max_age_s": 1, "x": 1}}),
    ("unknown field that fills the manifest", UnknownField, {"x" * 3000: 1}),
    ("unknown field with terminal escapes", UnknownField, {"\x1b[2J\r\n": 1}),
    ("no version", MissingField, {"version": ABSENT}),
    ("no expiry", MissingField, {"expires_at": ABSENT}),
    ("no min_version", MissingField, {"min_version": ABSENT}),
    ("no offline floor", MissingField, {"offline": ABSENT}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "fields"), [c[1:] for c in FIELDS], ids=[c[0] for c in FIELDS])
def test_a_signed_manifest_with_a_wrong_field_is_refused(
    scene: Scene, error: type[AkpolicyError], fields: dict[str, Any]
) -> None:
    document = overridden(scene.org.manifest_document(scene.org.scope, BLOB, 1), fields)
    scene.refuses(error, scene.org.sign_manifest(document, [scene.org.bundle_signer]))


def test_a_right_manifest_of_the_same_making_is_believed(scene: Scene) -> None:
    document = scene.org.manifest_document(scene.org.scope, BLOB, 1)
    spaced = json.dumps(dict(reversed(document.items())), indent=1).encode()
    verified = scene.judge.judge_manifest(scene.org.sign_manifest(spaced), scene.now)
    assert verified.manifest.version == 2

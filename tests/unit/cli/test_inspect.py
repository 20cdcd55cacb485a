"""`akpolicy inspect`: what each kind of file says, what is verified of it, and what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump
from tests.simulators.clock import START
from tests.simulators.org import OrgSimulator, delegation
from tests.simulators.tampering import flip_bit
from tests.unit.ceremony.people import Ceremony, signed_by
from tests.unit.cli.desk import Desk, codes, said

SCOPE = "org/acme"
EVIL = "\x1b[2J\u202e\x07"


# --- roots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_a_root_is_verified_by_its_anchor_in_either_form(desk: Desk, as_json: bool) -> None:
    path = desk.write("root", desk.root, as_json=as_json)
    result = desk.inspect(path, "--anchor", desk.org.anchor)
    assert result.code == 0, result.out
    assert "it is reached from the anchors, as hosts follow roots" in said(result, "ok")
    assert "it has not expired" in said(result, "ok")
    assert said(result, "not checked") == []
    assert desk.org.heartbeat_signer.public_key.key_id[:12] in result.out


def test_a_root_without_an_anchor_says_what_was_not_checked(desk: Desk) -> None:
    result = desk.inspect(desk.write("root", desk.root))
    assert result.code == 0
    assert said(result, "ok")[:2] == [
        f"signature by key {desk.org.root_signer.public_key.key_id[:12]} verifies",
        "its own root role signed it: 1 of 1 keys must sign",
    ]
    assert said(result, "not checked") == [
        "whether these are the root keys of acme: no anchor and no earlier root given"
    ]


def test_a_root_of_other_keys_fails_with_the_code(desk: Desk) -> None:
    result = desk.inspect(desk.write("root", desk.root), "--anchor", PrivateKeySigner.generate().public_key.anchor)
    assert result.code == 1
    assert codes(result) == {"RootUnanchored"}


def test_an_expired_root_fails(desk: Desk) -> None:
    result = desk.inspect(desk.write("root", desk.root), "--anchor", desk.org.anchor, at="2029-01-01T00:00:00Z")
    assert result.code == 1
    assert codes(result) == {"RootExpired"}


def test_a_threshold_of_anchors_is_asked_for(desk: Desk) -> None:
    other = PrivateKeySigner.generate().public_key.anchor
    path = desk.write("root", desk.root)
    options = ["--anchor", desk.org.anchor, "--anchor", other]
    assert desk.inspect(path, *options).code == 0
    assert codes(desk.inspect(path, *options, "--threshold", 2)) == {"RootUnanchored"}


def test_the_next_root_is_reached_from_the_one_before(desk: Desk) -> None:
    second = desk.org.root_envelope(version=2)
    first = desk.write("first", desk.root)
    given = desk.inspect(desk.write("second", second), "--root", first)
    assert given.code == 0
    assert "it is reached from the given version 1, as hosts follow roots" in said(given, "ok")
    assert "whether the given version 1 is a true root of acme: no anchor given" in said(given, "not checked")
    forged = desk.org.root_envelope(version=2, signed_by=[PrivateKeySigner.generate()])
    assert desk.inspect(desk.write("forged", forged), "--root", first).code == 1


def test_a_sidecars_configuration_says_whom_to_believe(desk: Desk) -> None:
    config = desk.write(
        "sidecar.toml",
        f'[enterprise]\norg_id = "acme"\n[enterprise.trust_anchors]\n'
        f'keys = [{{ key = "{desk.org.anchor}", valid_until = 2030-01-01T00:00:00Z }}]\n'.encode(),
    )
    path = desk.write("root", desk.root)
    assert "it is reached from the anchors, as hosts follow roots" in said(desk.inspect(path, "--config", config), "ok")
    assert codes(desk.inspect(path, "--config", config, at="2030-01-02T00:00:00Z")) == {"RootUnanchored", "RootExpired"}
    other = OrgSimulator("other", desk.org.clock)
    foreign = desk.write("foreign", other.root_envelope(signed_by=[desk.org.root_signer, other.root_signer]))
    assert codes(desk.inspect(foreign, "--config", config)) == {"OrgMismatch"}


@pytest.mark.parametrize(
    "text", ["", "x", "[enterprise]\norg_id = 1\n", '[enterprise.trust_anchors]\nkeys = ["age1x"]\n']
)
def test_a_configuration_without_anchors_is_wrong_usage(desk: Desk, text: str) -> None:
    config = desk.write("sidecar.toml", text.encode())
    assert desk.inspect(desk.write("root", desk.root), "--config", config).code == 2


# --- bundles ----------------------------------------------------------------------------------------------------------


def test_a_bundle_alone_has_its_form_and_times_checked(desk: Desk) -> None:
    envelope, _ = desk.org.bundle_envelope(SCOPE)
    result = desk.inspect(desk.write("bundle", envelope))
    assert result.code == 0
    key_id = desk.org.bundle_signer.public_key.key_id[:12]
    assert said(result, "not checked") == [
        f"signature by key {key_id}: its public key was not given",
        "whether those keys may sign this: no root given",
        "its content, which was not given: `--with FILE`",
    ]
    assert said(result, "ok") == ["it is valid now"]
    assert "expires    2027-02-14T08:00:00Z (in 30 days)" in result.out


def test_content_is_compared_with_its_manifest_even_without_a_root(desk: Desk) -> None:
    envelope, blob = desk.org.bundle_envelope(SCOPE)
    good = desk.inspect(desk.write("bundle", envelope), "--with", desk.write("content", blob))
    assert "its content is what it names, and its policies can be enforced" in said(good, "ok")
    other, _ = desk.org.bundle_envelope(SCOPE, blob, policy_count=2)
    lying = desk.inspect(desk.write("bundle", other), "--with", desk.write("content", blob))
    assert codes(lying) == {"PolicyCountMismatch"}


def test_a_bundle_with_root_anchor_and_content_is_verified_whole(desk: Desk) -> None:
    envelope, blob = desk.org.bundle_envelope(SCOPE)
    content = desk.write("content", blob)
    result = desk.inspect(desk.write("bundle", envelope), *desk.trusting(), "--with", content)
    assert result.code == 0, result.out
    assert said(result, "not checked") == []
    assert said(result, "ok") == [
        "the given root version 1 of acme is reached from the anchors",
        f"signature by key {desk.org.bundle_signer.public_key.key_id[:12]} verifies",
        f"hosts accept it: 1 of 1 keys must sign for `{SCOPE}`, of this epoch, in time",
        "its content is what it names, and its policies can be enforced",
    ]


def test_a_root_without_an_anchor_is_taken_at_its_word_and_that_is_said(desk: Desk) -> None:
    envelope, _ = desk.org.bundle_envelope(SCOPE)
    result = desk.inspect(desk.write("bundle", envelope), "--root", desk.write("root", desk.root))
    assert result.code == 0
    assert said(result, "not checked") == [
        "whether the given root version 1 of acme is the true one: no anchor given",
        "its content, which was not given: `--with FILE`",
    ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires_at": int(START) - 1, "not_before": int(START) - 10}, "BundleExpired"),
        ({"issued_at": int(START) + 999}, "IssuedInFuture"),
        ({"epoch": 2}, "EpochMismatch"),
        ({"scope": "org/other"}, "ScopeMismatch"),
        ({"expires_at": int(START) + 1000 * 86_400}, "ExpiryExceedsKey"),
    ],
)
def test_what_a_host_would_refuse_fails_with_its_code(desk: Desk, changes: dict[str, Any], code: str) -> None:
    envelope, blob = desk.org.bundle_envelope(changes.pop("scope", SCOPE), **changes)
    path, content = desk.write("bundle", envelope), desk.write("content", blob)
    result = desk.inspect(path, *desk.trusting(), "--with", content)
    assert result.code == 1
    assert codes(result) == {code}


def test_a_flipped_bit_is_found(desk: Desk) -> None:
    envelope, _ = desk.org.bundle_envelope(SCOPE)
    [signature] = envelope.signatures
    spoiled = replace(envelope, signatures=(replace(signature, signature=flip_bit(signature.signature, 7)),))
    result = desk.inspect(desk.write("bundle", spoiled), *desk.trusting())
    assert result.code == 1
    assert codes(result) == {"SignatureInvalid"}


def test_a_key_of_another_role_is_found(desk: Desk) -> None:
    envelope, _ = desk.org.bundle_envelope(SCOPE, signed_by=[desk.org.heartbeat_signer])
    result = desk.inspect(desk.write("bundle", envelope), *desk.trusting())
    assert codes(result) == {"KeyNotAuthorised"}
    assert f"signature by key {desk.org.heartbeat_signer.public_key.key_id[:12]} verifies" in said(result, "ok")


def test_permits_of_those_who_may_only_forbid_are_found(desk: Desk) -> None:
    roles = {**desk.org.root_document()["roles"], "bundle": [delegation(SCOPE, desk.org.bundle_signer, grants=False)]}
    desk.root = desk.org.root_envelope(roles=roles)
    envelope, blob = desk.org.bundle_envelope(SCOPE)
    content = desk.write("content", blob)
    result = desk.inspect(desk.write("bundle", envelope), *desk.trusting(), "--with", content)
    assert codes(result) == {"KeyNotAuthorised"}


# --- rollbacks, heartbeats, indexes -----------------------------------------------------------------------------------


def test_a_rollback_is_verified_with_its_original(desk: Desk) -> None:
    original, _ = desk.org.bundle_envelope(SCOPE)
    desk.org.next_version(SCOPE)
    path = desk.write("rollback", desk.org.rollback_envelope(original))
    alone = desk.inspect(path, *desk.trusting())
    assert alone.code == 0
    assert "what it restores: that manifest was not given: `--with FILE`" in said(alone, "not checked")
    whole = desk.inspect(path, *desk.trusting(), "--with", desk.write("original", original))
    assert whole.code == 0, whole.out
    assert any("version 1 is what it restores" in line for line in said(whole, "ok"))
    forged = desk.org.rollback_envelope(original, signed_by=[desk.org.heartbeat_signer])
    assert codes(desk.inspect(desk.write("forged", forged), *desk.trusting())) == {"KeyNotAuthorised"}


def test_a_heartbeat_is_verified_with_its_index(desk: Desk) -> None:
    bundle, _ = desk.org.bundle_envelope(SCOPE)
    envelope, index = desk.org.heartbeat_envelope(desk.root, [bundle], nonce="ab" * 16)
    path = desk.write("heartbeat", envelope)
    alone = desk.inspect(path, *desk.trusting())
    assert alone.code == 0, alone.out
    assert "the heartbeat role signed it" in said(alone, "ok")
    assert "its index, which was not given: `--with FILE`" in said(alone, "not checked")
    whole = desk.inspect(path, *desk.trusting(), "--with", desk.write("index", index))
    assert whole.code == 0, whole.out
    assert any(line.startswith("hosts accept it: the heartbeat role") for line in said(whole, "ok"))
    late = desk.inspect(path, *desk.trusting(), at="2027-01-15T09:00:00Z")
    assert codes(late) == {"HeartbeatStale"}


def test_an_index_is_shown_line_by_line(desk: Desk) -> None:
    bundle, _ = desk.org.bundle_envelope(SCOPE)
    _, index = desk.org.heartbeat_envelope(desk.root, [bundle])
    result = desk.inspect(desk.write("index", index))
    assert result.code == 0
    assert f"{SCOPE}  version 1 (epoch 1)  {bundle.digest().hex()}" in result.out
    answer = json.loads(desk.inspect(desk.write("index", index), "--output", "json").out)
    assert answer["lines"][0]["scope"] == SCOPE


# --- contents, payloads, proposals, revisions -------------------------------------------------------------------------


def test_a_content_is_shown_with_its_policies(desk: Desk) -> None:
    _, blob = desk.org.bundle_envelope(SCOPE)
    result = desk.inspect(desk.write("content", blob))
    assert result.code == 0
    assert "permit  allow-all" in result.out
    assert "permit (principal, action, resource);" in result.out
    assert said(result, "ok") == ["its policies can be enforced"]


def test_policies_that_cannot_be_enforced_fail(desk: Desk) -> None:
    _, blob = desk.org.bundle_envelope(SCOPE, {"typo": '@id("typo")\npermit (principal, action, resource) when { x };'})
    result = desk.inspect(desk.write("content", blob))
    assert result.code == 1
    assert codes(result) == {"PolicyParseError"}


def test_a_payload_alone_has_no_signatures(desk: Desk) -> None:
    result = desk.inspect(desk.write("payload.json", desk.root.payload))
    assert result.code == 0
    assert said(result, "not checked") == ["who signed it: a payload alone has no signatures"]


def test_a_proposal_says_what_changes_and_who_is_waited_for(desk: Desk) -> None:
    ceremony = Ceremony()
    half = signed_by(ceremony.proposal(), ceremony.owners[:1])
    anchors = [option for owner in ceremony.owners for option in ("--anchor", owner.public_key.anchor)]
    result = desk.inspect(desk.write("p.json", half.to_bytes()), *anchors)
    assert result.code == 0, result.out
    assert "version: 1 -> 2" in result.out
    assert [line[:23] for line in said(result, "not checked")] == ["root role (old): 1 of 2", "root role (new): 1 of 2"]
    assert "it is reached from the anchors, as hosts follow roots" in said(result, "ok")
    whole = desk.inspect(desk.write("p.json", signed_by(half, ceremony.owners[1:]).to_bytes()), "--output", "json")
    assert json.loads(whole.out)["progress"]["complete"] is True


def test_a_published_revision_is_inspected_as_it_is_shown(desk: Desk) -> None:
    envelope, blob = desk.org.bundle_envelope(SCOPE)
    policies = json.loads(blob)["policies"]
    shown = {"revision": {"scope": SCOPE}, "envelope": envelope.to_dsse_json(), "policies": policies}
    result = desk.inspect(desk.write("revision.json", dump(shown)), *desk.trusting())
    assert result.code == 0, result.out
    assert "its content is what it names, and its policies can be enforced" in said(result, "ok")


# --- what is none of these --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00\x01\x02", b'{"a": 1}', b"\xff" * 100])
def test_a_file_that_is_nothing_known_is_wrong_usage(desk: Desk, data: bytes) -> None:
    result = desk.inspect(desk.write("x", data))
    assert result.code == 2
    assert result.err.startswith("error: ")


def test_a_broken_document_fails_with_its_code(desk: Desk) -> None:
    result = desk.inspect(desk.write("x", b'{"type": "root", "spec": 1}'))
    assert result.code == 1
    assert codes(result) == {"MissingField"}
    spoiled = replace(desk.root, payload=desk.root.payload[:-1])
    assert codes(desk.inspect(desk.write("y", spoiled))) == {"PayloadMalformed"}


@pytest.mark.parametrize("output", ["text", "json"])
def test_no_control_character_of_a_document_is_printed(desk: Desk, output: str) -> None:
    policy = {"evil": f'@id("evil")\n// {EVIL}\npermit (principal, action, resource);'}
    envelope, blob = desk.org.bundle_envelope(SCOPE, policy)
    nameless = desk.org.bundle_envelope(EVIL, policy)[0]
    strange = replace(envelope, signatures=(replace(envelope.signatures[0], key_id=EVIL),))
    for data in (blob, nameless, strange):
        out = desk.inspect(desk.write("x", data), *desk.trusting(), "--output", output).out
        assert out
        assert not {"\x1b", "\u202e", "\x07"} & set(out)


@pytest.mark.parametrize("time", ["soon", "2027-01-15T08:00:00", "1800000000"])
def test_a_time_without_a_zone_is_wrong_usage(desk: Desk, time: str) -> None:
    assert desk.inspect(desk.write("root", desk.root), at=time).code == 2


def test_anchors_come_from_one_place(desk: Desk) -> None:
    result = desk.inspect(desk.write("root", desk.root), "--anchor", desk.org.anchor, "--config", "x")
    assert result.code == 2

"""Keys in a real token (SoftHSM): which are used, which are refused, and how they are made."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import AttributeReadOnly, AttributeSensitive, KeyUnextractable
from pkcs11.util.ec import encode_named_curve_parameters

from akpolicy.bundle import encode_content
from akpolicy.envelope import PayloadType
from akpolicy.errors import SignerUnavailable, WeakKey
from akpolicy.scope import GLOBAL
from akpolicy.signing import create_token_key, open_signer, pkcs11_keys, sign_document
from akpolicy.strict_json import dump
from akpolicy.trust import Judge
from tests.simulators.clock import ManualClock
from tests.simulators.org import PERMIT_ALL, OrgSimulator, delegation, role
from tests.unit.signing.opening import refusal

if TYPE_CHECKING:
    from tests.simulators.tokens import SoftTokens

pytestmark = pytest.mark.needs_program("softhsm2-util")

KINDS = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)


def count(tokens: SoftTokens, kind: ObjectClass) -> int:
    with tokens.session() as session:
        return len(list(session.get_objects({Attribute.CLASS: kind})))


# --- used -------------------------------------------------------------------------------------------------------------


def test_a_judge_believes_a_bundle_that_a_token_signed(tokens: SoftTokens) -> None:
    create_token_key(tokens.uri())
    org = OrgSimulator("acme", ManualClock())
    judge = Judge("acme", org.anchors)
    blob = encode_content(list(PERMIT_ALL.items()))
    with closing(open_signer(tokens.uri())) as signer:
        bundles = [delegation(GLOBAL, org.platform_signer), delegation(org.scope, signer)]
        root = org.root_envelope(signers=[signer], roles={"root": role(org.root_signer), "bundle": bundles})
        judge.trust_root(root, org.clock.now())
        document = dump(org.manifest_document(org.scope, blob, len(PERMIT_ALL)))
        envelope = sign_document(PayloadType.BUNDLE, document, [signer])
    verified = judge.judge_content(judge.judge_manifest(envelope, org.clock.now()), blob)
    assert verified.manifest.scope == org.scope


def test_a_key_made_in_a_token_is_the_one_that_is_opened(tokens: SoftTokens) -> None:
    made = create_token_key(tokens.uri())
    with closing(open_signer(tokens.uri())) as signer:
        assert signer.public_key == made
        assert made.verifies(signer.sign(b"a message"), b"a message")
        assert made.verifies(signer.sign(b""), b"")


def test_a_key_that_was_made_cannot_leave_the_token(tokens: SoftTokens) -> None:
    create_token_key(tokens.uri())
    with tokens.session() as session:
        private: Any = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label="bundle")
        assert private[Attribute.SENSITIVE]
        assert private[Attribute.ALWAYS_SENSITIVE]
        assert private[Attribute.NEVER_EXTRACTABLE]
        assert not private[Attribute.EXTRACTABLE]
        with pytest.raises(AttributeSensitive):
            private[Attribute.VALUE]
        for attribute, value in ((Attribute.EXTRACTABLE, True), (Attribute.SENSITIVE, False)):
            with pytest.raises(AttributeReadOnly):
                private[attribute] = value
        with pytest.raises(AttributeReadOnly):
            private.copy({Attribute.EXTRACTABLE: True})
        wrapping = session.generate_key(KeyType.AES, 256)
        with pytest.raises(KeyUnextractable):
            wrapping.wrap_key(private, mechanism=Mechanism.AES_KEY_WRAP)  # type: ignore[attr-defined]  # its class is made at run time


def test_a_key_is_found_by_its_id_and_a_token_by_its_serial_number(tokens: SoftTokens) -> None:
    made = create_token_key(tokens.uri("object=bundle;id=%00%FF"))
    with tokens.session() as session:
        serial = session.token.serial.decode("ascii")
    with closing(open_signer(tokens.uri("id=%00%ff", token=f"serial={serial}"))) as signer:
        assert signer.public_key == made


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {"extractable": True},
        {"sensitive": False},
        {"extractable": True, "sensitive": False},
    ],
    ids=["extractable", "not sensitive", "both"],
)
def test_a_key_that_can_leave_the_token_is_refused(tokens: SoftTokens, attributes: dict[str, Any]) -> None:
    tokens.make_pair(**attributes)
    assert "can be extracted" in refusal(tokens.uri())


def test_a_key_that_may_not_sign_is_refused(tokens: SoftTokens) -> None:
    tokens.make_pair(sign=False)
    assert "may not sign" in refusal(tokens.uri())


def test_a_key_of_another_kind_is_refused(tokens: SoftTokens) -> None:
    with tokens.session() as session:
        curve = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
        )
        curve.generate_keypair(label="bundle", id=b"\x01", store=True)
    assert "is not an Ed25519 key" in refusal(tokens.uri())


def test_a_missing_key_is_named(tokens: SoftTokens) -> None:
    assert "no private key `object=bundle`" in refusal(tokens.uri())
    assert "no private key `id=%07`" in refusal(tokens.uri("id=%07"))


def test_of_two_keys_with_one_label_the_id_decides(tokens: SoftTokens) -> None:
    tokens.make_pair(key_id=b"\x01")
    tokens.make_pair(key_id=b"\x02")
    assert "add `id=`" in refusal(tokens.uri())
    with closing(open_signer(tokens.uri("object=bundle;id=%02"))) as signer:
        signer.sign(b"a message")
    assert "no private key" in refusal(tokens.uri("object=other;id=%02"))


def test_a_key_without_its_public_half_is_refused(tokens: SoftTokens) -> None:
    tokens.make_pair()
    with tokens.session() as session:
        session.get_key(object_class=ObjectClass.PUBLIC_KEY).destroy()
    assert "no public key belongs to" in refusal(tokens.uri())


def add_public(tokens: SoftTokens, point: bytes) -> None:
    """Put a public key of the test's choice in place of the pair's own."""
    with tokens.session() as session:
        session.get_key(object_class=ObjectClass.PUBLIC_KEY, id=b"\x01").destroy()
        session.create_object(
            {
                Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                Attribute.KEY_TYPE: KeyType.EC_EDWARDS,
                Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112"),
                Attribute.EC_POINT: point,
                Attribute.ID: b"\x01",
                Attribute.LABEL: "bundle",
                Attribute.TOKEN: True,
            }
        )


def test_the_public_key_of_another_pair_is_noticed(tokens: SoftTokens) -> None:
    tokens.make_pair()
    tokens.make_pair("other", key_id=b"\x02")
    with tokens.session() as session:
        point: bytes = session.get_key(object_class=ObjectClass.PUBLIC_KEY, id=b"\x02")[Attribute.EC_POINT]
    add_public(tokens, point)
    assert "does not verify" in refusal(tokens.uri())


@pytest.mark.parametrize("prefix", [b"", b"\x04\x20", b"\x03\x21\x00"], ids=["bare", "octet string", "bit string"])
def test_a_weak_public_key_is_refused_however_its_point_is_written(tokens: SoftTokens, prefix: bytes) -> None:
    tokens.make_pair()
    add_public(tokens, prefix + b"\x01" + bytes(31))
    with pytest.raises(WeakKey):
        open_signer(tokens.uri())


@pytest.mark.parametrize("point", [bytes(31), b"\x04\x21" + bytes(33), b"\x05\x20" + bytes(32), b"\x00" + bytes(32)])
def test_a_point_of_another_form_is_refused(tokens: SoftTokens, point: bytes) -> None:
    tokens.make_pair()
    add_public(tokens, point)
    assert "no Ed25519 point" in refusal(tokens.uri())


# --- made -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["object=bundle", "object=other;id=%01"], ids=["label", "id"])
def test_a_key_in_a_token_is_never_overwritten(tokens: SoftTokens, taken: str) -> None:
    create_token_key(tokens.uri("object=bundle;id=%01"))
    with pytest.raises(SignerUnavailable, match="never overwritten"):
        create_token_key(tokens.uri(taken))
    assert [count(tokens, kind) for kind in KINDS] == [1, 1]


def test_a_new_key_needs_a_label(tokens: SoftTokens) -> None:
    with pytest.raises(SignerUnavailable, match="add `object="):
        create_token_key(tokens.uri("id=%01"))


def test_two_new_keys_have_two_ids(tokens: SoftTokens) -> None:
    create_token_key(tokens.uri("object=a"))
    create_token_key(tokens.uri("object=b"))
    with tokens.session() as session:
        ids = {key[Attribute.ID] for key in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})}
    assert sorted(map(len, ids)) == [pkcs11_keys.NEW_ID_BYTES] * 2


def test_a_pair_that_fails_its_check_does_not_stay(tokens: SoftTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    # The token itself refuses.
    monkeypatch.setattr(pkcs11_keys, "_PURE_EDDSA", Mechanism.ML_DSA)
    with pytest.raises(SignerUnavailable, match="cannot make an Ed25519 key: MechanismInvalid"):
        create_token_key(tokens.uri())
    assert [count(tokens, kind) for kind in KINDS] == [0, 0]


def test_a_key_can_be_made_while_another_of_the_token_signs(tokens: SoftTokens) -> None:
    create_token_key(tokens.uri("object=first"))
    with closing(open_signer(tokens.uri("object=first"))) as first:
        create_token_key(tokens.uri("object=second"))
        first.sign(b"a message")
        with closing(open_signer(tokens.uri("object=second"))) as second:
            assert first.public_key != second.public_key


def test_a_pin_is_wanted_for_making_too(tokens: SoftTokens) -> None:
    with pytest.raises(SignerUnavailable, match="wants a PIN"):
        create_token_key(tokens.uri().partition("&pin-source")[0])

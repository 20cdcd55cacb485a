"""agentkernel's flat bundle: its bytes by the vectors, its weakness, and that nothing of ours believes it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.engine.check import check_policies
from akpolicy.engine.legacy import load_legacy_schema, named_id_problems
from akpolicy.engine.source import PolicyText
from akpolicy.envelope import EnvelopeSignature, PayloadType, SignedEnvelope, pae
from akpolicy.errors import SignatureInvalid
from akpolicy.keys import PublicKey
from akpolicy.legacy import expiry_text, sign_legacy, signed_bytes
from akpolicy.limits import MAX_JSON_INT
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust.signatures import verified_signers

VECTORS: Final = json.loads((Path(__file__).parents[1] / "testdata" / "legacy-vectors.json").read_text("utf-8"))
TEXT: Final = VECTORS["policies"]
SIGNER: Final = PrivateKeySigner.from_private_key(Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
UNTIL: Final = 1893456000


def signature_of(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["signature"], validate=True)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(case["version"]))
def test_the_signed_bytes_are_agentkernels(case: dict[str, Any]) -> None:
    key = PublicKey.from_bytes(base64.b64decode(VECTORS["public_key"], validate=True))
    assert SIGNER.public_key.raw == key.raw
    message = signed_bytes(case["version"], case["expires_at"] or "", TEXT)
    assert SIGNER.sign(message) == signature_of(case)
    assert key.verifies(signature_of(case), message)


def test_a_signed_bundle_is_the_vector_of_that_version_and_time() -> None:
    (case,) = (case for case in VECTORS["cases"] if case["expires_at"])
    made = sign_legacy(SIGNER, TEXT, case["version"], UNTIL)
    assert made.to_json() == {
        "policies": TEXT,
        "version": 42,
        "expires_at": "2030-01-01T00:00:00+00:00",
        "signature": case["signature"],
        "signer_key_id": SIGNER.public_key.key_id,
    }


def test_the_layout_lets_a_dated_bundle_pass_as_one_without_an_end_and_its_text_is_no_policy() -> None:
    made = sign_legacy(SIGNER, TEXT, 42, UNTIL)
    forged = expiry_text(UNTIL) + TEXT
    # agentkernel's bytes of a bundle without an expiry and with this text: the signature verifies.
    assert SIGNER.public_key.verifies(made.signature, (42).to_bytes(8, "little") + forged.encode())
    # And it is no Cedar, which is all that refuses it.
    (problem,) = check_policies([PolicyText("x", forged)], load_legacy_schema())
    assert problem.code == "PolicyParseError"


@pytest.mark.parametrize("kind", list(PayloadType))
def test_no_document_of_ours_begins_like_a_flat_bundle(kind: PayloadType) -> None:
    as_version = int.from_bytes(pae(kind, b"{}")[:8], "little")
    assert as_version > MAX_JSON_INT
    for version in (0, as_version, MAX_JSON_INT + 1):
        with pytest.raises(ValueError, match="version"):
            signed_bytes(version, "", "")


@pytest.mark.parametrize("kind", list(PayloadType))
def test_a_sidecar_that_even_trusted_the_legacy_key_would_not_believe_a_flat_bundle(kind: PayloadType) -> None:
    made = sign_legacy(SIGNER, TEXT, MAX_JSON_INT, UNTIL)
    for payload in (TEXT.encode(), signed_bytes(MAX_JSON_INT, expiry_text(UNTIL), TEXT), b""):
        envelope = SignedEnvelope(kind, payload, (EnvelopeSignature(made.signer_key_id, made.signature),))
        with pytest.raises(SignatureInvalid):
            verified_signers(envelope, {made.signer_key_id: SIGNER.public_key})


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ('permit (principal, action == AgentKernel::Action::"Exec", resource) when { context.sudo };', "`sudo`"),
        ('forbid (principal, action, resource) when { context.source == "sandbox" };', "`source`"),
        ('forbid (principal, action, resource) when { resource.image == "a" };', "`image`"),
        ('permit (principal, action, resource) when { principal.teams.contains("a") };', "`teams`"),
        ('forbid (principal in AgentKernel::Team::"acme/red", action, resource);', "`AgentKernel::Team`"),
        ('forbid (principal, action, resource in AgentKernel::Org::"acme");', "`AgentKernel::Org`"),
        ('permit (principal, action == AgentKernel::Action::"Fly", resource);', "Fly"),
        ("forbid (principal, action, resource is AgentKernel::Permission);", "`AgentKernel::Permission`"),
    ],
)
def test_a_policy_that_reads_what_such_hosts_lack_is_refused(policy: str, says: str) -> None:
    problems = check_policies([PolicyText("x", policy)], load_legacy_schema())
    assert [says in problem.message for problem in problems] == [True]


@pytest.mark.parametrize(
    "policy",
    [
        "permit (principal, action, resource);",
        'permit (principal, action, resource) when { resource has image && resource.image == "a" };',
        "permit (principal, action, resource) when { context has sudo && context.sudo };",
        'forbid (principal, action == AgentKernel::Action::"Connect", resource) when { !principal.mfa_verified };',
        'forbid (principal, action, resource) when { principal.org_id == "AgentKernel::User::alice" };',
    ],
)
def test_a_policy_with_guards_is_fine(policy: str) -> None:
    policies = [PolicyText("x", policy)]
    assert check_policies(policies, load_legacy_schema()) == ()
    assert named_id_problems(policies) == ()


@pytest.mark.parametrize(
    "policy",
    [
        'forbid (principal == AgentKernel::User::"acme/alice", action, resource);',
        'forbid (principal, action, resource) when { resource == AgentKernel :: Sandbox // x\n :: "acme/box" };',
    ],
)
def test_a_policy_that_names_a_user_or_sandbox_is_refused(policy: str) -> None:
    (problem,) = named_id_problems([PolicyText("x", policy)])
    assert "by id" in problem.message

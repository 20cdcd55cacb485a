"""Proposals: what is refused as one, who may sign, and how far one is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.envelope import EnvelopeSignature, PayloadType, SignedEnvelope
from akpolicy.errors import (
    AkpolicyError,
    ContentDigestMismatch,
    EnvelopeMalformed,
    EnvelopeTooLarge,
    FieldInvalid,
    KeyNotAuthorised,
    OrgMismatch,
    PayloadMalformed,
    PayloadTypeMismatch,
    RootExpired,
    SignatureInvalid,
    SigningFailed,
    ThresholdNotMet,
    UnknownField,
    UnknownKey,
)
from akpolicy.limits import MAX_SIGNATURES
from akpolicy.proposal import MAX_PROPOSAL_BYTES, Proposal, add_signature, make_proposal, parse_proposal
from akpolicy.proposal_progress import judge_proposal, progress_of
from akpolicy.role_name import RoleName
from akpolicy.root_change import AddKey, DropRole, RemoveKey, SetThreshold
from akpolicy.root_difference import short_id
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump
from tests.simulators.org import OrgSimulator, delegation, sign
from tests.unit.ceremony.people import NOW, SCOPE, Ceremony, signed_by, unsigned

if TYPE_CHECKING:
    from akpolicy.keys import PublicKey

ROOT = RoleName("root")


@pytest.fixture
def ceremony() -> Ceremony:
    return Ceremony()


@pytest.fixture
def org() -> OrgSimulator:
    return OrgSimulator()


def bundle_proposal(org: OrgSimulator, **root: Any) -> Proposal:
    """Return an unsigned bundle of the org with its root."""
    envelope, blob = org.bundle_envelope(SCOPE)
    return make_proposal(replace(envelope, signatures=()), root=org.root_envelope(**root), content=blob)


def two_of_three(org: OrgSimulator) -> tuple[Proposal, list[PrivateKeySigner]]:
    """Return an unsigned bundle that two of three keys must sign, and these."""
    keys = [org.bundle_signer, *(PrivateKeySigner.generate() for _ in range(2))]
    roles = {**org.root_document()["roles"], "bundle": [delegation(SCOPE, *keys, threshold=2)]}
    listed = {signer.public_key.key_id: org.key_entry(signer) for signer in keys}
    return bundle_proposal(org, roles=roles, keys={**org.root_document()["keys"], **listed}), keys


def short(key: PublicKey) -> str:
    return short_id(key.key_id)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_proposal_comes_back_from_its_file_as_it_was(ceremony: Ceremony, org: OrgSimulator) -> None:
    first = make_proposal(unsigned(ceremony.root))
    for proposal in (first, ceremony.proposal(), bundle_proposal(org)):
        assert parse_proposal(proposal.to_bytes()) == proposal
        assert json.loads(proposal.to_bytes())["format"] == "akpolicy/proposal/v1"


def test_signatures_travel_with_it(ceremony: Ceremony) -> None:
    signed = add_signature(ceremony.proposal(), ceremony.owners[1])
    [signature] = parse_proposal(signed.to_bytes()).envelope.signatures
    assert signature.key_id == ceremony.owners[1].public_key.key_id


def changed(proposal: Proposal, **fields: Any) -> bytes:
    value = {**json.loads(proposal.to_bytes()), **fields}
    return dump({name: entry for name, entry in value.items() if entry is not None})


def test_another_format_is_refused_with_the_one_that_is_read(ceremony: Ceremony) -> None:
    with pytest.raises(FieldInvalid, match=r"akpolicy/proposal/v9.*reads `akpolicy/proposal/v1`"):
        parse_proposal(changed(ceremony.proposal(), format="akpolicy/proposal/v9"))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"more": 1}, UnknownField),
        ({"content": "{}"}, PayloadMalformed),
        ({"envelope": {"payload": ""}}, EnvelopeMalformed),
        ({"root": {"payload": ""}}, EnvelopeMalformed),
        ({"envelope": "x"}, FieldInvalid),
    ],
)
def test_a_root_proposal_with_anything_else_in_it_is_refused(
    ceremony: Ceremony, fields: dict[str, Any], error: type[AkpolicyError]
) -> None:
    with pytest.raises(error):
        parse_proposal(changed(ceremony.proposal(), **fields))


def test_content_that_is_not_what_the_manifest_names_is_refused(org: OrgSimulator) -> None:
    proposal = bundle_proposal(org)
    text = json.loads(proposal.to_bytes())["content"]
    with pytest.raises(ContentDigestMismatch):
        parse_proposal(changed(proposal, content=text.replace("permit", "forbid")))
    with pytest.raises(PayloadMalformed, match="has its content with it"):
        parse_proposal(changed(proposal, content=None))
    with pytest.raises(EnvelopeMalformed, match="lacks the root"):
        parse_proposal(changed(proposal, root=None))


def test_a_file_beyond_its_limit_is_not_read() -> None:
    with pytest.raises(PayloadMalformed, match="more than"):
        parse_proposal(b" " * (MAX_PROPOSAL_BYTES + 1))


def test_a_root_of_another_org_or_of_another_version_is_refused(ceremony: Ceremony) -> None:
    other = OrgSimulator("other")
    after_next = ceremony.next().model_copy(update={"version": 3})
    with pytest.raises(OrgMismatch):
        make_proposal(unsigned(ceremony.next()), root=other.root_envelope())
    with pytest.raises(FieldInvalid, match="has version 3, the root before it 1"):
        make_proposal(unsigned(after_next), root=ceremony.envelope)
    proposal = bundle_proposal(OrgSimulator("acme"))
    assert proposal.content is not None
    with pytest.raises(OrgMismatch):
        make_proposal(proposal.envelope, root=other.root_envelope(), content=proposal.content.blob)


def test_a_root_that_its_own_keys_did_not_sign_is_refused(ceremony: Ceremony) -> None:
    one = replace(ceremony.envelope, signatures=ceremony.envelope.signatures[:1])
    stranger = sign(PayloadType.ROOT, ceremony.envelope.payload, [PrivateKeySigner.generate()])
    for root, error in ((one, ThresholdNotMet), (stranger, UnknownKey), (unsigned(ceremony.root), EnvelopeMalformed)):
        with pytest.raises(error):
            make_proposal(unsigned(ceremony.next()), root=root)


def test_only_roots_and_bundles_travel(ceremony: Ceremony, org: OrgSimulator) -> None:
    heartbeat, _ = org.heartbeat_envelope(org.root_envelope(), [])
    with pytest.raises(PayloadTypeMismatch, match="does not travel"):
        make_proposal(heartbeat, root=org.root_envelope())
    with pytest.raises(PayloadTypeMismatch):
        make_proposal(unsigned(ceremony.next()), root=heartbeat)


def test_a_scope_that_nobody_may_sign_is_refused(org: OrgSimulator) -> None:
    with pytest.raises(KeyNotAuthorised, match="lets nobody sign"):
        bundle_proposal(org, roles={**org.root_document()["roles"], "bundle": []})


# --- signing ----------------------------------------------------------------------------------------------------------


def test_only_a_key_that_can_count_signs(ceremony: Ceremony, org: OrgSimulator) -> None:
    with pytest.raises(KeyNotAuthorised) as caught:
        add_signature(ceremony.proposal(), ceremony.bundle_signer)
    assert all(owner.public_key.key_id in caught.value.message for owner in ceremony.owners)
    with pytest.raises(KeyNotAuthorised):
        add_signature(bundle_proposal(org), org.platform_signer)


def test_a_key_that_signs_again_counts_once(ceremony: Ceremony) -> None:
    once = add_signature(ceremony.proposal(), ceremony.owners[0])
    assert add_signature(once, ceremony.owners[0]) == once


def test_a_signer_that_signs_something_else_adds_nothing(ceremony: Ceremony) -> None:
    class Broken:
        public_key = ceremony.owners[0].public_key

        def sign(self, message: bytes) -> bytes:
            return ceremony.owners[0].sign(message + b"x")

        def close(self) -> None:
            pass

    with pytest.raises(SigningFailed):
        add_signature(ceremony.proposal(), Broken())


def test_no_envelope_gets_more_signatures_than_hosts_read(ceremony: Ceremony) -> None:
    strangers = tuple(EnvelopeSignature(f"{n:064x}", b"x" * 64) for n in range(MAX_SIGNATURES))
    proposal = ceremony.proposal()
    full = replace(proposal, envelope=replace(proposal.envelope, signatures=strangers))
    with pytest.raises(EnvelopeTooLarge):
        add_signature(full, ceremony.owners[0])


# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_first_root_waits_for_its_own_keys(ceremony: Ceremony) -> None:
    proposal = make_proposal(unsigned(ceremony.root))
    ids = ", ".join(short(owner.public_key) for owner in ceremony.owners)
    assert str(progress_of(proposal, NOW)) == f"root role: 0 of 2: waiting for 2 of {ids}"
    signed = signed_by(proposal, ceremony.owners[:2])
    assert str(progress_of(signed, NOW)) == "root role: 2 of 2: enough"
    assert progress_of(signed, NOW).complete


def test_a_next_root_waits_for_both_thresholds(ceremony: Ceremony) -> None:
    new = PrivateKeySigner.generate()
    old = ceremony.owners[0].public_key.key_id
    proposal = ceremony.proposal(AddKey(ROOT, new.public_key), RemoveKey(ROOT, old), SetThreshold(ROOT, 3))
    proposal = signed_by(proposal, [ceremony.owners[0], ceremony.owners[1]])
    rest = ", ".join(short(signer.public_key) for signer in (ceremony.owners[2], new))
    assert str(progress_of(proposal, NOW)).splitlines() == [
        "root role (old): 2 of 2: enough",
        f"root role (new): 1 of 3: waiting for {rest}",
    ]
    assert not progress_of(proposal, NOW).signed
    done = progress_of(signed_by(proposal, [new, ceremony.owners[2]]), NOW)
    assert done.complete
    assert [role.to_json()["waiting_for"] for role in done.roles] == [[], []]
    with pytest.raises(AkpolicyError):
        judge_proposal(proposal, NOW)


def test_a_bundle_waits_for_the_keys_of_its_scope(org: OrgSimulator) -> None:
    proposal, keys = two_of_three(org)
    one = add_signature(proposal, keys[2])
    rest = ", ".join(short(signer.public_key) for signer in keys[:2])
    assert str(progress_of(one, NOW)) == f"bundles of {SCOPE}: 1 of 2: waiting for one of {rest}"
    assert progress_of(add_signature(one, keys[0]), NOW).to_json() == {
        "complete": True,
        "roles": [
            {
                "role": f"bundles of {SCOPE}",
                "threshold": 2,
                "signed": [keys[0].public_key.key_id, keys[2].public_key.key_id],
                "waiting_for": [],
            }
        ],
        "refusal": None,
    }


def test_the_signatures_of_strangers_do_not_count(ceremony: Ceremony) -> None:
    proposal = add_signature(ceremony.proposal(), ceremony.owners[0])
    stranger = PrivateKeySigner.generate()
    envelope = sign(PayloadType.ROOT, proposal.envelope.payload, [ceremony.owners[0], stranger])
    forged = make_proposal(envelope, root=ceremony.envelope)
    assert [len(role.signed) for role in progress_of(forged, NOW).roles] == [1, 1]


def test_a_wrong_signature_by_a_named_key_is_an_error_and_no_progress(ceremony: Ceremony) -> None:
    proposal = ceremony.proposal()
    wrong = EnvelopeSignature(ceremony.owners[0].public_key.key_id, b"x" * 64)
    spoiled = make_proposal(replace(proposal.envelope, signatures=(wrong,)), root=ceremony.envelope)
    with pytest.raises(SignatureInvalid):
        progress_of(spoiled, NOW)
    assert progress_of(add_signature(spoiled, ceremony.owners[0]), NOW).roles[0].signed == (
        ceremony.owners[0].public_key.key_id,
    )


def test_what_hosts_would_refuse_all_the_same_is_not_complete(org: OrgSimulator) -> None:
    signed = add_signature(bundle_proposal(org), org.bundle_signer)
    assert progress_of(signed, NOW).complete
    progress = progress_of(signed, NOW + 400 * 86_400)
    assert progress.signed
    assert not progress.complete
    assert isinstance(progress.refusal, RootExpired)
    assert "hosts would refuse it all the same: RootExpired: " in str(progress)


def test_a_root_of_which_a_host_needs_nothing_more_is_followed_by_it(ceremony: Ceremony) -> None:
    proposal = signed_by(ceremony.proposal(DropRole(RoleName("heartbeat"))), ceremony.owners[1:])
    assert ceremony.judge().judge_root(proposal.envelope, NOW).document.version == 2
    assert isinstance(proposal.envelope, SignedEnvelope)

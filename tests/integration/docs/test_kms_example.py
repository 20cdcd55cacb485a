"""The page's adapter for a KMS, installed as the page says, against a service with the rules of the real one."""

from __future__ import annotations

import json
import sys
import tomllib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import encode_content
from akpolicy.cli import run
from akpolicy.envelope import PayloadType, pae
from akpolicy.errors import EnvelopeTooLarge, SignerUnavailable, SigningFailed
from akpolicy.limits import MAX_PAE_BYTES
from akpolicy.scope import GLOBAL
from akpolicy.signing import PrivateKeySigner, open_signer, sign_document
from akpolicy.strict_json import dump
from akpolicy.trust import Judge
from tests.integration.docs.pages import blocks, read
from tests.simulators.clock import ManualClock
from tests.simulators.kms import MAX_RAW_BYTES, KmsSimulator
from tests.simulators.org import PERMIT_ALL, OrgSimulator, delegation, role
from tests.simulators.tampering import flip_bit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _pytest.capture import CaptureFixture

    from akpolicy.signing import Signer

PAGE = read("docs/operations/signers.md")
URI = "aws-kms:alias/akpolicy-bundle"
ONLINE = [kind for kind in PayloadType if kind is not PayloadType.ROOT]


@pytest.fixture
def kms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsSimulator]:
    """A key service, and the page's package installed as pip would lay it out; every client must be closed."""
    [adapter] = blocks(PAGE, "python")
    [project] = blocks(PAGE, "toml")
    points = tomllib.loads(project.text)["project"]["entry-points"]["akpolicy.signers"]
    (tmp_path / "acme_signers.py").write_text(adapter.text, encoding="utf-8")
    metadata = tmp_path / "acme_signers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-signers\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[akpolicy.signers]", *lines, ""]), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_signers", raising=False)
    service = KmsSimulator()
    for name, module in service.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    service.create_key("alias/akpolicy-bundle")
    yield service
    assert service.open_clients == 0


@pytest.fixture
def signer(kms: KmsSimulator) -> Iterator[Signer]:
    with closing(open_signer(URI)) as opened:
        yield opened


def payload_for(kind: PayloadType, signed_bytes: int) -> bytes:
    """Return a payload whose encoding has that many bytes."""
    payload = bytes(signed_bytes - len(pae(kind, bytes(1000))) + 1000)
    assert len(pae(kind, payload)) == signed_bytes
    return payload


def test_the_limit_of_online_documents_is_what_the_service_signs() -> None:
    assert MAX_PAE_BYTES == MAX_RAW_BYTES


@pytest.mark.parametrize("kind", ONLINE)
def test_every_kind_of_online_document_can_be_signed_up_to_its_limit(
    kind: PayloadType, kms: KmsSimulator, signer: Signer
) -> None:
    envelope = sign_document(kind, payload_for(kind, MAX_PAE_BYTES), [signer])
    [signature] = envelope.signatures
    assert len(signature.signature) == 64
    assert signer.public_key.verifies(signature.signature, envelope.pae())
    with pytest.raises(EnvelopeTooLarge):
        sign_document(kind, payload_for(kind, MAX_PAE_BYTES + 1), [signer])
    assert kms.signed == [envelope.pae()]


def test_a_judge_believes_a_bundle_that_the_service_signed(signer: Signer) -> None:
    org = OrgSimulator("acme", ManualClock())
    judge = Judge("acme", org.anchors)
    bundles = [delegation(GLOBAL, org.platform_signer), delegation(org.scope, signer)]
    root = org.root_envelope(signers=[signer], roles={"root": role(org.root_signer), "bundle": bundles})
    judge.trust_root(root, org.clock.now())
    blob = encode_content(list(PERMIT_ALL.items()))
    document = dump(org.manifest_document(org.scope, blob, len(PERMIT_ALL)))
    envelope = sign_document(PayloadType.BUNDLE, document, [signer])
    assert judge.judge_content(judge.judge_manifest(envelope, org.clock.now()), blob).manifest.scope == org.scope


def test_a_root_that_is_too_large_fails_and_says_what_to_do(kms: KmsSimulator, signer: Signer) -> None:
    many: list[Signer] = [PrivateKeySigner.generate() for _ in range(30)]
    root: dict[str, Any] = OrgSimulator().root_document(signers=many)
    with pytest.raises(SigningFailed, match="sign roots with a key file or a token"):
        sign_document(PayloadType.ROOT, dump(root), [signer])
    assert kms.signed == []
    sign_document(PayloadType.ROOT, dump(root), [many[0]])


def test_the_service_itself_refuses_a_larger_message(kms: KmsSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_signer(URI)) as signer:
        monkeypatch.setattr(sys.modules["acme_signers"], "MAX_PAE_BYTES", 10_000)
        with pytest.raises(SigningFailed, match="ValidationException"):
            signer.sign(bytes(MAX_RAW_BYTES + 1))


@pytest.mark.parametrize("code", ["ThrottlingException", "KMSInternalException", "DependencyTimeoutException"])
def test_a_busy_service_is_unavailable_and_then_signs_again(code: str, kms: KmsSimulator, signer: Signer) -> None:
    kms.fail_next(code)
    with pytest.raises(SignerUnavailable, match=code):
        signer.sign(b"a message")
    assert signer.public_key.verifies(signer.sign(b"a message"), b"a message")


def test_a_service_that_is_not_reached_is_unavailable(kms: KmsSimulator, signer: Signer) -> None:
    kms.vanish_next()
    with pytest.raises(SignerUnavailable, match="cannot be reached"):
        signer.sign(b"a message")


def test_a_disabled_key_is_a_refusal(kms: KmsSimulator, signer: Signer) -> None:
    kms.disabled.add("alias/akpolicy-bundle")
    with pytest.raises(SigningFailed, match="DisabledException"):
        signer.sign(b"a message")


def test_a_service_that_signs_wrongly_makes_no_document(kms: KmsSimulator, signer: Signer) -> None:
    kms.damage = lambda signature: flip_bit(signature, 9)
    with pytest.raises(SigningFailed, match="does not verify"):
        sign_document(PayloadType.BUNDLE, b"{}", [signer])


def test_keys_show_prints_the_anchor_of_a_key_in_the_service(kms: KmsSimulator, capsys: CaptureFixture[str]) -> None:
    expected = kms.create_key("alias/akpolicy-bundle")
    assert run(["keys", "show", URI, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uri": URI, "anchor": expected.anchor, "key_id": expected.key_id}

"""The JSON of thousands of scopes is made in pieces, once for its digest however many ask."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Final, cast

from akpolicy.envelope import EnvelopeSignature, PayloadType, SignedEnvelope
from akpolicy.index import IndexLine, build_index
from akpolicy.persistent import PersistentMap
from akpolicy_server.api.rest.bundles import PIECE_BYTES, BundlesDocument, Identities
from akpolicy_server.store.revisions import RevisionKind, RevisionRecord
from akpolicy_server.views import OrgView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.trust import TrustedRoot

SCOPES: Final = 3000


def record(scope: str, version: int = 1) -> RevisionRecord:
    payload = json.dumps({"scope": scope, "padding": "x" * 700}).encode()
    envelope = SignedEnvelope(PayloadType.BUNDLE, payload, (EnvelopeSignature("k" * 64, b"s" * 64),))
    content = hashlib.sha256(scope.encode()).digest()
    return RevisionRecord(
        scope, 1, version, RevisionKind.PUBLISH, envelope.digest(), envelope, 1, 0, 0, 1, 1, None, "", 1, content, 9
    )


def view(version: int = 1, scopes: int = SCOPES) -> OrgView:
    records = {f"org/acme/team/team-{n:05}": record(f"org/acme/team/team-{n:05}", version) for n in range(scopes)}
    index = build_index(IndexLine(r.scope, 1, version, r.digest.hex()) for r in records.values())
    # Its root is not looked at.
    root = cast("TrustedRoot", None)
    return OrgView("acme", version, root, PersistentMap.of(records), PersistentMap(), index)


def test_a_document_comes_in_pieces_of_bounded_size_and_the_same_each_time() -> None:
    document = BundlesDocument(view(), ())
    pieces = list(document.pieces())
    index_bytes = len(document.view.index.text)
    assert sum(map(len, pieces)) > 3_000_000
    # The index is one part of it; all else is small.
    assert max(map(len, pieces)) <= index_bytes + 2 * PIECE_BYTES
    assert b"".join(pieces) == b"".join(document.pieces())
    found = json.loads(b"".join(pieces))
    assert len(found["bundles"]) == SCOPES
    assert found["index"]["digest"] == document.view.index.digest


def test_the_digest_is_made_once_for_all_who_ask_and_anew_for_a_new_view() -> None:
    async def ask() -> None:
        identities, first = Identities(), view(scopes=50)
        made = 0

        class Counted(BundlesDocument):
            def pieces(self) -> Iterator[bytes]:
                nonlocal made
                made += 1
                return super().pieces()

        document = Counted(first, ())
        found = await asyncio.gather(*(identities.of(document, 0) for _ in range(20)))
        assert made == 1
        body = b"".join(document.pieces())
        assert {identity.digest for identity in found} == {hashlib.sha256(body).hexdigest()}
        assert {identity.size for identity in found} == {len(body)}
        other = await identities.of(BundlesDocument(view(2, scopes=50), ()), 0)
        assert other.digest != found[0].digest

    asyncio.run(ask())


def test_content_is_that_of_the_view_alone() -> None:
    identities, first = Identities(), view(scopes=3)
    digest = next(iter(first.revisions.values())).content_digest
    assert identities.names_content(first, digest)
    assert not identities.names_content(view(2, scopes=0), digest)

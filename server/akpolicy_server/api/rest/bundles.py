"""The bundles of an org as one JSON document, made piece by piece.

Rules:

- A view of the org makes one document, the same bytes each time: the roots that the host lacks, the index, and for each
  scope what was signed, as DSSE JSON. Content is not in it but named by its digest, and served apart.
- Nothing is ever held whole: with 10,000 scopes a document has some 20 MB. It is made once to take its digest, which
  is its strong ETag, and its size, and then once for each host that takes it.
- Digests are kept for the view that is current, and made once, however many hosts ask at the same time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from akpolicy.envelope import SignedEnvelope
    from akpolicy_server.store.revisions import RevisionRecord
    from akpolicy_server.store.roots import RootRecord
    from akpolicy_server.views import OrgView

PIECE_BYTES: Final = 64 * KIB
MAX_KEPT_ORGS: Final = 256
MAX_KEPT_DIGESTS: Final = 16


@dataclass(frozen=True, slots=True)
class BundlesDocument:
    """What a host of an org is to have; `scopes` None: all, with the index."""

    view: OrgView
    roots: Sequence[RootRecord]
    scopes: tuple[str, ...] | None = None

    def pieces(self) -> Iterator[bytes]:
        """Yield the document, in pieces of at least `PIECE_BYTES` but for the last."""
        pending = bytearray()
        for part in self._parts():
            pending += part
            if len(pending) >= PIECE_BYTES:
                yield bytes(pending)
                pending.clear()
        yield bytes(pending)

    def _parts(self) -> Iterator[bytes]:
        view = self.view
        yield b'{"org":' + _json(view.org) + b',"roots":['
        for number, root in enumerate(self.roots):
            yield (b"," if number else b"") + _json({"version": root.version, "envelope": _dsse(root.envelope)})
        yield b'],"index":'
        yield (
            b"null"
            if self.scopes is not None
            else _json({"digest": view.index.digest, "text": view.index.text.decode("utf-8")})
        )
        yield b',"bundles":['
        wanted = sorted(view.revisions) if self.scopes is None else sorted({*self.scopes} & view.revisions.keys())
        for number, scope in enumerate(wanted):
            yield (b"," if number else b"") + _json(_bundle(view.revisions[scope]))
        yield b"]}\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a document from others: its SHA-256 (hex), and its size in bytes."""

    digest: str
    size: int

    @property
    def etag(self) -> str:
        """The strong entity tag."""
        return f'"{self.digest}"'


@dataclass(slots=True)
class _Kept:
    """What is known of the current view of an org."""

    view: OrgView
    contents: frozenset[bytes]
    identities: OrderedDict[int, asyncio.Task[Identity]] = field(default_factory=OrderedDict)


class Identities:
    """The digests of current documents. Runs on the event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def of(self, document: BundlesDocument, root_version: int) -> Identity:
        """Return what tells a document from others; `root_version` is from where on it has roots."""
        if document.scopes is not None:
            return await _identify(document)
        known = self._of_view(document.view).identities
        if root_version not in known:
            known[root_version] = asyncio.create_task(_identify(document))
            if len(known) > MAX_KEPT_DIGESTS:
                known.popitem(last=False)
        return await asyncio.shield(known[root_version])

    def names_content(self, view: OrgView, digest: bytes) -> bool:
        """Whether the hosts of a view need this content."""
        return digest in self._of_view(view).contents

    def _of_view(self, view: OrgView) -> _Kept:
        kept = self._kept.get(view.org)
        if kept is None or kept.view is not view:
            contents = frozenset(revision.content_digest for revision in view.revisions.values())
            kept = self._kept[view.org] = _Kept(view, contents)
        self._kept.move_to_end(view.org)
        if len(self._kept) > MAX_KEPT_ORGS:
            self._kept.popitem(last=False)
        return kept


async def _identify(document: BundlesDocument) -> Identity:
    digest, size = hashlib.sha256(), 0
    for piece in document.pieces():
        digest.update(piece)
        size += len(piece)
        # Others have their turn.
        await asyncio.sleep(0)
    return Identity(digest.hexdigest(), size)


def _bundle(revision: RevisionRecord) -> dict[str, object]:
    return {
        "scope": revision.scope,
        "epoch": revision.epoch,
        "version": revision.version,
        "digest": revision.digest.hex(),
        "envelope": _dsse(revision.envelope),
        "original": None if revision.original is None else _dsse(revision.original),
        "content": {"digest": revision.content_digest.hex(), "size": revision.content_size},
    }


def _dsse(envelope: SignedEnvelope) -> dict[str, object]:
    return envelope.to_dsse_json()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")

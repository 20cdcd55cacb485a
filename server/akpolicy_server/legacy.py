"""What agentkernel's own hosts are served: an org's policies as one text, signed by a key for nothing else.

Rules:

- Only orgs for which the settings name a signer are served. Its key is of that org alone, and no root and no role knows
  it: the layout that it signs is weak (`akpolicy.legacy`), and nobody else believes it.
- Served are `global` and the org's own scope, as one text: the permits that the org replaces are left out, every forbid
  stays. Such hosts know no teams and users, so an org with a layer for one is not served: its forbids would be lost.
- What is served must fit the schema of such hosts (`akpolicy.engine.legacy`). `Schemas` holds publishers to that; it is
  looked at here again, because policies may be older than the settings.
- The version is the org's generation, which grows with every change. The expiry is the first of those of the bundles
  and of the root, and always set: a renewed bundle is a new generation.

Runs on the event loop; checks and signatures run on threads.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.engine.heads import read_heads
from akpolicy.engine.legacy import load_legacy_schema
from akpolicy.engine.verdict import Effect
from akpolicy.errors import LegacyNotServed, LegacyUnsupported, PolicyError, StartupError
from akpolicy.legacy import LegacyBundle, sign_legacy
from akpolicy.limits import MIB
from akpolicy.scope import GLOBAL, org_scope
from akpolicy_server.audience import trusted
from akpolicy_server.contents import policies_in
from akpolicy_server.intake import SchemaOf
from akpolicy_server.store.online_keys import online_key_ids
from akpolicy_server.store.roots import newest_roots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from akpolicy.engine.source import PolicyText
    from akpolicy.signing import Signer
    from akpolicy_server.catalog import Catalog
    from akpolicy_server.intake import Intake
    from akpolicy_server.store.engine import Database
    from akpolicy_server.threads import Threads
    from akpolicy_server.views import OrgView

# A text that clients of 30 seconds' patience still get.
MAX_LEGACY_BYTES: Final = 8 * MIB
_ADVICE: Final = "agentkernel's own hosts cannot be served"


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was made for a view."""

    view: OrgView
    making: asyncio.Task[LegacyBundle]


class LegacyPolicies:
    """Makes flat bundles; one an org and view, however many hosts ask."""

    def __init__(self, catalog: Catalog, threads: Threads, intake: Intake, signers: Mapping[str, Signer]) -> None:
        """`signers` by org."""
        self._catalog = catalog
        self._threads = threads
        self._intake = intake
        self._signers = signers
        self._kept: dict[str, _Kept] = {}

    async def of(self, org: str) -> LegacyBundle:
        """Return the org's flat bundle.

        Raises `LegacyNotServed`, `LegacyUnsupported`, a `SignerError`, `StoreUnavailable`, or `RootNotFound` for an org
        that waits for its first root.
        """
        signer = self._signers.get(org)
        if signer is None:
            raise LegacyNotServed(f"`{org}` has no legacy signer in this server's settings; its hosts need a sidecar")
        view = await self._catalog.view(org)
        kept = self._kept.get(org)
        if kept is None or kept.view is not view or _failed(kept.making):
            kept = self._kept[org] = _Kept(view, asyncio.create_task(self._make(view, signer)))
        return await asyncio.shield(kept.making)

    async def _make(self, view: OrgView, signer: Signer) -> LegacyBundle:
        scopes = [scope for scope in (GLOBAL, org_scope(view.org)) if scope in view.revisions]
        if len(scopes) < len(view.revisions):
            raise LegacyUnsupported(f"{_ADVICE}: `{view.org}` has layers of teams or users, which they do not know")
        _require_apart(signer, view)
        revisions = [view.revisions[scope] for scope in scopes]
        blobs = [await self._catalog.blob(revision.content_digest) for revision in revisions]
        text = await self._threads.policies(self._flat, view.org, scopes, blobs)
        expires_at = min([view.root.document.expires_at, *(revision.expires_at for revision in revisions)])
        return await self._threads.signing(sign_legacy, signer, text, view.seq, expires_at)

    def _flat(self, org: str, scopes: Sequence[str], blobs: Sequence[bytes]) -> str:
        """Return one text of layers that come broad to specific; raise `LegacyUnsupported`. Blocks."""
        layers = [policies_in(blob, scope) for scope, blob in zip(scopes, blobs, strict=True)]
        for layer in layers:
            if problems := self._intake.problems(layer, [SchemaOf(org, load_legacy_schema().text)]):
                raise LegacyUnsupported(f"{_ADVICE}: {problems[0]}")
        counting = [policy for at in range(len(layers)) for policy in _counting(layers[at], layers[at + 1 :])]
        text = "".join(f"{policy.text.strip()}\n" for policy in counting)
        if len(text.encode("utf-8")) > MAX_LEGACY_BYTES:
            raise LegacyUnsupported(f"{_ADVICE}: the policies of `{org}` have more than {MAX_LEGACY_BYTES} bytes")
        return text


def require_legacy_keys_apart(database: Database, signers: Mapping[str, Signer], others: Sequence[Signer]) -> None:
    """Raise `StartupError` if a legacy key is one for anything else, or of two orgs."""
    with database.read() as connection:
        taken = {*online_key_ids(connection), *(signer.public_key.key_id for signer in others)}
        for record in newest_roots(connection):
            taken |= trusted(record).document.keys.keys()
    for org, signer in signers.items():
        key_id = signer.public_key.key_id
        if key_id in taken:
            raise StartupError(
                f"the legacy signer of `{org}` has the key {key_id}, which is for something else too; make one for it "
                "alone with `akpolicy keys generate`"
            )
        taken.add(key_id)


def _require_apart(signer: Signer, view: OrgView) -> None:
    if signer.public_key.key_id in view.root.document.keys:
        raise LegacyUnsupported(f"{_ADVICE}: the root of `{view.org}` names the legacy signer's key; use another one")


def _counting(layer: Sequence[PolicyText], narrower: Sequence[Sequence[PolicyText]]) -> list[PolicyText]:
    """Return what counts of a layer: all but the permits that a policy of a narrower one replaces by its id."""
    replaced = {policy.id for other in narrower for policy in other}
    heads = read_heads(layer)
    return [
        policy
        for policy, head in zip(layer, heads, strict=True)
        if head.effect is Effect.DENY or policy.id not in replaced
    ]


def _failed(making: asyncio.Task[LegacyBundle]) -> bool:
    """Whether something went wrong that may go right the next time: of the policies nothing changes by itself."""
    if not making.done():
        return False
    return making.cancelled() or not isinstance(making.exception(), (type(None), LegacyUnsupported, PolicyError))

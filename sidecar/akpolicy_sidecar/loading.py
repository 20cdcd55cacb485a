"""What the state directory holds, judged like anything from the network and made ready to be enforced.

Rules:

- The whole chain of roots is followed again from the configured anchors, as far as the state says. Roots that came
  before the first one that today's anchors signed are passed over.
- A chain that ends before the state's root is `RootRollback`: somebody removed the newest ones.
- A kept envelope that is not what was accepted last is told apart: not genuine (the judge's own error), genuine and
  older (`CacheRolledBack`), or genuine with damage that no signature covers (`CacheCorrupt`).
- An expired document that is held stays and denies; it is not dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import CacheCorrupt, CacheError, CacheMissing, RootRollback, RootUnanchored
from akpolicy.wire import envelope_from_bytes
from akpolicy_sidecar.layers import ENGINE

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import Judge, TrustedRoot
    from akpolicy_sidecar.cache import StateDirectory
    from akpolicy_sidecar.layers import Enforced, LayerBuilder
    from akpolicy_sidecar.state import RootState, ScopeState


class Loader:
    """Loads the documents of one state directory."""

    def __init__(self, directory: StateDirectory, judge: Judge, builder: LayerBuilder) -> None:
        """Read from `directory`, believe what `judge` believes."""
        self._directory = directory
        self._judge = judge
        self._builder = builder

    def roots(self, kept: RootState, now: float) -> TrustedRoot:
        """Follow the kept roots to the state's; raise the `TrustError` or `CacheError` that says why that cannot be.

        The judge then believes the last root that could be followed, so that the caller must not use it after an error.
        """
        unanchored: RootUnanchored | None = None
        for version in range(kept.first, kept.version + 1):
            # What lies here was followed before; only what comes all at once from outside is limited in number.
            self._judge.begin_walk()
            try:
                self._judge.accept_root(self._judge.judge_root(self._root(version, kept), now))
            except RootUnanchored as error:
                unanchored = error
        root = self._judge.root
        if root is None:
            msg = "no kept root could be read"
            raise unanchored or RootRollback(msg)
        if (root.document.version, root.digest) != (kept.version, kept.digest):
            msg = f"the kept roots lead to version {root.document.version}, not to the one that was trusted last"
            raise RootRollback(msg)
        return root

    def _root(self, version: int, kept: RootState) -> SignedEnvelope:
        try:
            return envelope_from_bytes(self._directory.root(version))
        except CacheMissing as error:
            if version < kept.version:
                raise
            msg = f"the newest root (version {version}) was removed from the state directory"
            raise RootRollback(msg) from error

    def scope(self, scope: str, kept: ScopeState, root: TrustedRoot, now: float) -> Enforced:
        """Return what is enforced for a scope; raise the error that says why it cannot be.

        The org's own scope comes first: it says which schema all others fit.
        """
        envelope, intact = self._envelope(kept.envelope)
        original, original_intact = self._envelope(kept.original) if kept.original else (None, True)
        verified = self._judge.judge_manifest(envelope, now, held=True, original=original)
        if not (intact and original_intact) or verified.manifest.scope != scope:
            msg = f"the documents that the state names for `{scope}` are not those that were kept"
            raise CacheCorrupt(msg)
        if (verified.manifest.content is None) != (kept.blob is None):
            msg = f"the state names other content for `{scope}` than its document"
            raise CacheCorrupt(msg)
        blob = self._directory.blob(kept.blob) if kept.blob else None
        bundle, parsed_before = self._judge.judge_content(verified, blob), kept.engine == ENGINE
        schema = self._builder.schema_with(bundle, parsed_before=parsed_before)
        expires_at = root.document.expires_at
        entry = self._builder.build(bundle, schema, root_expires_at=expires_at, parsed_before=parsed_before)
        self._builder.use(schema)
        return entry

    def has_blob(self, digest: str) -> bool:
        """Whether content is here and sound, so that the server need not send it again."""
        try:
            self._directory.blob(digest)
        except CacheError:
            return False
        return True

    def _envelope(self, digest: str) -> tuple[SignedEnvelope, bool]:
        kept = self._directory.envelope(digest)
        return envelope_from_bytes(kept.data), kept.intact

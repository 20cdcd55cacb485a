"""A host without a network: takes what the server's view has for its org and judges it, as a sidecar does.

`next_root` makes the roots that its org's owners would: the newest one with changes, signed by the keys of the vault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from akpolicy.engine.files import permit_ids
from akpolicy.engine.source import PolicyText
from akpolicy.envelope import PayloadType
from akpolicy.errors import TrustError
from akpolicy.keys import ANCHOR_PREFIX, AnchorSet, TrustAnchor, parse_anchor
from akpolicy.root import Delegation, Role, Root, RootKey, parse_root
from akpolicy.signing import PrivateKeySigner, sign_document
from akpolicy.trust import Judge, VerifiedBundle, refuse_ungranted
from akpolicy_server.store.blobs import load_blob
from akpolicy_server.store.roots import newest_root, roots_after
from akpolicy_server.views import OrgView, read_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.keys import PublicKey
    from akpolicy.signing import Signer
    from akpolicy_server.store.online_keys import KeyRole
    from akpolicy_server.store.revisions import RevisionRecord
    from tests.unit.server.conftest import Core


class Follower:
    """A host of an org that looks when it is told to. Whatever it would refuse is raised."""

    def __init__(self, core: Core, org: str = "acme", anchors: Sequence[str] = (), threshold: int = 1) -> None:
        self._core = core
        self._org = org
        trusted = [TrustAnchor(parse_anchor(anchor)) for anchor in anchors or [core.anchors[org]]]
        self.judge = Judge(org, AnchorSet(tuple(trusted), threshold))
        self.enforced: dict[str, VerifiedBundle] = {}
        self._revisions: dict[str, RevisionRecord] = {}
        self._view: OrgView | None = None

    def follow(self) -> OrgView:
        """Take everything that is current; end up with exactly what the index names."""
        now = self._core.clock.now()
        self.judge.begin_walk()
        with self._core.database.read() as connection:
            view = read_view(connection, self._org)
            # Read from the one before, it is the same.
            assert read_view(connection, self._org, self._view) == view
            self._view = view
            known = self.judge.root.document.version if self.judge.root else 0
            for root in roots_after(connection, self._org, known):
                self.judge.accept_root(self.judge.judge_root(root.envelope, now))
            self.judge.check_root(now)
            self._drop_unsupported(now)
            for revision in view.revisions.values():
                self._take(revision, load_blob(connection, revision.content_digest), now)
        named = {scope: (line.epoch, line.version, line.digest) for scope, line in view.index.lines.items()}
        assert named == {
            scope: (bundle.manifest.epoch, bundle.manifest.version, bundle.digest)
            for scope, bundle in self.enforced.items()
        }
        return view

    def policies(self, scope: str) -> list[str]:
        """Return the ids of the policies that it enforces for a scope."""
        content = self.enforced[scope].content
        assert content is not None
        return [entry.id for entry in content.content.policies]

    def texts(self, scope: str) -> list[str]:
        """Return the texts of the policies that it enforces for a scope."""
        content = self.enforced[scope].content
        assert content is not None
        return [entry.text for entry in content.content.policies]

    def _take(self, revision: RevisionRecord, blob: bytes | None, now: float) -> None:
        is_held = revision.scope in self.enforced and self.enforced[revision.scope].digest == revision.digest.hex()
        verified = self.judge.judge_manifest(
            revision.envelope, now, held=is_held, expected_scope=revision.scope, original=revision.original
        )
        bundle = self.judge.judge_content(verified, blob)
        assert bundle.content is not None
        policies = [PolicyText(entry.id, entry.text) for entry in bundle.content.content.policies]
        refuse_ungranted(bundle, permit_ids(policies))
        assert verified.manifest.expires_at == revision.expires_at
        # What the server takes to be the limit of a rollback is that of the strictest host.
        assert verified.manifest.min_version <= revision.min_version
        self.judge.advance(bundle)
        self.enforced[revision.scope] = bundle
        self._revisions[revision.scope] = revision

    def _drop_unsupported(self, now: float) -> None:
        for scope, revision in self._revisions.items():
            if scope not in self.enforced:
                continue
            try:
                self.judge.judge_manifest(revision.envelope, now, held=True, original=revision.original)
            except TrustError:
                del self.enforced[scope]


# --- roots ------------------------------------------------------------------------------------------------------------


def current_root(core: Core, org: str = "acme") -> Root:
    """Return an org's newest root."""
    with core.database.read() as connection:
        record = newest_root(connection, org)
    assert record is not None
    return parse_root(record.envelope.payload)[0]


def next_root(
    core: Core, org: str = "acme", *, signed_by: Iterable[Signer] | None = None, **changes: Any
) -> SignedEnvelope:
    """Return the next root of an org with some fields replaced; by default the current root keys sign."""
    document = current_root(core, org)
    changed = Root.model_validate(
        {**document.model_dump(), "version": document.version + 1, "issued_at": int(core.clock.now()), **changes}
    )
    signers = list(signed_by) if signed_by is not None else [core.vault.load(key) for key in document.roles.root.keys]
    return sign_document(PayloadType.ROOT, changed.to_bytes(), signers)


def with_keys(core: Core, org: str, *keys: PublicKey, valid_for: int = 730 * 86_400) -> dict[str, Any]:
    """Return the keys of an org's newest root and more, valid from now on for so many seconds."""
    now = int(core.clock.now())
    more = {
        key.key_id: RootKey(
            public_key=key.anchor.removeprefix(ANCHOR_PREFIX), valid_from=now, valid_until=now + valid_for
        )
        for key in keys
    }
    return {key_id: entry.model_dump() for key_id, entry in {**current_root(core, org).keys, **more}.items()}


def with_role(
    core: Core, org: str, kind: str, scope: str, *keys: PublicKey, threshold: int = 1, grants: bool = True
) -> dict[str, Any]:
    """Return the roles of an org's newest root with one delegation replaced; without keys, with it left out."""
    roles = current_root(core, org).roles
    kept = [d for d in getattr(roles, kind) if d.prefix != scope]
    if keys:
        ids = [key.key_id for key in keys]
        kept.append(Delegation(prefix=scope, keys=ids, threshold=threshold, grants=grants))
    return roles.model_copy(update={kind: kept}).model_dump()


def heartbeat_role(core: Core, org: str, *keys: PublicKey) -> dict[str, Any]:
    """Return the roles of an org's newest root with other heartbeat keys, or none."""
    role = Role(keys=[key.key_id for key in keys], threshold=1) if keys else None
    return current_root(core, org).roles.model_copy(update={"heartbeat": role}).model_dump()


def replace_key(
    core: Core, org: str, kind: KeyRole, scope: str, *, revoke: bool = True
) -> tuple[PublicKey, SignedEnvelope]:
    """Make a new online key for a role; return it and the root that names it in place of the old one."""
    old = next(d for d in getattr(current_root(core, org).roles, kind.value) if d.prefix == scope).keys[0]
    owner = None if scope == "global" else org
    # The newest key of an owner is told by its time.
    core.clock.advance(1)
    key = core.online_keys.create(core.admin, owner, kind)
    revoked = {**current_root(core, org).revoked, **({old: int(core.clock.now())} if revoke else {})}
    keys = with_keys(core, org, key)
    envelope = next_root(core, org, keys=keys, roles=with_role(core, org, kind.value, scope, key), revoked=revoked)
    return key, envelope


def new_signers(count: int) -> list[PrivateKeySigner]:
    """Return keys that no server holds."""
    return [PrivateKeySigner.generate() for _ in range(count)]

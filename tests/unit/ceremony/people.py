"""Who takes part in a key ceremony: root keys in several hands, a server's online keys, and the roots they agree on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.keys import AnchorSet, TrustAnchor
from akpolicy.proposal import Proposal, add_signature, make_proposal
from akpolicy.root_change import next_root
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust import Judge
from akpolicy_server.first_root import FirstKeys, first_root
from tests.simulators.clock import START
from tests.simulators.org import sign

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.root import Root
    from akpolicy.root_change import Change
    from akpolicy.signing import Signer

NOW: Final = int(START)
ORG: Final = "acme"
SCOPE: Final = "org/acme"


class Ceremony:
    """An org with `count` root keys of which `threshold` sign, its first root signed."""

    def __init__(self, count: int = 3, threshold: int = 2) -> None:
        self.owners = [PrivateKeySigner.generate() for _ in range(count)]
        self.online = [PrivateKeySigner.generate() for _ in range(5)]
        self.bundle_signer, self.rollback_signer, self.heartbeat_signer, self.platform_signer, _ = self.online
        roots = tuple(owner.public_key for owner in self.owners)
        keys = FirstKeys(roots, threshold, *(signer.public_key for signer in self.online))
        self.root = first_root(ORG, keys, NOW)
        self.envelope = sign(PayloadType.ROOT, self.root.to_bytes(), self.owners[:threshold])

    @property
    def anchors(self) -> AnchorSet:
        """The anchors of a host that trusts the first root's keys."""
        return AnchorSet(tuple(TrustAnchor(owner.public_key) for owner in self.owners), self.root.roles.root.threshold)

    def judge(self) -> Judge:
        """Return the judge of a host that trusts the first root."""
        judge = Judge(ORG, self.anchors)
        judge.trust_root(self.envelope, NOW)
        return judge

    def next(self, *changes: Change, now: int = NOW) -> Root:
        """Return the root after the first one."""
        return next_root(self.root, changes, now)

    def proposal(self, *changes: Change) -> Proposal:
        """Return the proposal of the root after the first one, unsigned."""
        return make_proposal(unsigned(self.next(*changes)), root=self.envelope)


def unsigned(root: Root) -> SignedEnvelope:
    """Return a root that waits for signatures."""
    return SignedEnvelope(PayloadType.ROOT, root.to_bytes(), ())


def signed_by(proposal: Proposal, signers: Iterable[Signer]) -> Proposal:
    """Return the proposal with these signatures."""
    for signer in signers:
        proposal = add_signature(proposal, signer)
    return proposal


def fewest(old: Root, new: Root, signers: Sequence[Signer]) -> list[Signer]:
    """Return as few signers as both thresholds allow: keys of both roles count twice, so they come first."""
    chosen: list[Signer] = []
    both = set(old.roles.root.keys) & set(new.roles.root.keys)
    in_order = sorted(signers, key=lambda signer: signer.public_key.key_id not in both)
    for signer, role in itertools.product(in_order, (old.roles.root, new.roles.root)):
        have = sum(other.public_key.key_id in role.keys for other in chosen)
        if signer.public_key.key_id in role.keys and have < role.threshold and signer not in chosen:
            chosen.append(signer)
    return chosen

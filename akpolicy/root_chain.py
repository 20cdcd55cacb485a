"""Following an org's roots from its anchors to the newest one, as a host does.

Rules:

- The judge of hosts judges each root. The first that is believed is the oldest one on offer that the anchors signed.
- Whether the newest one has expired is not asked: who makes the next root must be able to follow an expired one.
- Without anchors, the oldest root on offer is taken at its word. Who does that says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import RootMissing, RootUnanchored
from akpolicy.keys import AnchorSet, TrustAnchor
from akpolicy.root import parse_root
from akpolicy.trust import Judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import TrustedRoot


def follow(org: str, roots: Sequence[SignedEnvelope], anchors: AnchorSet | None, now: float) -> TrustedRoot:
    """Return the newest of an org's roots, which are given oldest first, after judging the way to it.

    Raises `RootMissing` if there is none, `RootUnanchored` if the anchors signed none, or the `TrustError` with which a
    host would refuse one of them.
    """
    if not roots:
        msg = f"there is no root of `{org}` yet; make its first one with `akpolicy root init`"
        raise RootMissing(msg)
    judge = Judge(org, own_anchors(roots[0]) if anchors is None else anchors)
    unanchored: RootUnanchored | None = None
    for envelope in roots:
        judge.begin_walk()
        try:
            judge.accept_root(judge.judge_root(envelope, now))
        except RootUnanchored as error:
            unanchored = unanchored or error
    if judge.root is None:
        raise unanchored or RootMissing(f"there is no root of `{org}`")
    return judge.root


def own_anchors(root: SignedEnvelope) -> AnchorSet:
    """Return the root keys of a root as the anchors that take it at its word."""
    document, keys = parse_root(root.payload)
    return AnchorSet(
        tuple(TrustAnchor(keys[key_id]) for key_id in document.roles.root.keys), document.roles.root.threshold
    )

"""The newest root of an org from the server, followed from anchors as a host follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from akpolicy.cli.clock import now
from akpolicy.cli.output import print_note, working
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.cli.anchors import Anchors
    from akpolicy.client.publishing import PublishingClient
    from akpolicy.keys import AnchorSet, PublicKey
    from akpolicy.role_name import RoleName
    from akpolicy.signing import Signer
    from akpolicy.trust import TrustedRoot


def newest_root(client: PublishingClient, org: str, anchors: AnchorSet | None) -> TrustedRoot:
    """Return the newest root; without anchors the server is believed, and that is said.

    Raises `RootMissing`, `RootUnanchored`, or the `TrustError` with which a host would refuse one of the roots.
    """
    from akpolicy.root_chain import follow

    with working(f"fetching the roots of {org}"):
        roots = client.roots(org)
    if anchors is None:
        print_note(f"the roots of {org} are taken as the server sent them: no anchor verified them")
    return follow(org, [root.envelope for root in roots], anchors, now())


def anchors_or_keys(anchors: Anchors, signers: Sequence[Signer]) -> AnchorSet:
    """Return the anchors that were given, else the keys that are about to sign: each is believed by its owner."""
    from akpolicy.keys import AnchorSet, TrustAnchor

    if anchors.given:
        return anchors.parsed()
    keys = {signer.public_key.raw: signer.public_key for signer in signers}
    return AnchorSet(tuple(TrustAnchor(key) for key in keys.values()))


def new_online_key(client: PublishingClient, org: str, role: RoleName) -> PublicKey:
    """Have the server make a key for an online role; raise `UsageError` for a role whose keys it does not hold."""
    from akpolicy.keys import parse_anchor
    from akpolicy.scope import GLOBAL

    if role.kind == "root":
        raise UsageError("the server holds no root keys; make one with `akpolicy keys generate`")
    # The platform's keys sign `global`, for all orgs.
    with working(f"making a key for {role}"):
        made = client.create_online_key("" if role.prefix == GLOBAL else org, role.kind)
    return parse_anchor(made.public_key)

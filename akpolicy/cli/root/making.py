"""What the commands that make a next root share: its life, and the way from changes to a proposal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.clock import now
from akpolicy.cli.durations import seconds
from akpolicy.cli.option_groups import OptionGroup
from akpolicy.cli.root.fetch import new_online_key

if TYPE_CHECKING:
    from akpolicy.client.publishing import PublishingClient
    from akpolicy.keys import PublicKey
    from akpolicy.proposal import Proposal
    from akpolicy.role_name import RoleName
    from akpolicy.root import Root
    from akpolicy.root_change import Change
    from akpolicy.trust import TrustedRoot

    # Returns the changes; it is given what makes a key for an online role.
    ChangesWith = Callable[[Callable[[RoleName], PublicKey]], list[Change]]


@dataclass(frozen=True)
class RootLife(OptionGroup):
    """How long a new root lives, and the keys that it brings in."""

    expires: Annotated[str, typer.Option(metavar="TIME", help="How long the new root is valid.")] = "365d"
    key_lifetime: Annotated[
        str, typer.Option(metavar="TIME", help="How long keys that come in or are extended are valid.")
    ] = "730d"

    def check(self) -> None:
        """Raise `UsageError` for a time that is none."""
        self._seconds()

    def next_root(self, current: Root, changes: list[Change]) -> Root:
        """Return the root after `current`, issued now; raise `UsageError`."""
        from akpolicy.root_change import next_root

        lifetime_s, key_lifetime_s = self._seconds()
        return next_root(current, changes, now(), lifetime_s=lifetime_s, key_lifetime_s=key_lifetime_s)

    def _seconds(self) -> tuple[int, int]:
        return seconds(self.expires, "--expires"), seconds(self.key_lifetime, "--key-lifetime")


def next_proposal(
    client: PublishingClient, current: TrustedRoot, life: RootLife, changes_with: ChangesWith
) -> Proposal:
    """Return the unsigned proposal of the root after `current`; the server makes the online keys that it needs.

    Raises `UsageError` for changes that cannot be made, before the server makes any key.
    """
    from akpolicy.envelope import PayloadType, SignedEnvelope
    from akpolicy.proposal import make_proposal

    life.next_root(current.document, changes_with(_any_key))
    org = current.document.org
    root = life.next_root(current.document, changes_with(lambda role: new_online_key(client, org, role)))
    return make_proposal(SignedEnvelope(PayloadType.ROOT, root.to_bytes(), ()), root=current.envelope)


def _any_key(_role: RoleName) -> PublicKey:
    """Return a key that nobody has, to see whether a root can be made."""
    from akpolicy.signing import PrivateKeySigner

    return PrivateKeySigner.generate().public_key

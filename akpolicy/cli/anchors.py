"""The options that say whom to believe: trust anchors, or the server's word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.option_groups import OptionGroup
from akpolicy.errors import TrustError, UsageError

if TYPE_CHECKING:
    from akpolicy.keys import AnchorSet


@dataclass(frozen=True)
class Anchors(OptionGroup):
    """Trust anchors, as hosts are configured with them."""

    anchor: Annotated[
        list[str] | None,
        typer.Option("--anchor", metavar="ed25519:...", help="A trust anchor that verifies roots. May be repeated."),
    ] = None
    anchor_threshold: Annotated[
        int, typer.Option("--anchor-threshold", min=1, metavar="N", help="How many of the anchors must have signed.")
    ] = 1

    @property
    def given(self) -> bool:
        """Whether there is an anchor."""
        return bool(self.anchor)

    def parsed(self) -> AnchorSet:
        """Return the anchors; raise `UsageError` for what is none."""
        return parse_anchors(self.anchor or [], self.anchor_threshold)


@dataclass(frozen=True)
class Belief(Anchors):
    """Trust anchors, or the decision to do without."""

    trust_server: Annotated[
        bool, typer.Option("--trust-server", help="Believe the roots that the server sends, without an anchor.")
    ] = False

    def chosen(self) -> AnchorSet | None:
        """Return the anchors, None for the server's word; raise `UsageError` unless one of the two is chosen."""
        if self.given == self.trust_server:
            raise UsageError(
                "say whom to believe: `--anchor ed25519:...`, as in trust_anchors.keys of a sidecar, "
                "or `--trust-server` to take the server's word"
            )
        return self.parsed() if self.given else None


@dataclass(frozen=True)
class AnchorText:
    """An anchor as an option has it: valid at any time."""

    key: str
    valid_from: int | None = None
    valid_until: int | None = None


def parse_anchors(texts: list[str], threshold: int) -> AnchorSet:
    """Read anchors; raise `UsageError`."""
    from akpolicy.keys import AnchorSet

    try:
        return AnchorSet.parse([AnchorText(text) for text in texts], threshold)
    except TrustError as error:
        raise UsageError(f"--anchor: {error.message}") from error

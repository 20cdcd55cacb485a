"""The policies of an order, which are in memory once: a publish may have 32 MiB of them.

Rules:

- Files are cut at once, and each is forgotten once it is cut.
- Once content was made of the policies they are in that, and nowhere else. Who needs them again, because an org's
  schema changed meanwhile and the order is worked on anew, gets them from there, with their files and lines as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from akpolicy.engine.files import Findings, cut
from akpolicy_server.contents import policies_in

if TYPE_CHECKING:
    from akpolicy_server.judging import ProposedContent
    from akpolicy_server.orders import Sources


class Submission:
    """What an order's files hold. For one thread."""

    def __init__(self, sources: Sources) -> None:
        """Take the files over."""
        self._cut: Findings | None = cut(sources.drain())
        self._blob = b""
        self._places: list[tuple[str, int]] = []

    def findings(self) -> Findings:
        """Return the policies, and what is wrong with the files. Do not keep it for longer than needed."""
        if self._cut is not None:
            return self._cut
        policies = zip(policies_in(self._blob), self._places, strict=True)
        return Findings(tuple(replace(policy, source=source, line=line) for policy, (source, line) in policies), ())

    def encoded(self, content: ProposedContent) -> None:
        """Note that this content was made of the policies."""
        if self._cut is not None:
            self._places = [(policy.source, policy.line) for policy in self._cut.policies]
            self._cut = None
        self._blob = content.blob

"""A host that trusts an org and enforces version 1 of its scope: where every attack of these tests begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.trust import Judge
from tests.simulators.clock import ManualClock
from tests.simulators.messages import check_text
from tests.simulators.org import OrgSimulator

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import AkpolicyError
    from akpolicy.trust import VerifiedBundle


class Scene:
    """An org, a clock, and a judge that believes the org's root and has accepted a first bundle."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.org = OrgSimulator("acme", self.clock)
        self.judge = Judge("acme", self.org.anchors)
        self.root = self.trust(self.judge)
        self.first, self.first_blob = self.org.bundle_envelope(self.org.scope)
        self.accept(self.first, self.first_blob)

    @property
    def now(self) -> float:
        return self.clock.now()

    def trust(self, judge: Judge, **root: Any) -> SignedEnvelope:
        """Let a judge trust a root of the org, with these fields."""
        envelope = self.org.root_envelope(**root)
        judge.trust_root(envelope, self.now)
        return envelope

    def with_root(self, **root: Any) -> Scene:
        """Begin anew with another root, nothing accepted yet."""
        self.judge = Judge("acme", self.org.anchors)
        self.root = self.trust(self.judge, **root)
        return self

    def judged(self, envelope: SignedEnvelope, blob: bytes | None, *, held: bool = False) -> VerifiedBundle:
        verified = self.judge.judge_manifest(envelope, self.now, held=held)
        return self.judge.judge_content(verified, blob)

    def accept(self, envelope: SignedEnvelope, blob: bytes | None) -> VerifiedBundle:
        """Judge a bundle and move its mark, as a host does."""
        bundle = self.judged(envelope, blob)
        self.judge.advance(bundle)
        return bundle

    def refuses(
        self, error: type[AkpolicyError], envelope: SignedEnvelope, blob: bytes | None = None, *, held: bool = False
    ) -> AkpolicyError:
        """Assert that the bundle is refused with exactly this error, and that what the judge believes is unchanged."""
        before = (self.judge.marks, self.judge.root)
        with pytest.raises(error) as caught:
            self.judged(envelope, blob, held=held)
        return self._unmoved(error, caught.value, before)

    def refuses_root(self, error: type[AkpolicyError], envelope: SignedEnvelope, judge: Judge | None = None) -> None:
        """Assert that a root is refused with exactly this error, by a new host or by the given judge."""
        judge = judge or Judge("acme", self.org.anchors)
        before = judge.root
        with pytest.raises(error) as caught:
            judge.trust_root(envelope, self.now)
        assert type(caught.value) is error
        assert judge.root is before
        check_message(caught.value)

    def _unmoved(
        self, error: type[AkpolicyError], caught: AkpolicyError, before: tuple[object, object]
    ) -> AkpolicyError:
        assert type(caught) is error
        assert (self.judge.marks, self.judge.root) == before
        check_message(caught)
        # The host still enforces what it had: the very same document is accepted quietly.
        mark = self.judge.marks.get(self.org.scope)
        if mark is not None and mark.digest == self.first.digest().hex():
            held = self.judge.judge_manifest(self.first, self.now, held=True)
            assert not held.fresh
        return caught


def check_message(error: AkpolicyError) -> None:
    """Assert that a message is as every text is, and begins lower-case or with a quotation or a number."""
    check_text(error.message)
    assert error.message[0].islower() or error.message[0] in "`0123456789"

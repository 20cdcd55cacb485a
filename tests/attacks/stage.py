"""Where the attacks take place: a host that enforces policy, and what must be so after each attack.

Rules:

- An attack has its number in the acceptance list (`catalogue`), a sentence, and the one error that it must lead to.
- The host is whole except for sockets (`HostSimulator`), its documents are really signed, its disk is a real directory,
  its clock is the test's.
- After an attack: the error was answered with a Nack and counted in a metric; what was enforced is enforced, on disk
  too; the decision is what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from akpolicy.engine.decide import Effect
from tests.simulators.host import HostSimulator
from tests.simulators.messages import check_text
from tests.simulators.office import bundle_messages, root_message
from tests.simulators.org import delegation, role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import AkpolicyError
    from akpolicy.signing import Signer
    from akpolicy.v1 import distribution_pb2 as pb
    from tests.simulators.org import OrgSimulator

    Messages = list[pb.SubscribeResponse]

ORG: Final = "org/acme"
TEAM: Final = "org/acme/team/a"
PERMIT: Final = {"permit-all": '@id("permit-all") permit (principal, action, resource);'}
# Denies nothing that the decision of `REQUEST` depends on.
FORBID: Final = {"forbid-ssh": '@id("forbid-ssh") forbid (principal, action == AgentKernel::Action::"SSH", resource);'}


@dataclass(frozen=True)
class Attack:
    """One entry of the acceptance list. `act` depends on the group; `error` is None where nothing is wrong."""

    number: int
    sentence: str
    error: type[AkpolicyError] | None
    act: Callable[..., Any]

    def __str__(self) -> str:
        return f"A-{self.number:02d} {self.sentence}"


@dataclass
class Register:
    """Every attack that some test carries out, for the catalogue."""

    attacks: list[Attack] = field(default_factory=list)

    def table(self, *rows: tuple[int, str, type[AkpolicyError] | None, Callable[..., Any]]) -> list[Attack]:
        """Add rows and return them."""
        attacks = [Attack(*row) for row in rows]
        self.attacks += attacks
        return attacks

    def single(self, number: int, sentence: str, error: type[AkpolicyError] | None) -> pytest.MarkDecorator:
        """Add one attack that a test carries out by itself, as the mark of that test."""
        attack = Attack(number, sentence, error, lambda: None)
        self.attacks.append(attack)
        return pytest.mark.parametrize("attack", [attack], ids=str)


REGISTER: Final = Register()


class Stage:
    """A host that trusts an org and enforces version 2 of `global` and of the org's scope."""

    def __init__(self, place: Path, **root: Any) -> None:
        """Set up; `root` are fields of the root that differ, among them `signers`, which adds keys."""
        self.host = HostSimulator(place)
        self.org = self.host.org
        self.office = self.host.office
        if root:
            self.office.roots = [self.org.root_envelope(**root)]
        self.old: dict[str, tuple[SignedEnvelope, bytes]] = {}

    def enforce(self, *, signed_by: Sequence[Signer] | None = None) -> Stage:
        """Publish twice, so that there is something to go back to, and take it in."""
        for policies, scope in ((PERMIT, "global"), (FORBID, ORG)):
            signers = signed_by if scope == ORG else None
            envelope, blob = self.org.bundle_envelope(scope, policies, signed_by=signers, min_version=1)
            self.old[scope] = (envelope, blob)
            self.office.hold(scope, envelope, blob)
        self.host.connect()
        for policies, scope in ((PERMIT, "global"), (FORBID, ORG)):
            signers = signed_by if scope == ORG else None
            self.host.update({**policies, "more": _more(scope)}, scope=scope, signed_by=signers, min_version=1)
        assert self.host.versions == {"global": 2, ORG: 2}
        assert self.host.nacks == []
        self.assert_decides()
        return self

    # --- what must be so ----------------------------------------------------------------------------------------------

    def facts(self) -> tuple[Any, ...]:
        """Return what no attack may change."""
        root = self.host.updater.root
        state = self.host.directory.state
        return self.host.digests, state.scopes, state.root, root.version if root else 0

    def assert_decides(self) -> None:
        """Assert that the host decides by the policies that were published."""
        verdict = self.host.decide()
        assert verdict is not None
        assert verdict.effect is Effect.ALLOW
        assert {policy.policy_id for policy in verdict.determining} == {"permit-all"}

    def refuses(self, attack: Attack, messages: Messages, *, decides: bool = True) -> None:
        """Let the messages come and assert that they lead to the attack's error, and to nothing else."""
        before, nacks = self.facts(), len(self.host.nacks)
        assert attack.error is not None
        code = attack.error.__name__
        counted = self.host.counted(code)
        self.host.hear(*messages)
        new = self.host.nacks[nacks:]
        assert new == [code], f"expected one Nack with {code}, not {new}: {self._details()}"
        assert self.host.counted(code) > counted
        assert self.facts() == before
        if decides:
            self.assert_decides()
        check_text(self._details())
        self.assert_survives_restart(before, decides=decides)

    def refuses_without_policy(self, attack: Attack, messages: Messages) -> None:
        """As `refuses`, on a host that denies everything already: it still does, and what it has stays."""
        before, nacks = self.facts(), len(self.host.nacks)
        assert attack.error is not None
        code = attack.error.__name__
        counted = self.host.counted(code)
        self.host.hear(*messages)
        assert self.host.nacks[nacks:] == [code], self._details()
        assert self.host.counted(code) > counted
        assert self.facts() == before
        assert self.host.decide() is None
        check_text(self._details())

    def assert_survives_restart(self, before: tuple[Any, ...], *, decides: bool = True) -> None:
        """Assert that what is on disk is what was enforced."""
        again = self.host.restart()
        assert again.troubles == ()
        self.host = again
        assert self.facts() == before
        if decides:
            self.assert_decides()

    def _details(self) -> str:
        return next((m.nack.detail for m in reversed(self.host.sent) if m.HasField("nack")), "")


def bundle_of(envelope: SignedEnvelope, blob: bytes | None, original: SignedEnvelope | None = None) -> Messages:
    """Return the messages of a bundle of the org's scope, as the server would name it."""
    return bundle_messages(envelope, blob, original=original, scope=ORG)


def root_of(envelope: SignedEnvelope) -> Messages:
    """Return the messages of a root."""
    return [root_message(envelope)]


def roles_with(org: OrgSimulator, *bundle: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return roles in which the root key signs roots and these delegations bundles."""
    usual = {
        "root": role(org.root_signer),
        "bundle": [delegation("global", org.platform_signer), *bundle],
        "rollback": [delegation("global", org.rollback_signer), delegation(ORG, org.rollback_signer)],
        "heartbeat": role(org.heartbeat_signer),
    }
    return {**usual, **more}


def _more(scope: str) -> str:
    return f'@id("more") forbid (principal, action == AgentKernel::Action::"PortMap", resource); // {scope}'

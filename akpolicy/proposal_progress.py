"""How far a proposal is: who signed, who is waited for, and whether a host would accept it.

Rules:

- `akpolicy.trust` counts: distinct keys whose signatures verify. Nothing here decides what is enough but by asking it.
- A proposal is complete when the judge of a host that believes the root in the file accepts the document. That root is
  taken at its word; whether it is the true one is for an anchor to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy.errors import TrustError
from akpolicy.root import Root
from akpolicy.root_chain import own_anchors
from akpolicy.root_difference import short_id
from akpolicy.trust import Judge
from akpolicy.trust.signatures import role_signers

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.proposal import Proposal, SignerRole


@dataclass(frozen=True, slots=True)
class RoleProgress:
    """How far one role is: the ids of the keys that signed, and of those that may still."""

    name: str
    threshold: int
    signed: tuple[str, ...]
    waiting: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many more keys must sign."""
        return max(0, self.threshold - len(self.signed))

    def __str__(self) -> str:
        text = f"{self.name}: {len(self.signed)} of {self.threshold}"
        if not self.missing:
            return f"{text}: enough"
        which = "" if self.missing == len(self.waiting) else f"{self.missing if self.missing > 1 else 'one'} of "
        return f"{text}: waiting for {which}{', '.join(short_id(key_id) for key_id in self.waiting)}"

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "role": self.name,
            "threshold": self.threshold,
            "signed": list(self.signed),
            "waiting_for": list(self.waiting) if self.missing else [],
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a proposal is. `refusal` is what a host would say, if every threshold is reached and it refuses still."""

    roles: tuple[RoleProgress, ...]
    refusal: TrustError | None

    @property
    def signed(self) -> bool:
        """Whether every threshold is reached."""
        return not any(role.missing for role in self.roles)

    @property
    def complete(self) -> bool:
        """Whether a host would accept it."""
        return self.signed and self.refusal is None

    def __str__(self) -> str:
        lines = [str(role) for role in self.roles]
        if self.refusal is not None:
            lines.append(f"hosts would refuse it all the same: {self.refusal.code}: {self.refusal.message}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        refusal = None if self.refusal is None else {"code": self.refusal.code, "message": self.refusal.message}
        return {"complete": self.complete, "roles": [role.to_json() for role in self.roles], "refusal": refusal}


def progress_of(proposal: Proposal, now: float) -> Progress:
    """Say how far a proposal is at `now` (epoch seconds); raise `SignatureInvalid` if a signature in it is wrong."""
    roles = tuple(_role_progress(role, proposal.envelope) for role in proposal.signer_roles())
    refusal = None
    if not any(role.missing for role in roles):
        try:
            judge_proposal(proposal, now)
        except TrustError as error:
            refusal = error
    return Progress(roles, refusal)


def judge_proposal(proposal: Proposal, now: float) -> None:
    """Judge as a host that believes the root in the file and holds nothing else; raise its `TrustError`.

    A first root is judged by a host whose anchors are that root's own root keys.
    """
    if isinstance(proposal.document, Root):
        base = proposal.envelope if proposal.root is None else proposal.root.envelope
        judge = _believer(base, proposal.document.org, now)
        judge.judge_root(proposal.envelope, now)
        return
    if proposal.root is None:
        msg = "a bundle's proposal has a root"
        raise RuntimeError(msg)
    judge = _believer(proposal.root.envelope, proposal.root.document.org, now)
    judge.judge_manifest(proposal.envelope, now)


def _role_progress(role: SignerRole, envelope: SignedEnvelope) -> RoleProgress:
    signed = set(role_signers(envelope, role.role, role.keys))
    in_order = role.role.keys
    return RoleProgress(
        role.name,
        role.role.threshold,
        tuple(key_id for key_id in in_order if key_id in signed),
        tuple(key_id for key_id in in_order if key_id not in signed),
    )


def _believer(root: SignedEnvelope, org: str, now: float) -> Judge:
    """Return the judge of a host that was configured to believe `root`: its own root keys are the anchors."""
    judge = Judge(org, own_anchors(root))
    judge.accept_root(judge.judge_root(root, now))
    return judge

"""What the demo found out, and whether that is as it should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from akpolicy.client import PolicySource

if TYPE_CHECKING:
    from akpolicy.decision import Decision
    from akpolicy.engine.request import AuthorizationRequest

# The policy of the change, and what a bundle that was altered on the way is refused as.
CHANGE_ID: Final = "freeze-ml-project"
ALTERED_CODE: Final = "SignatureInvalid"


@dataclass(frozen=True, slots=True)
class Example:
    """A request with the decision that its author expects."""

    request: AuthorizationRequest
    expected: str
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for an example."""

    example: Example
    decision: Decision

    @property
    def effect(self) -> str:
        """`allow` or `deny`."""
        return "allow" if self.decision.allowed else "deny"

    @property
    def policies(self) -> tuple[str, ...]:
        """The determining policies by their own ids."""
        return tuple(d.policy_id for d in self.decision.determining)

    @property
    def as_expected(self) -> bool:
        """Whether decision and policies are the expected ones."""
        return self.effect == self.example.expected and set(self.policies) == set(self.example.policies)


@dataclass(frozen=True, slots=True)
class Attack:
    """What became of a bundle that somebody on the way had altered.

    `refused_as` is the code that the server heard of, `versions` what the host enforced before and after.
    """

    refused_as: str
    versions: tuple[int, int]
    before: Answer
    after: Answer

    @property
    def as_expected(self) -> bool:
        """Whether it was refused and changed nothing."""
        unchanged = (self.before.effect, self.before.policies) == (self.after.effect, self.after.policies)
        return self.refused_as == ALTERED_CODE and unchanged and self.versions[0] == self.versions[1]


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of decisions while an org's root key was replaced; `root` is its version before and after."""

    root: tuple[int, int]
    followed_after_ms: float
    decisions: int
    refused: int
    bundle_after: int

    @property
    def as_expected(self) -> bool:
        """Whether the host followed, went on, and took a publish after it."""
        return self.root[1] == self.root[0] + 1 and self.decisions > 0 and self.refused == 0 and self.bundle_after > 0


@dataclass(slots=True)
class Findings:
    """Everything that the demo found out."""

    answers: list[Answer] = field(default_factory=list)
    flipped: tuple[Answer, Answer] | None = None
    enforced_after_ms: float = 0.0
    attack: Attack | None = None
    rotation: Rotation | None = None
    offline: list[Answer] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def as_expected(self) -> bool:
        """Whether every step came out as it should."""
        flipped = self.flipped is not None and [a.effect for a in self.flipped] == ["allow", "deny"]
        return (
            bool(self.answers)
            and all(a.as_expected for a in self.answers)
            and flipped
            and self.attack is not None
            and self.attack.as_expected
            and self.rotation is not None
            and self.rotation.as_expected
            and bool(self.offline)
            and all(a.as_expected and a.decision.source is PolicySource.CACHE for a in self.offline)
            and sum(self.metrics.values()) >= len(self.answers) + len(self.offline)
        )


def summary(findings: Findings) -> dict[str, Any]:
    """Return the findings as JSON-ready values."""
    return {
        "decisions": [_answer_json(a) for a in findings.answers],
        "update": {
            "enforced_after_ms": round(findings.enforced_after_ms, 1),
            "policy": CHANGE_ID,
            "before": findings.flipped[0].effect if findings.flipped else "",
            "after": findings.flipped[1].effect if findings.flipped else "",
        },
        "attack": _attack_json(findings.attack) if findings.attack else {},
        "rotation": _rotation_json(findings.rotation) if findings.rotation else {},
        "offline": {
            "decisions": [_answer_json(a) for a in findings.offline],
            "as_expected": all(a.as_expected for a in findings.offline),
            "source": sorted({a.decision.source.name.lower() for a in findings.offline}),
        },
        "metrics": dict(sorted(findings.metrics.items())),
        "as_expected": findings.as_expected,
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "expected": answer.example.expected,
        "decision": answer.effect,
        "policies": list(answer.policies),
        "reason": answer.decision.reason.name,
        "principal": answer.example.request.principal.id,
        "org": answer.example.request.principal.org_id,
        "action": answer.example.request.action,
        "resource": answer.example.request.resource.id,
    }


def _attack_json(attack: Attack) -> dict[str, Any]:
    return {
        "refused_as": attack.refused_as,
        "version_before": attack.versions[0],
        "version_after": attack.versions[1],
        "before": attack.before.effect,
        "after": attack.after.effect,
        "as_expected": attack.as_expected,
    }


def _rotation_json(rotation: Rotation) -> dict[str, Any]:
    return {
        "root_before": rotation.root[0],
        "root_after": rotation.root[1],
        "followed_after_ms": round(rotation.followed_after_ms, 1),
        "decisions_meanwhile": rotation.decisions,
        "refused_meanwhile": rotation.refused,
        "version_after": rotation.bundle_after,
        "as_expected": rotation.as_expected,
    }

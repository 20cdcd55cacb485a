"""agentkernel's permissions, computed from policy: what a sandbox may have of what is asked for.

Rules (the plan's `Permissions::from_cedar_policy()`):

1. Restrict only: nothing in the result is more than what was asked for.
2. Create and Run must both be allowed, else nothing is granted.
3. `network` needs Network; `mount_cwd` and `mount_home` need Mount of that path, read and write.
4. `pass_env` and `allow_privileged` need a determining permit of Create or Run that says so in an annotation.
5. Caps are those of all determining permits of Create and Run; the strictest holds.
6. A seccomp profile cannot be compared with another: two different ones, of two permits or of a permit and of what was
   asked for, refuse.
7. Each difference from what was asked for names the policy that made it, where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from akpolicy.engine.annotations import CAPPED_ACTIONS, Caps, caps_of
from akpolicy.engine.values import invalid
from akpolicy.engine.verdict import Determining, Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from akpolicy.engine.values import CedarValue

MOUNTS: Final = ("mount_cwd", "mount_home")
FLAGS: Final = ("network", *MOUNTS, "pass_env", "allow_privileged", "read_only_root")


@dataclass(frozen=True, slots=True)
class Permissions:
    """agentkernel's nine fields. Memory is in MB as agentkernel counts them; None is no cap, or no profile."""

    network: bool = False
    mount_cwd: bool = False
    mount_home: bool = False
    pass_env: bool = False
    allow_privileged: bool = False
    read_only_root: bool = False
    max_memory_mb: int | None = None
    max_cpu_percent: int | None = None
    seccomp: str | None = None

    def attributes(self) -> dict[str, CedarValue]:
        """Return the attributes that a sandbox or a set of permissions has in a question about these."""
        flags: dict[str, CedarValue] = {name: getattr(self, name) for name in FLAGS}
        caps = {name: getattr(self, name) for name in ("max_memory_mb", "max_cpu_percent", "seccomp")}
        return flags | {name: value for name, value in caps.items() if value is not None}


NOTHING: Final = Permissions(read_only_root=True)
PROFILES: Final[Mapping[str, Permissions]] = {
    "permissive": Permissions(network=True, mount_cwd=True, mount_home=True, pass_env=True),
    "moderate": Permissions(network=True, max_memory_mb=512, max_cpu_percent=100),
    "restrictive": Permissions(read_only_root=True, max_memory_mb=256, max_cpu_percent=50),
}


class Decided(Protocol):
    """What permissions need of a decision: `Verdict` and `Decision` both have it."""

    @property
    def effect(self) -> Effect:
        """Allow or deny."""

    @property
    def message(self) -> str:
        """Why, for people."""

    @property
    def determining(self) -> tuple[Determining, ...]:
        """The policies that determined it."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A question that permissions rest on; `about` is the field it decides, `Create` or `Run`."""

    about: str
    action: str
    context: Mapping[str, CedarValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restriction:
    """A difference from what was asked for, and the policy (`<scope>/<policy id>`, perhaps empty) that made it."""

    field: str
    requested: object
    granted: object
    policy: str
    message: str


@dataclass(frozen=True, slots=True)
class Effective:
    """What a sandbox may have. Without `granted` it may not run, and `permissions` are `NOTHING`."""

    granted: bool
    permissions: Permissions
    restrictions: tuple[Restriction, ...]


def inquiries(requested: Permissions, *, cwd: str = "", home: str = "") -> tuple[Inquiry, ...]:
    """Return the questions to ask about what is requested.

    Raises:
        RequestInvalid: a mount is asked for without its absolute path, or a cap of 0 or less.

    """
    for name in ("max_memory_mb", "max_cpu_percent"):
        cap = getattr(requested, name)
        if cap is not None and cap < 1:
            invalid("must be 1 or more; leave it out for no cap", f"requested.{name}")
    found = [Inquiry(action, action) for action in CAPPED_ACTIONS]
    if requested.network:
        found.append(Inquiry("network", "Network"))
    for name, path in zip(MOUNTS, (cwd, home), strict=True):
        if getattr(requested, name):
            if not path.startswith("/"):
                invalid(f"must be an absolute path, because `{name}` is asked for", f"paths.{name[6:]}")
            found.append(Inquiry(name, "Mount", {"host_path": path, "read_only": False}))
    return tuple(found)


def permissions_from_decision(
    requested: Permissions,
    decisions: Mapping[str, Decided],
    annotations: Callable[[Determining], Mapping[str, str]],
) -> Effective:
    """Return what the decisions leave of what was requested.

    `decisions` are those of `inquiries`, by what they are `about`; one that is not there denies. `annotations` returns
    those of a determining policy.
    """
    # (2): the sandbox itself
    if refusals := [
        _refusal(action, decisions.get(action)) for action in CAPPED_ACTIONS if not _allows(decisions, action)
    ]:
        return Effective(False, NOTHING, tuple(refusals))
    permits = [
        (f"{policy.scope}/{policy.policy_id}", caps_of(annotations(policy)))
        for policy in dict.fromkeys(policy for action in CAPPED_ACTIONS for policy in decisions[action].determining)
    ]
    # (6): what cannot be both
    if conflict := _seccomp_conflict(requested, permits):
        return Effective(False, NOTHING, (conflict,))
    # (3) to (6): field by field
    restrictions = tuple(
        one
        for source in (_needed(requested, decisions), _granted(requested, permits), _capped(requested, permits))
        for one in source
    )
    changes: dict[str, object] = {one.field: one.granted for one in restrictions}
    return Effective(True, replace(requested, **changes), restrictions)  # type: ignore[arg-type] # fields by name


def _allows(decisions: Mapping[str, Decided], about: str) -> bool:
    return about in decisions and decisions[about].effect is Effect.ALLOW


def _refusal(about: str, decision: Decided | None, requested: object = True, granted: object = False) -> Restriction:
    policy = decision.determining[0] if decision is not None and decision.determining else None
    name = f"{policy.scope}/{policy.policy_id}" if policy is not None else ""
    message = decision.message if decision is not None else "denied: it was not asked about"
    return Restriction(about, requested, granted, name, message)


def _needed(requested: Permissions, decisions: Mapping[str, Decided]) -> Iterator[Restriction]:
    for name in ("network", *MOUNTS):
        if getattr(requested, name) and not _allows(decisions, name):
            yield _refusal(name, decisions.get(name))


def _granted(requested: Permissions, permits: Sequence[tuple[str, Caps]]) -> Iterator[Restriction]:
    for name in ("pass_env", "allow_privileged"):
        if getattr(requested, name) and not any(getattr(caps, name) for _, caps in permits):
            message = f'denied: no permit that allows Create or Run here says `@{name}("true")`'
            yield Restriction(name, True, False, "", message)


def _capped(requested: Permissions, permits: Sequence[tuple[str, Caps]]) -> Iterator[Restriction]:
    for name in ("max_memory_mb", "max_cpu_percent"):
        asked = getattr(requested, name)
        caps = [(cap, policy) for policy, of in permits if (cap := getattr(of, name)) is not None]
        if caps and (asked is None or min(caps)[0] < asked):
            cap, policy = min(caps)
            yield Restriction(name, asked, cap, policy, f"capped by `{policy}`")
    for policy, caps_ in permits:
        if caps_.read_only_root and not requested.read_only_root:
            yield Restriction("read_only_root", False, True, policy, f"made read-only by `{policy}`")
            break
    for policy, caps_ in permits:
        if caps_.seccomp is not None and requested.seccomp is None:
            yield Restriction("seccomp", None, caps_.seccomp, policy, f"set by `{policy}`")
            break


def _seccomp_conflict(requested: Permissions, permits: Sequence[tuple[str, Caps]]) -> Restriction | None:
    named = {caps.seccomp: policy for policy, caps in reversed(permits) if caps.seccomp is not None}
    if len(named) > 1:
        both = " and ".join(f"`{profile}` by `{policy}`" for profile, policy in sorted(named.items()))
        message = f"denied: different seccomp profiles are demanded: {both}"
        return Restriction("seccomp", requested.seccomp, None, min(named.values()), message)
    for profile, policy in named.items():
        if requested.seccomp not in {None, profile}:
            message = f"denied: `{policy}` demands the seccomp profile `{profile}`; ask for that, or for none"
            return Restriction("seccomp", requested.seccomp, None, policy, message)
    return None

"""Signed documents as people read them: one line a fact, times both ways, keys by the beginning of their id.

Nothing here judges. What a document says comes from whoever made it: print it through `printable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import Manifest
from akpolicy.cli.output import counted, table
from akpolicy.heartbeat import Heartbeat
from akpolicy.instants import duration, instant, rfc3339_of
from akpolicy.rollback import Rollback
from akpolicy.root import Root
from akpolicy.root_difference import short_id
from akpolicy.root_draft import roles_of

if TYPE_CHECKING:
    from akpolicy.bundle import ContentReference
    from akpolicy.engine.source import PolicyText

SHORT_DIGEST_CHARS: Final = 12
MAX_SHOWN_POLICIES: Final = 200

Facts = list[tuple[str, str]]


def document_facts(document: Root | Manifest | Rollback | Heartbeat, now: float) -> Facts:
    """Return what a document says, one fact each."""
    match document:
        case Root():
            return root_facts(document, now)
        case Manifest():
            return manifest_facts(document, now)
        case Rollback():
            return rollback_facts(document, now)
        case Heartbeat():
            return heartbeat_facts(document, now)


def manifest_facts(manifest: Manifest, now: float) -> Facts:
    """Return what a bundle's manifest says."""
    life = duration(max(0, manifest.expires_at - manifest.issued_at))
    facts = [
        ("scope", manifest.scope),
        ("version", f"{manifest.version} (epoch {manifest.epoch})"),
        ("issued", instant(manifest.issued_at, now)),
        ("expires", f"{instant(manifest.expires_at, now)}, a life of {life}"),
        ("rollback", _floor(manifest)),
        ("offline", f"{manifest.offline.mode}, at most {duration(manifest.offline.max_age_s)} old"),
        ("content", "none: this deletes the scope" if manifest.content is None else _content(manifest.content)),
    ]
    if manifest.not_before != manifest.issued_at:
        facts.insert(3, ("not before", instant(manifest.not_before, now)))
    return facts


def rollback_facts(rollback: Rollback, now: float) -> Facts:
    """Return what a rollback says."""
    return [
        ("scope", rollback.scope),
        ("version", f"{rollback.version} (epoch {rollback.epoch})"),
        ("restores", f"version {rollback.restores.version}, digest {_digest(rollback.restores.digest)}"),
        ("issued", instant(rollback.issued_at, now)),
        ("expires", instant(rollback.expires_at, now)),
        ("content", _content(rollback.content)),
    ]


def heartbeat_facts(heartbeat: Heartbeat, now: float) -> Facts:
    """Return what a heartbeat says."""
    return [
        ("org", heartbeat.org),
        ("seq", str(heartbeat.seq)),
        ("issued", instant(heartbeat.issued_at, now)),
        ("expires", instant(heartbeat.expires_at, now)),
        ("root", f"version {heartbeat.root.version}, digest {_digest(heartbeat.root.digest)}"),
        ("index", f"digest {_digest(heartbeat.index.digest)}, {heartbeat.index.size} bytes"),
        ("nonce", heartbeat.nonce or "none: the same for all hosts"),
    ]


def root_facts(root: Root, now: float) -> Facts:
    """Return what a root says, without its keys."""
    return [
        ("org", root.org),
        ("version", f"{root.version} (epoch {root.epoch})"),
        ("issued", instant(root.issued_at, now)),
        ("expires", instant(root.expires_at, now)),
        ("sidecars", f"{root.min_sidecar} or newer"),
        *(
            (f"role {name}", f"{role.threshold} of {len(role.keys)} must sign{_restriction(role)}")
            for name, role in sorted(roles_of(root).items(), key=lambda item: str(item[0]))
        ),
    ]


def key_table(root: Root, now: float) -> str:
    """Return the keys that a root lists, with roles, validity and revocation, and the other keys that it revokes."""
    roles = {
        key_id: ", ".join(str(name) for name, role in roles_of(root).items() if key_id in role.keys)
        for key_id in root.keys
    }
    rows = [
        (
            short_id(key_id),
            roles[key_id] or "-",
            rfc3339_of(entry.valid_from),
            instant(entry.valid_until, now),
            rfc3339_of(root.revoked[key_id]) if key_id in root.revoked else "-",
        )
        for key_id, entry in root.keys.items()
    ]
    gone = [
        (short_id(key_id), "-", "-", "-", rfc3339_of(since))
        for key_id, since in root.revoked.items()
        if key_id not in root.keys
    ]
    return table(("KEY", "ROLES", "VALID FROM", "VALID UNTIL", "REVOKED"), [*rows, *gone])


def policy_lines(policies: Sequence[PolicyText]) -> Iterator[str]:
    """Return the ids of policies with what each does, at most the first `MAX_SHOWN_POLICIES`."""
    from akpolicy.engine.tokens import head, pieces

    for policy in policies[:MAX_SHOWN_POLICIES]:
        outline = next(pieces(policy.text), None)
        effect = head(policy.text, outline.first).effect if outline else None
        yield f"  {effect or '?':<6}  {policy.id}"
    if len(policies) > MAX_SHOWN_POLICIES:
        yield f"  and {counted(policies[MAX_SHOWN_POLICIES:], 'more policy')}"


def aligned(facts: Facts) -> str:
    """Return facts with their values below each other."""
    width = max((len(name) for name, _ in facts), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts)


def _floor(manifest: Manifest) -> str:
    if manifest.min_version == manifest.version:
        return "to no earlier version"
    return f"to version {manifest.min_version} and later"


def _content(content: ContentReference) -> str:
    noun = "policy" if content.policies == 1 else "policies"
    return f"{content.policies} {noun}, {content.size} bytes, digest {_digest(content.digest)}"


def _restriction(role: object) -> str:
    return "" if getattr(role, "grants", True) else ", forbids only"


def _digest(digest: str) -> str:
    return digest[:SHORT_DIGEST_CHARS]

"""What the operator believes: anchors, roots, and documents that belong to the one that is looked at.

Rules:

- Anchors come from `--anchor` or from a sidecar's configuration; roots from `--root`, which is a signed root, a chain
  as `root show --output json` prints it, or a proposal (the root in it).
- Roots with anchors are followed as a host does. Roots without anchors are taken at their word, and the report says so.
- A document belongs to another by digest, never by the name of its file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from akpolicy.bundle import Manifest
from akpolicy.cli.anchors import AnchorText, parse_anchors
from akpolicy.cli.inspect.recognise import (
    Blob,
    Chain,
    IndexText,
    Revision,
    Signed,
    SignedDocument,
    Thing,
    recognise,
    sha256,
)
from akpolicy.cli.inspect.report import Check, failed, not_checked, ok
from akpolicy.cli.proposal_files import read_bytes
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import ConfigError, TrustError, UsageError
from akpolicy.heartbeat import Heartbeat
from akpolicy.keys import AnchorSet, PublicKey
from akpolicy.limits import KIB
from akpolicy.proposal import MAX_PROPOSAL_BYTES, Proposal
from akpolicy.root import parse_root
from akpolicy.root_chain import follow
from akpolicy.trust import Judge, TrustedRoot

MAX_CONFIG_BYTES: Final = 64 * KIB


@dataclass(frozen=True)
class Given:
    """What to judge by. `now` is in epoch seconds; `blobs` and `envelopes` are found by hex digest.

    `named` are the digests of the contents and indexes that a manifest or a heartbeat at hand names.
    """

    now: int
    anchors: AnchorSet | None = None
    roots: tuple[SignedEnvelope, ...] = ()
    org: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    envelopes: dict[str, SignedEnvelope] = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    def newest_root(self) -> tuple[TrustedRoot | None, list[Check]]:
        """Return the root to judge documents by, None without one, and what was verified of it."""
        if not self.roots:
            return None, []
        try:
            org = self.org or parse_root(self.roots[0].payload)[0].org
            root = follow(org, self.roots, self.anchors, self.now)
        except TrustError as error:
            return None, [failed(error)]
        name = f"root version {root.document.version} of {root.document.org}"
        if self.anchors is None:
            return root, [not_checked(f"whether the given {name} is the true one: no anchor given")]
        return root, [ok(f"the given {name} is reached from the anchors")]

    def judge(self, root: TrustedRoot) -> Judge:
        """Return the judge of a host that trusts a root and has accepted nothing."""
        judge = Judge(root.document.org, self.anchors or AnchorSet(()))
        judge.accept_root(root)
        return judge

    def known_keys(self, root: TrustedRoot | None) -> dict[str, PublicKey]:
        """Return the public keys that are at hand, by id."""
        anchors = self.anchors.anchors if self.anchors else ()
        return {anchor.key.key_id: anchor.key for anchor in anchors} | (root.keys if root else {})


def gather(
    *,
    now: int,
    anchors: Sequence[str],
    threshold: int,
    root_files: Sequence[Path],
    config: Path | None,
    companions: Sequence[Path],
) -> Given:
    """Return what the options give; raise `UsageError`, `ConfigError`, or the `TrustError` of a broken file."""
    if config is not None and anchors:
        raise UsageError("give either `--anchor` or `--config`: both say whom to believe")
    anchor_set, org = (None, "") if config is None else read_config(config)
    if anchors:
        anchor_set = parse_anchors(list(anchors), threshold)
    roots = in_order(root for file in root_files for root in _roots_in(file))
    given = Given(now, anchor_set, roots, org)
    for file in companions:
        given = with_parts(given, read_thing(file))
    return given


def in_order(roots: Iterable[SignedEnvelope]) -> tuple[SignedEnvelope, ...]:
    """Return roots oldest first; raise the `TrustError` of one that does not parse."""
    return tuple(sorted(roots, key=lambda root: parse_root(root.payload)[0].version))


def with_parts(given: Given, thing: Thing) -> Given:
    """Return what is given with what a thing brings: blobs and envelopes by digest, and the roots of a chain."""
    blobs, envelopes, named = dict(given.blobs), dict(given.envelopes), set(given.named)
    for part in _parts(thing):
        if isinstance(part, Signed):
            envelopes[part.envelope.digest().hex()] = part.envelope
            named |= _names(part.document)
        elif isinstance(part, Blob):
            blobs[sha256(part.data)] = part.data
        elif isinstance(part, IndexText):
            blobs[part.index.digest] = part.index.text
    roots = given.roots
    if isinstance(thing, Chain) and not roots:
        roots = tuple(root.envelope for root in thing.roots)
    return replace(given, blobs=blobs, envelopes=envelopes, roots=roots, named=frozenset(named))


def _names(document: SignedDocument | None) -> set[str]:
    match document:
        case Manifest(content=content) if content is not None:
            return {content.digest}
        case Heartbeat():
            return {document.index.digest}
    return set()


def read_thing(file: Path) -> Thing:
    """Read and recognise a file; raise `UsageError`, or the `TrustError` of a broken one."""
    return recognise(read_bytes(file, MAX_PROPOSAL_BYTES), str(file))


def _roots_in(file: Path) -> Iterator[SignedEnvelope]:
    thing = read_thing(file)
    match thing:
        case Signed(envelope) if envelope.payload_type == PayloadType.ROOT:
            yield envelope
        case Chain(roots):
            yield from (root.envelope for root in roots)
        case Proposal(root=root) if root is not None:
            yield root.envelope
        case _:
            raise UsageError(f"`{file}` has no signed root; `akpolicy root show --output json` prints them")


def _parts(thing: Thing) -> Iterator[Thing]:
    match thing:
        case Revision(signed, original, blob):
            yield from (part for part in (signed, original, blob) if part is not None)
        case Chain(roots):
            yield from roots
        case Proposal(content=content) if content is not None:
            yield Blob(content.blob, content.content)
        case _:
            yield thing


# --- a sidecar's configuration ----------------------------------------------------------------------------------------


def read_config(file: Path) -> tuple[AnchorSet, str]:
    """Return the anchors and the org of a sidecar's configuration; raise `ConfigError`."""
    try:
        document = tomllib.loads(read_bytes(file, MAX_CONFIG_BYTES).decode("utf-8"))
        enterprise = document["enterprise"]
        anchors = enterprise["trust_anchors"]
        entries = [_entry(value) for value in anchors["keys"]]
        return AnchorSet.parse(entries, int(anchors.get("threshold", 1))), str(enterprise["org_id"])
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"`{file}` is not TOML: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"`{file}` has no `[enterprise.trust_anchors] keys` with `org_id`, as a sidecar has"
        ) from error
    except TrustError as error:
        raise ConfigError(f"`{file}`: {error.message}") from error


def _entry(value: Any) -> AnchorText:  # noqa: ANN401 - a value of TOML
    if isinstance(value, str):
        return AnchorText(value)
    return AnchorText(str(value["key"]), _seconds(value.get("valid_from")), _seconds(value.get("valid_until")))


def _seconds(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return int(value.timestamp())
    if isinstance(value, int):
        return value
    raise TypeError(value)

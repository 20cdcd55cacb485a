"""`state.json` of a sidecar, looked at from outside.

Rules:

- The file is `{"sha256":"<digest>","journal":"<name>","state":<state>}`; the digest is of the name and the exact bytes
  of the state. That it fits says that nothing was damaged, not that nobody wrote it: there is no signature. What
  changed since is in the journal (`journal_file`); files of earlier versions name none.
- What it names must be there under that name. What lies there, and whether it is true, is for the reports of the
  documents to say.
- Anything may stand in it: a value of another type than a sidecar writes is left out.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from akpolicy.cli.inspect.report import failed, ok
from akpolicy.errors import CacheCorrupt, CacheMissing, TrustError
from akpolicy.instants import instant
from akpolicy.limits import MAX_INDEX_SCOPES, MIB
from akpolicy.strict_json import JsonLimits, load_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.cli.document_text import Facts
    from akpolicy.cli.inspect.report import Check

STATE_FILE: Final = "state.json"
_WHOLE: Final = re.compile(rb'\{"sha256":"([0-9a-f]{64})",(?:"journal":"([0-9a-f]{32})",)?"state":(.*)\}', re.DOTALL)
_LIMITS: Final = JsonLimits(4 * MIB, MAX_INDEX_SCOPES)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHOWN_DIGITS: Final = 12
_MILLISECONDS: Final = 1000
# Where the files lie that a scope names.
_FILES: Final = {"envelope": "envelopes", "original": "envelopes", "blob": "blobs"}


def read_state(data: bytes) -> tuple[dict[str, Any], Check]:
    """Return what the bytes of `state.json` say (nothing, if they are not whole), and whether they are whole."""
    whole = _WHOLE.fullmatch(data)
    if whole is None or hashlib.sha256((whole[2] or b"") + whole[3]).hexdigest().encode() != whole[1]:
        return {}, failed(CacheCorrupt(f"`{STATE_FILE}` is not what was written: its digest does not fit"))
    try:
        return load_object(whole[3], _LIMITS), ok(f"`{STATE_FILE}` is whole")
    except TrustError as error:
        return {}, failed(CacheCorrupt(f"`{STATE_FILE}`: {error.message}"))


def journal_of(data: bytes) -> tuple[str, str]:
    """Return the name of the journal behind a whole `state.json` (empty: none) and the digest that it goes on from."""
    whole = _WHOLE.fullmatch(data)
    return ((whole[2] or b"").decode("ascii"), whole[1].decode("ascii")) if whole is not None else ("", "")


def state_facts(state: dict[str, Any], now: float) -> Facts:
    """Return what the state says, for people."""
    facts: Facts = [("org", str(state.get("org", ""))), ("format", str(state.get("format", "")))]
    root = _table(state, "root")
    if root:
        facts.append(("root", f"version {root.get('version')}, kept from version {root.get('first')} on"))
    for scope, kept in sorted(_table(state, "scopes").items()):
        if isinstance(kept, dict):
            facts.append((scope, _scope_fact(kept)))
    heartbeat = _table(state, "heartbeat")
    if heartbeat:
        facts.append(("heartbeat", f"seq {heartbeat.get('seq')}, issued {_instant(heartbeat.get('issued_at'), now)}"))
    common = _table(_table(state, "freshness"), "common")
    if common:
        facts.append(("fresh", f"until {_instant(common.get('expires_at'), now)}, but for what follows"))
    for scope, seen in sorted(_table(_table(state, "freshness"), "by_scope").items()):
        if isinstance(seen, dict):
            facts.append((f"fresh {scope}", f"until {_instant(seen.get('expires_at'), now)}"))
    proven = _table(state, "time").get("signed_ms")
    if isinstance(proven, int):
        facts.append(("proven time", _instant(proven // _MILLISECONDS, now)))
    return facts


def named_files(state: dict[str, Any]) -> Iterator[str]:
    """Yield the files that the state names, relative to the directory."""
    root = _table(state, "root")
    first, last = root.get("first"), root.get("version")
    if isinstance(first, int) and isinstance(last, int):
        yield from dict.fromkeys((f"roots/{first:08d}", f"roots/{last:08d}"))
    for kept in _table(state, "scopes").values():
        for field, directory in _FILES.items():
            digest = kept.get(field) if isinstance(kept, dict) else None
            if isinstance(digest, str) and _DIGEST.fullmatch(digest):
                yield f"{directory}/{digest}"


def file_checks(path: Path, state: dict[str, Any]) -> list[Check]:
    """Return whether every file that the state names is there."""
    names = sorted(set(named_files(state)))
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        return [failed(CacheMissing(f"`{name}` is named by `{STATE_FILE}`, and is not there")) for name in missing]
    return [ok(f"every file that `{STATE_FILE}` names is there ({len(names)})")] if names else []


def _scope_fact(kept: dict[str, Any]) -> str:
    digest = str(kept.get("digest", ""))[:_SHOWN_DIGITS]
    said = f"version {kept.get('version')} of epoch {kept.get('epoch')}, digest {digest}"
    return f"{said}, no rollback below {kept.get('min_version')}{'' if kept.get('blob') else ', deleted'}"


def _instant(value: object, now: float) -> str:
    return instant(value, now) if isinstance(value, int) else "?"


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name)
    return value if isinstance(value, dict) else {}

"""The journal of a `state.json`, looked at from outside: what changed since that file was written.

Rules:

- `state.json` names its journal. Each line is `<digest> <change>` and a line feed; the first goes on from the digest of
  `state.json`, each further one from the line before. What stands behind the last line feed was never acknowledged.
- A change replaces what it says of scopes, and each other field as a whole.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from akpolicy.cli.inspect.report import failed, ok
from akpolicy.errors import CacheCorrupt, CacheStateMissing, TrustError
from akpolicy.limits import MAX_INDEX_SCOPES, MIB
from akpolicy.strict_json import JsonLimits, load_object

if TYPE_CHECKING:
    from akpolicy.cli.inspect.report import Check

PREFIX: Final = "journal-"
_LIMITS: Final = JsonLimits(4 * MIB, MAX_INDEX_SCOPES)
_REPLACED: Final = ("heartbeat", "time", "freshness")


def replay(state: dict[str, Any], name: str, digest: str, data: bytes | None) -> tuple[dict[str, Any], Check]:
    """Return the state with the changes of its journal `name`, as far as they are whole, and whether all are.

    `digest` is that of `state.json`, `data` the journal's bytes; None: it is not there.
    """
    file = f"{PREFIX}{name}"
    if data is None:
        return state, failed(CacheStateMissing(f"`{file}` is missing; what was enforced is unknown"))
    lines = data.split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        said, _, body = line.partition(b" ")
        digest = hashlib.sha256(digest.encode("ascii") + body).hexdigest()
        if said != digest.encode("ascii"):
            return state, failed(CacheCorrupt(f"line {number} of `{file}` is not what was written"))
        try:
            state = _changed(state, load_object(body, _LIMITS))
        except TrustError as error:
            return state, failed(CacheCorrupt(f"line {number} of `{file}`: {error.message}"))
    return state, ok(f"`{file}` is whole ({len(lines)} changes)")


def _changed(state: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    before, scopes = state.get("scopes"), change.get("scopes")
    replaced: dict[str, Any] = {name: change[name] for name in _REPLACED if name in change}
    both = {**(before if isinstance(before, dict) else {}), **(scopes if isinstance(scopes, dict) else {})}
    return {**state, **replaced, "scopes": both}

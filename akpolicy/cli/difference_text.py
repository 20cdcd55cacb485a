"""How `akpolicy policy diff` tells what would change.

Rules:

- What was not compared is always said, on standard error: a log of another org, or of requests that are none, must not
  look like a proof that nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.cli.output import counted

if TYPE_CHECKING:
    from akpolicy.simulation.difference import Difference


def difference_text(found: Difference) -> str:
    """Return what would change, for people: by policy, and a sum."""
    lines = []
    for name, changes in sorted(found.policies.items()):
        counts = ", ".join(f"{count} {old} -> {new}" for (old, new), count in sorted(changes.counts.items()))
        lines.append(f"{name}: {counts}" + (f" ({changes.edit})" if changes.edit else ""))
        for change in changes.examples:
            request = change.request
            where = f"line {change.line}: " if change.line else ""
            asked = f"{request.principal.id} {request.action} {request.resource.id}"
            lines.append(f"  {where}{asked}: {change.before} -> {change.after}")
    others = f", {found.by_other_policies} by other policies" if found.by_other_policies else ""
    lines.append(f"{found.changed} of {counted([None] * found.replayed, 'request')} would change{others}")
    return "\n".join(lines)


def difference_json(found: Difference) -> dict[str, object]:
    """Return what would change as plain values."""
    return {
        "replayed": found.replayed,
        "changed": found.changed,
        "by_other_policies": found.by_other_policies,
        "refused": found.refused,
        "foreign": found.foreign,
        "policies": [
            {
                "policy": name,
                "change": changes.edit,
                "counts": [
                    {"before": old, "after": new, "requests": count}
                    for (old, new), count in sorted(changes.counts.items())
                ],
                "examples": [
                    {
                        "line": change.line,
                        "principal": change.request.principal.id,
                        "action": change.request.action,
                        "resource": change.request.resource.id,
                        "before": change.before,
                        "after": change.after,
                        "message": change.message,
                    }
                    for change in changes.examples
                ],
            }
            for name, changes in sorted(found.policies.items())
        ],
    }


def difference_note(found: Difference, org: str) -> str:
    """Return what could not be compared, empty if everything was."""
    if not found.replayed:
        asked = f"none of the {found.foreign} requests is" if found.foreign > 1 else "the only request is not"
        return f"error: nothing could be compared: {asked} of the org `{org}`; name theirs with `--org`"
    foreign = f"{counted([None] * found.foreign, 'request')} of other orgs left out"
    if not found.compared:
        line, message = found.first_refusal
        why = f"all requests are refused; the first, on line {line}: {message}"
        return f"error: nothing could be compared: {why}" + (f" ({foreign})" if found.foreign else "")
    refused = f"{counted([None] * found.refused, 'request')} refused before and after"
    said = [text for count, text in ((found.foreign, foreign), (found.refused, refused)) if count]
    return f"note: {', '.join(said)}" if said else ""

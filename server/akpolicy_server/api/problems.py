"""Mistakes in policies as messages, and as the trailing metadata of a refused call.

Rules:

- Metadata is small: gRPC peers take 8 KiB of it by default, the status message and base64 included. As many problems
  as fit into `MAX_METADATA_BYTES` are sent, from the first; a message that is too long for it is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.limits import KIB
from akpolicy.v1 import publishing_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from akpolicy.errors import Problem

METADATA_KEY: Final = "akpolicy-problems-bin"
MAX_METADATA_BYTES: Final = 5 * KIB
MAX_PROBLEM_CHARS: Final = 500


def problem_messages(problems: Iterable[Problem]) -> list[publishing_pb2.Problem]:
    """Return problems as messages, complete."""
    return [
        publishing_pb2.Problem(
            code=problem.code,
            message=problem.message,
            policy_id=problem.policy_id,
            source=problem.source,
            line=problem.line,
        )
        for problem in problems
    ]


def failure_metadata(problems: Sequence[Problem]) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata of a call refused for its policies."""
    failure = publishing_pb2.PublishFailure()
    for message in problem_messages(problems):
        message.message = message.message[:MAX_PROBLEM_CHARS]
        failure.problems.append(message)
        if failure.ByteSize() > MAX_METADATA_BYTES:
            del failure.problems[-1]
            break
    return ((METADATA_KEY, failure.SerializeToString()),)

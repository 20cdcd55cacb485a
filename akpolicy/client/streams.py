"""Questions and answers of a stream, put together in order.

Rules:

- Each question gets one answer, in the order of the questions. One that cannot be translated is not sent and gets its
  error in its place.
- A stream that breaks ends the iteration with a `ClientError`: what has no answer by then is denied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.client.answers import decision_of, error_of, to_message
from akpolicy.errors import BadAnswer, ClientError, InvalidRequest
from akpolicy.v1 import authorization_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.decision import Decision
    from akpolicy.engine.request import AuthorizationRequest


class QuestionStream:
    """The numbers of a stream: which question waits for which answer."""

    def __init__(self) -> None:
        self._asked = 0
        self._answered = 0
        self._unsent: dict[int, ClientError] = {}

    def message(self, request: AuthorizationRequest) -> pb.StreamAuthorizeRequest | None:
        """Return the message of the next question, None if it cannot be sent."""
        number = self._asked
        self._asked += 1
        try:
            return pb.StreamAuthorizeRequest(id=number, request=to_message(request))
        except InvalidRequest as error:
            self._unsent[number] = error
            return None

    def take(self, answer: pb.StreamAuthorizeResponse) -> Iterator[Decision | ClientError]:
        """Yield what this answer completes; raise `BadAnswer` if it is not the next one."""
        yield from self.rest()
        if answer.id != self._answered:
            raise BadAnswer(f"the sidecar answered question {answer.id} before {self._answered}; treat all as denied")
        self._answered += 1
        yield _outcome(answer)
        yield from self.rest()

    def rest(self) -> Iterator[Decision | ClientError]:
        """Yield the errors of the next questions that were not sent."""
        while self._answered in self._unsent:
            yield self._unsent.pop(self._answered)
            self._answered += 1

    def end(self) -> None:
        """Raise `BadAnswer` if a question has no answer."""
        if self._answered < self._asked:
            raise BadAnswer(
                f"the sidecar left {self._asked - self._answered} questions without an answer; they are denied"
            )


def _outcome(answer: pb.StreamAuthorizeResponse) -> Decision | ClientError:
    kind = answer.WhichOneof("outcome")
    try:
        if kind == "response":
            return decision_of(answer.response)
        if kind == "error":
            return error_of(answer.error)
    except BadAnswer as error:
        return error
    return BadAnswer("the sidecar's answer has no outcome; treat it as denied")

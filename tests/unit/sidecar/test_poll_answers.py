"""The report of one poll, made of a session's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import distribution_pb2 as pb
from akpolicy_sidecar.poll_answers import HOST_STATE, MAX_REPORT_BYTES, ROOT, PollAnswers

if TYPE_CHECKING:
    from collections.abc import Iterable


def revision(scope: str, version: int = 1) -> bundle_pb2.Revision:
    return bundle_pb2.Revision(scope=scope, epoch=1, version=version, digest=b"d" * 32)


def bundle(scope: str) -> pb.FetchResponse:
    update = pb.BundleUpdate(nonce=scope.encode(), revision=revision(scope))
    return pb.FetchResponse(update=pb.SubscribeResponse(bundle=update))


def fetched(answers: PollAnswers, responses: Iterable[pb.FetchResponse]) -> None:
    for _ in answers.fetch(lambda _: responses, pb.Hello(org="acme"), by_index=False):
        pass


def ack(answers: PollAnswers, scope: str, *ended: str) -> None:
    said = pb.Ack(nonce=scope.encode(), enforced=[revision(scope)], ended=ended, root_version=2)
    answers.take(pb.SubscribeRequest(ack=said))


def nack(answers: PollAnswers, scope: str, code: str = "SignatureInvalid") -> None:
    answers.take(pb.SubscribeRequest(nack=pb.Nack(nonce=scope.encode(), code=code, root_version=2)))


def test_what_nobody_answered_needs_no_report() -> None:
    answers = PollAnswers("acme", 60)
    fetched(answers, [bundle("global")])
    assert list(answers.reports()) == []


def test_a_refusal_is_named_by_the_scope_and_ends_with_what_was_taken_later() -> None:
    answers = PollAnswers("acme", 60)
    fetched(answers, [bundle("global"), bundle("org/acme")])
    nack(answers, "global")
    nack(answers, "org/acme")
    ack(answers, "global")
    (report,) = answers.reports()
    assert [entry.scope for entry in report.enforced] == ["global"]
    assert [(entry.scope, entry.version, entry.code) for entry in report.refused] == [
        ("org/acme", 1, "SignatureInvalid")
    ]
    assert (report.root_version, report.poll_interval_ms) == (2, 60_000)


def test_what_ended_is_said_and_not_what_was_enforced_before() -> None:
    answers = PollAnswers("acme", 60)
    fetched(answers, [bundle("global"), bundle("org/acme")])
    ack(answers, "org/acme")
    ack(answers, "global", "org/acme")
    (report,) = answers.reports()
    assert ([entry.scope for entry in report.enforced], list(report.ended)) == (["global"], ["org/acme"])


def test_thousands_of_scopes_are_reported_in_messages_that_the_server_takes() -> None:
    answers = PollAnswers("acme", 60)
    scopes = [f"org/acme/team/{number:060}" for number in range(10_000)]
    fetched(answers, (bundle(scope) for scope in scopes))
    nack(answers, "unknown", "ClockJump")
    for scope in scopes:
        ack(answers, scope)
    reports = list(answers.reports())
    assert len(reports) > 1
    assert all(report.ByteSize() <= MAX_REPORT_BYTES + 1024 for report in reports)
    assert [entry.scope for report in reports for entry in report.enforced] == scopes
    # The state of the host comes last: each message says anew whether something is wrong with it.
    assert [len(report.refused) for report in reports] == [0] * (len(reports) - 1) + [1]
    assert reports[-1].refused[0].scope == HOST_STATE


def test_a_refused_root_is_named_root() -> None:
    answers = PollAnswers("acme", 60)
    update = pb.SubscribeResponse(root=pb.RootUpdate(version=3, nonce=b"root-3"))
    fetched(answers, [pb.FetchResponse(update=update)])
    nack(answers, "root-3", "RootThresholdNew")
    (report,) = answers.reports()
    assert [(entry.scope, entry.version) for entry in report.refused] == [(ROOT, 3)]

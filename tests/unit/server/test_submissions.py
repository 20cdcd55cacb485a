"""The policies of an order are the same before and after content was made of them."""

from __future__ import annotations

import pytest

from akpolicy.engine.files import PolicyFile
from akpolicy_server.judging import propose_content
from akpolicy_server.orders import Sources
from akpolicy_server.submissions import Submission
from tests.unit.server.conftest import policy


def test_policies_come_back_from_content_with_their_files_and_lines() -> None:
    files = [
        PolicyFile("a.cedar", (policy("a1") + "// \U0001f512 two\n" + policy("a2")).encode()),
        PolicyFile("b.cedar", ("\n\n" + policy("b1", effect="forbid")).encode()),
    ]
    submission = Submission(Sources(files))
    before = submission.findings()
    for schema in (None, "entity User;"):
        submission.encoded(propose_content(before.policies, schema))
        again = submission.findings()
        assert again == before
        assert again.policies is not before.policies
    assert [(p.source, p.line) for p in before.policies] == [("a.cedar", 1), ("a.cedar", 5), ("b.cedar", 3)]


def test_what_is_wrong_with_the_files_is_found_once_and_kept() -> None:
    submission = Submission(Sources([PolicyFile("a.cedar", b"\xff"), PolicyFile("b.cedar", b"permit (")]))
    found = submission.findings()
    assert [problem.source for problem in found.problems] == ["a.cedar", "b.cedar"]
    assert submission.findings() is found


def test_the_digests_of_files_are_known_after_they_were_taken_over() -> None:
    files = [PolicyFile("a.cedar", policy("a").encode())]
    sources, same = Sources(files), Sources(files)
    before = list(sources.digests)
    assert list(same.drain()) == files
    assert same.digests == before
    with pytest.raises(RuntimeError, match="taken over before"):
        list(same.drain())

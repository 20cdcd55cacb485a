"""`akpolicy inspect` on a state directory: judged by its own roots, and left as it is."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.cli.inspect.state_file import named_files, read_state, state_facts
from akpolicy.signing import PrivateKeySigner
from akpolicy.wire import envelope_to_bytes
from tests.simulators.clock import START, ManualClock
from tests.simulators.host import HostSimulator
from tests.simulators.office import bundle_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


from tests.unit.cli.desk import Desk, codes, said

SCOPE = "org/acme"


def _json_of(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    names = st.sampled_from(["first", "version", "scopes", "blob", "by_scope", "issued_at", "expires_at", "signed_ms"])
    return st.lists(values, max_size=3) | st.dictionaries(names | st.text(max_size=5), values, max_size=4)


@pytest.fixture
def host(desk: Desk) -> Iterator[HostSimulator]:
    """A sidecar's inside that enforces a bundle, on a state directory of its own."""
    made = HostSimulator(desk.directory / "state", org=desk.org, clock=ManualClock(START))
    made.office.roots = [desk.root]
    made.connect().update(scope=SCOPE)
    yield made
    made.close()


def test_a_state_directory_is_judged_by_its_roots_and_left_as_it_is(desk: Desk, host: HostSimulator) -> None:
    path = host.place
    before = sorted((str(file), file.stat().st_mtime_ns) for file in path.rglob("*"))
    result = desk.inspect(path, "--anchor", desk.org.anchor)
    assert result.code == 0, result.out
    assert "its content is what it names, and its policies can be enforced" in said(result, "ok")
    assert "the given root version 1 of acme is reached from the anchors" in said(result, "ok")
    assert [line.split()[0] for line in said(result, "not checked")] == ["that"]  # the state is the newest one
    assert "`state.json` is whole" in said(result, "ok")
    assert "every file that `state.json` names is there (3)" in said(result, "ok")
    assert result.out.index("roots/00000001") < result.out.index("envelopes/") < result.out.index("blobs/")
    assert re.search(
        r"^  org/acme +version 1 of epoch 1, digest [0-9a-f]{12}, no rollback below 1$", result.out, re.MULTILINE
    )
    assert re.search(r"^  root +version 1, kept from version 1 on$", result.out, re.MULTILINE)
    assert "2027-01-15T08:05:00Z" in result.out, "until when a heartbeat vouches"
    assert sorted((str(file), file.stat().st_mtime_ns) for file in path.rglob("*")) == before


def test_a_forged_document_in_a_state_directory_fails(desk: Desk, host: HostSimulator) -> None:
    forged, _ = desk.org.bundle_envelope(SCOPE, signed_by=[PrivateKeySigner.generate()])
    (host.place / "envelopes" / "forged").write_bytes(envelope_to_bytes(forged))
    (host.place / "envelopes" / "junk").write_bytes(b"junk")
    (host.place / "envelopes" / "link").symlink_to(host.place / "envelopes" / "forged")
    result = desk.inspect(host.place, "--anchor", desk.org.anchor)
    assert result.code == 1
    assert codes(result) == {"UnknownKey"}
    assert "`envelopes/junk`: nothing that is known here" in said(result, "not checked")


def test_documents_that_contradict_each_other_are_counted(desk: Desk, host: HostSimulator) -> None:
    other, _ = desk.org.bundle_envelope(
        SCOPE, version=1, policies={"q": '@id("q") permit (principal, action, resource);'}
    )
    host.hear(*bundle_messages(other, b"{}", scope=SCOPE))
    assert host.nacks == ["Equivocation"]
    assert "2 documents that contradict others" in desk.inspect(host.place).out


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "a lower mark": lambda data: data.replace(b'"min_version":1', b'"min_version":0'),
    "another digest": lambda data: data.replace(b'{"sha256":"', b'{"sha256":"0', 1),
    "cut off": lambda data: data[:-1],
    "nothing": lambda data: b"",
    "more": lambda data: data + b"\n",
    "another format": lambda data: b'{"format":1,"org":"acme"}',
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_state_that_was_edited_is_not_whole(desk: Desk, host: HostSimulator, edit: str) -> None:
    # With all that its journal has.
    host.directory.commit(host.directory.state)
    file = host.place / "state.json"
    file.write_bytes(EDITS[edit](file.read_bytes()))
    result = desk.inspect(host.place)
    assert result.code == 1
    assert "CacheCorrupt" in codes(result)


JOURNAL_EDITS: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "a lower version": ("CacheCorrupt", lambda data: data.replace(b'"version":1', b'"version":0', 1)),
    "without its first line": ("CacheCorrupt", lambda data: data.split(b"\n", 1)[1]),
    "a line more": ("CacheCorrupt", lambda data: data + b"{}\n"),
    "gone": ("CacheStateMissing", lambda _: None),
}


@pytest.mark.parametrize("edit", JOURNAL_EDITS)
def test_a_journal_that_was_edited_is_not_whole(desk: Desk, host: HostSimulator, edit: str) -> None:
    [file] = host.place.glob("journal-*")
    code, change = JOURNAL_EDITS[edit]
    edited = change(file.read_bytes())
    if edited is None:
        file.unlink()
    else:
        file.write_bytes(edited)
    result = desk.inspect(host.place)
    assert (result.code, code in codes(result)) == (1, True)


def test_the_end_of_a_journal_that_was_being_written_is_left_out(desk: Desk, host: HostSimulator) -> None:
    [file] = host.place.glob("journal-*")
    file.write_bytes(file.read_bytes() + b"0" * 70)
    result = desk.inspect(host.place)
    assert result.code == 0
    assert any(line.startswith(f"`{file.name}` is whole (") for line in said(result, "ok"))


def test_a_file_that_the_state_names_and_that_is_gone_is_missing(desk: Desk, host: HostSimulator) -> None:
    [blob] = (host.place / "blobs").iterdir()
    blob.unlink()
    result = desk.inspect(host.place)
    assert (result.code, "CacheMissing" in codes(result)) == (1, True)
    assert f"blobs/{blob.name}" in result.out


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), _json_of, max_leaves=12))
def test_whatever_stands_in_a_state_is_said_or_left_out(value: object) -> None:
    for state in (value, dict.fromkeys(("root", "scopes", "heartbeat", "freshness", "time", "org"), value)):
        body = json.dumps(state).encode()
        data = b'{"sha256":"%b","state":%b}' % (hashlib.sha256(body).hexdigest().encode(), body)
        said, _ = read_state(data)
        state_facts(said, START)
        list(named_files(said))


def test_another_directory_is_no_state_directory(desk: Desk) -> None:
    result = desk.inspect(desk.directory)
    assert result.code == 2
    assert "a sidecar's state_dir has one" in result.err

"""Attacks on the state directory (A-129 to A-146): nothing of it is believed for lying there."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import (
    CacheCorrupt,
    CacheHardlink,
    CacheLocked,
    CacheMissing,
    CacheNotRegular,
    CacheRolledBack,
    CacheStateMissing,
    CacheSymlink,
    CacheWritableByOthers,
    CacheWrongOwner,
    SignatureInvalid,
)
from akpolicy.limits import MAX_CONTENT_BYTES
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_sidecar.state import decode_state, encode_state
from tests.attacks.stage import ORG, REGISTER, Attack, Stage
from tests.simulators.host import HostSimulator
from tests.simulators.messages import check_text
from tests.simulators.tampering import flip_bit, with_payload, with_signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOMEBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")


def blob(stage: Stage) -> Path:
    """Return the file of the org's content."""
    name = stage.host.directory.state.scopes[ORG].blob
    assert name is not None
    return stage.host.place / "blobs" / name


def envelope(stage: Stage) -> Path:
    """Return the file of the org's manifest."""
    return stage.host.place / "envelopes" / stage.host.directory.state.scopes[ORG].envelope


def state(stage: Stage) -> Path:
    """Return `state.json`, with all that is in its journal."""
    stage.host.directory.commit(stage.host.directory.state)
    return stage.host.place / "state.json"


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def one_version_back(data: bytes) -> bytes:
    return data.replace(b'"version":2', b'"version":1')


def reenvelope(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a kept envelope, so that it still is one."""
    path.write_bytes(envelope_to_bytes(change(envelope_from_bytes(path.read_bytes()))))


def put_back(stage: Stage) -> None:
    """Put the old, genuine manifest in the place of the newer one."""
    envelope(stage).write_bytes(envelope_to_bytes(stage.old[ORG][0]))


def replace_by(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(MAX_CONTENT_BYTES + 1)


def link_to_copy(path: Path) -> None:
    """Move a file away and leave a link to it."""
    moved = path.parent.parent.parent / "moved"
    path.rename(moved)
    path.symlink_to(moved)


FILES = REGISTER.table(
    (129, "truncated content is refused", CacheCorrupt, lambda s: edit(blob(s), lambda d: d[:-1])),
    (129, "a truncated state is refused", CacheCorrupt, lambda s: edit(state(s), lambda d: d[:-1])),
    (130, "edited content is refused", CacheCorrupt, lambda s: edit(blob(s), lambda d: d.replace(b"SSH", b"Run"))),
    (131, "an edited state is refused", CacheCorrupt, lambda s: edit(state(s), one_version_back)),
    (131, "a state of zero bytes is refused", CacheCorrupt, lambda s: edit(state(s), lambda _: b"")),
    (132, "oversize content is refused", CacheCorrupt, lambda s: grow(blob(s))),
    (133, "a bit flip in a kept manifest is refused", SignatureInvalid, lambda s: reenvelope(
        envelope(s), lambda e: with_payload(e, flip_bit(e.payload, 40))
    )),
    (133, "a bit flip in a kept signature is refused", SignatureInvalid, lambda s: reenvelope(
        envelope(s), lambda e: with_signature(e, lambda sig: flip_bit(sig, 9))
    )),
    (134, "an old genuine manifest that is put back is refused", CacheRolledBack, put_back),
    (135, "a removed state is noticed", CacheStateMissing, lambda s: state(s).unlink()),
    (136, "removed content is noticed", CacheMissing, lambda s: blob(s).unlink()),
    (136, "a removed manifest is noticed", CacheMissing, lambda s: envelope(s).unlink()),
    (137, "a link in the place of a file is refused", CacheSymlink, lambda s: link_to_copy(blob(s))),
    (137, "a link in the place of the state is refused", CacheSymlink, lambda s: link_to_copy(state(s))),
    (140, "a file that others can write is refused", CacheWritableByOthers, lambda s: blob(s).chmod(0o620)),
    (140, "a state that others can read is refused", CacheWritableByOthers, lambda s: state(s).chmod(0o604)),
    (144, "a file with a second name is refused", CacheHardlink, lambda s: os.link(blob(s), s.host.place.parent / "x")),
    (145, "a FIFO is refused and does not hang anybody", CacheNotRegular, lambda s: replace_by(blob(s), os.mkfifo)),
)  # fmt: skip


def tampered(stage: Stage, attack: Attack) -> HostSimulator:
    """Start the host again on what the attack left."""
    stage.host.close()
    attack.act(stage)
    place, host = stage.host.place, stage.host
    return HostSimulator(place, org=host.org, clock=host.clock, office=host.office)


@pytest.mark.parametrize("attack", FILES, ids=str)
def test_a_file_that_is_not_what_was_written_is_refused(stage: Stage, attack: Attack) -> None:
    assert attack.error is not None
    code = attack.error.__name__
    again = tampered(stage, attack)
    assert code in [trouble.error.code for trouble in again.troubles]
    assert again.counted(code) >= 1
    for trouble in again.troubles:
        check_text(str(trouble.error))
    # Nothing of it is enforced, nothing is decided without it, and nothing is claimed.
    assert ORG not in again.versions
    assert ORG not in again.digests
    assert again.decide() is None
    # The server heals it.
    stage.host = again.connect()
    assert stage.host.versions == {"global": 2, ORG: 2}
    stage.assert_decides()


@as_root
@REGISTER.single(143, "a file of another user is refused", CacheWrongOwner)
def test_another_users_file_is_refused(stage: Stage, attack: Attack) -> None:
    stage.host.close()
    os.chown(blob(stage), SOMEBODY, -1)
    again = HostSimulator(stage.host.place, org=stage.org, clock=stage.host.clock, office=stage.office)
    assert [(t.subject, t.error.code) for t in again.troubles] == [(ORG, "CacheWrongOwner")]
    assert again.counted("CacheWrongOwner") == 1
    assert again.decide() is None


def linked_directory(stage: Stage) -> Path:
    """Replace the directory of content by a link to it."""
    blobs, moved = stage.host.place / "blobs", stage.host.place.parent / "moved"
    blobs.rename(moved)
    blobs.symlink_to(moved)
    return stage.host.place


def linked_parent(stage: Stage) -> Path:
    """Return a path to the state directory that leads through a link."""
    link = stage.host.place.parent / "link"
    link.symlink_to(stage.host.place.parent)
    return link / stage.host.place.name


def open_directory(stage: Stage) -> Path:
    (stage.host.place / "blobs").chmod(0o770)
    return stage.host.place


def open_ancestor(stage: Stage) -> Path:
    stage.host.place.parent.chmod(0o777)
    return stage.host.place


DIRECTORIES = REGISTER.table(
    (138, "a link in the place of a directory is refused", CacheSymlink, linked_directory),
    (139, "a link above the directory is refused", CacheSymlink, linked_parent),
    (141, "a directory that others can write is refused", CacheWritableByOthers, open_directory),
    (142, "an ancestor that others can write is refused", CacheWritableByOthers, open_ancestor),
)


@pytest.mark.parametrize("attack", DIRECTORIES, ids=str)
def test_a_place_that_others_could_change_is_refused(stage: Stage, attack: Attack) -> None:
    assert attack.error is not None
    stage.host.close()
    try:
        place = attack.act(stage)
        with pytest.raises(attack.error) as caught:
            HostSimulator(place, org=stage.org, clock=stage.host.clock)
    finally:
        stage.host.place.parent.chmod(0o700)
    assert type(caught.value) is attack.error
    check_text(str(caught.value))


@REGISTER.single(146, "a second sidecar on the same state is refused", CacheLocked)
def test_one_sidecar_uses_a_state_directory(stage: Stage, attack: Attack) -> None:
    before = stage.facts()
    with pytest.raises(CacheLocked) as caught:
        HostSimulator(stage.host.place, org=stage.org, clock=stage.host.clock)
    check_text(str(caught.value))
    assert stage.facts() == before
    stage.assert_decides()


def test_whoever_can_rewrite_the_state_as_this_user_can_go_back_and_the_server_is_told(stage: Stage) -> None:
    # The limit that the documentation states: root on the host. What is enforced is claimed towards the server.
    old, old_blob = stage.old[ORG]
    path = state(stage)
    stage.host.close()
    kept = decode_state(path.read_bytes())
    put = {"envelopes": envelope_to_bytes(old), "blobs": old_blob}
    names = {}
    for directory, data in put.items():
        names[directory] = hashlib.sha256(data).hexdigest()
        file = stage.host.place / directory / names[directory]
        file.write_bytes(data)
        file.chmod(0o600)
    changes = {
        "version": 1,
        "digest": old.digest().hex(),
        "envelope": names["envelopes"],
        "blob": names["blobs"],
    }
    scopes = {**kept.scopes, ORG: kept.scopes[ORG].model_copy(update=changes)}
    path.write_bytes(encode_state(kept.model_copy(update={"scopes": scopes})))
    again = HostSimulator(stage.host.place, org=stage.org, clock=stage.host.clock, office=stage.office)
    assert again.versions[ORG] == 1
    hello = again.new_session().hello().hello
    assert {r.scope: r.version for r in hello.enforced}[ORG] == 1
    again.connect()
    assert again.versions[ORG] == 2

"""Power loss at any point of a sidecar's life: nothing acknowledged is lost, nothing goes back, nothing is half there.

The sidecar's own code writes, through a recorder (`tests.simulators.disk`); then the record is cut off at a point, an
adversary chooses what of the unsynced is left, and a sidecar starts on that.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from akpolicy import durable
from akpolicy.signing import PrivateKeySigner
from tests.attacks.stage import FORBID, ORG, PERMIT, roles_with
from tests.simulators.disk import Disk, RecordingOs
from tests.simulators.host import HostSimulator
from tests.simulators.office import bundle_messages, root_message
from tests.simulators.org import delegation, role

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


ROUNDS = 6
# For each of the seeds: so many points of the record, each with one choice of the adversary.
POINTS = 150
SEEDS = range(8)
MUTANT_POINTS = 400

pytestmark = pytest.mark.slow


class Told(NamedTuple):
    """What the host has told the server at a point of the record: it may rely on it."""

    versions: dict[str, int]
    deleted: frozenset[str]
    root: int
    seq: int


class Life:
    """A sidecar's life, and the record of what it wrote."""

    def __init__(self, place: Path, recorder: RecordingOs) -> None:
        self.recorder = recorder
        self.host = HostSimulator(place)
        self.tell()

    def tell(self) -> None:
        """Note what has been acknowledged by now."""
        host = self.host
        state = host.directory.state
        self.recorder.note(
            Told(
                {bundle.scope: bundle.version for bundle in host.updater.revisions},
                frozenset(set(host.digests) - set(host.versions)),
                host.updater.root_version,
                state.heartbeat.seq if state.heartbeat else 0,
            )
        )

    def live(self) -> None:
        """Publish, roll back, delete, rotate, beat and restart, several times."""
        host, org, office = self.host, self.host.org, self.host.office
        host.hear(*office.greeting(host.new_session().hello().hello))
        self.tell()
        for turn in range(ROUNDS):
            host.clock.advance(1)
            for scope, policies in (("global", PERMIT), (ORG, FORBID)):
                held = office.publish({**policies, "x": _filler(turn)}, scope=scope, min_version=1)
                host.hear(*office.bundle(scope))
                self.tell()
            host.beat()
            self.tell()
            if turn == 1:
                root = office.add_root(_rotation(host, len(office.roots) + 1))
                host.hear(root_message(root)).beat()
                self.tell()
            if turn == 2:
                original, blob = held.envelope, held.blob
                office.publish({**FORBID, "y": _filler(turn, "y")}, scope=ORG, min_version=1)
                host.hear(*office.bundle(ORG))
                self.tell()
                rollback = org.rollback_envelope(original)
                office.hold(ORG, rollback, blob, original)
                host.hear(*bundle_messages(rollback, blob, original=original))
                self.tell()
            if turn == 3:
                office.hold(ORG, org.deletion_envelope(ORG), None)
                host.hear(*office.bundle(ORG)).beat(issued_at=int(host.clock.now()))
                self.tell()
            if turn == 4:
                self.host = host = host.restart()
                host.connect()
                self.tell()


def _filler(turn: int, policy_id: str = "x") -> str:
    return f'@id("{policy_id}") forbid (principal, action == AgentKernel::Action::"PortMap", resource); // {turn}'


def _rotation(host: HostSimulator, version: int) -> Any:
    """Return the next root, with a new root key."""
    org, old, new = host.org, host.org.root_signer, PrivateKeySigner.generate()
    roles = {**roles_with(org, delegation(ORG, org.bundle_signer)), "root": role(new)}
    root = org.root_envelope(version=version, signers=[new], roles=roles, signed_by=[old, new])
    org.root_signer = new
    return root


def record(place: Path, monkeypatch: pytest.MonkeyPatch, recorder: RecordingOs) -> Life:
    """Live a life on `place` and return it with its record."""
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", recorder)
        life = Life(place, recorder)
        life.live()
    life.host.close()
    return life


def after_power_loss(life: Life, root: Path, at: int, draw: random.Random, place: Path) -> tuple[Told, HostSimulator]:
    """Start a host on what is left when power is lost after `at` changes; also return what it had told by then."""
    disk = Disk(root)
    told = Told({}, frozenset(), 0, 0)
    for event in life.recorder.events[:at]:
        if event.step == "note":
            told = event.data
        else:
            disk.play(event)
    disk.lose_power(draw, place)
    host = life.host
    again = HostSimulator(place, org=host.org, clock=host.clock, office=host.office, anchors=host.anchors)
    return told, again


def violations(told: Told, host: HostSimulator) -> list[str]:
    """Return what the host that came up breaks of what it had told."""
    found = [f"{trouble.subject}: {trouble.error.code}" for trouble in host.troubles]
    versions = {bundle.scope: bundle.version for bundle in host.updater.revisions}
    found += [
        f"{scope} went from {version} to {versions.get(scope)}"
        for scope, version in told.versions.items()
        if versions.get(scope, 0) < version
    ]
    if host.updater.root_version < told.root:
        found.append(f"the root went from {told.root} to {host.updater.root_version}")
    state = host.directory.state
    if (state.heartbeat.seq if state.heartbeat else 0) < told.seq:
        found.append("a heartbeat was forgotten")
    return found


def points(life: Life, count: int, draw: random.Random) -> list[int]:
    """Return points of the record, each after some change."""
    last = len(life.recorder.events)
    return [draw.randrange(1, last + 1) for _ in range(count)]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_power_loss_takes_back_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    life = record(tmp_path / "life", monkeypatch, RecordingOs())
    for number, at in enumerate(points(life, POINTS, draw)):
        place = tmp_path / f"after-{number}"
        told, host = after_power_loss(life, tmp_path / "life", at, draw, place)
        assert violations(told, host) == [], f"seed {seed}, after {at} changes"
        host.close()
        shutil.rmtree(place)


def in_place(path: Path, data: bytes) -> None:
    """Write as a careless writer would: over the old file."""
    os = vars(durable)["os"]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)
    durable.sync_directory(path.parent)


MUTANTS: list[tuple[str, dict[str, bool], Callable[[Path, bytes], None] | None]] = [
    ("without fsync of files", {"sync_files": False}, None),
    ("without fsync of directories", {"sync_directories": False}, None),
    ("in place", {}, in_place),
]


@pytest.mark.parametrize(("flags", "writer"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_a_writer_that_is_less_careful_is_caught(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, bool],
    writer: Callable[[Path, bytes], None] | None,
) -> None:
    if writer is not None:
        monkeypatch.setattr("akpolicy_sidecar.cache.write_atomic", writer)
    life = record(tmp_path / "life", monkeypatch, RecordingOs(**flags))
    draw = random.Random(7)
    for number, at in enumerate(points(life, MUTANT_POINTS, draw)):
        place = tmp_path / f"after-{number}"
        told, host = after_power_loss(life, tmp_path / "life", at, draw, place)
        caught = violations(told, host)
        host.close()
        shutil.rmtree(place)
        if caught:
            return
    pytest.fail(f"none of {MUTANT_POINTS} power losses showed it")

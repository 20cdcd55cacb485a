"""What trust costs on this machine: verifying bundles, believing heartbeats, following roots at a start.

Run it with `make bench-trust`. Everything is the sidecar's own code with real keys, on a directory of this machine's
disk; nothing listens and nothing is sent. Medians of many turns in one process; beside them stands what the same run
needs for the bare parts (a signature check, a SHA-256, a durable write): only ratios carry over to other machines.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import describe_content, encode_content
from akpolicy.durable import write_atomic
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust import Judge
from bench.table import Line, report
from tests.simulators.clock import ManualClock
from tests.simulators.host import HostSimulator
from tests.simulators.org import OrgSimulator, delegation, role

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS: Final = 200
CONTENT_BYTES: Final = 1_000_000
ROOTS: Final = 256
STARTS: Final = 5
MAX_VERIFY_MS: Final = 2.0
MAX_HEARTBEAT_MS: Final = 2.0
MAX_ROOTS_S: Final = 1.0


def main() -> int:
    """Measure, print the table, write it down; return 1 if a target is missed."""
    return report(__doc__ or "", _measure)


def _measure() -> list[Line]:
    with tempfile.TemporaryDirectory(prefix="akpolicy-bench-", dir=Path.cwd()) as directory:
        place = Path(directory)
        return [*_verify(), *_heartbeat(place / "heartbeat"), *_roots(place / "roots"), *_bare()]


def _ms(turn: Callable[[], object]) -> float:
    began = time.perf_counter()
    turn()
    return (time.perf_counter() - began) * 1000


def _median_ms(turn: Callable[[], object], turns: int = TURNS) -> float:
    return statistics.median(_ms(turn) for _ in range(turns))


def _verify() -> list[Line]:
    """Judge a manifest with two signatures, then its content of a megabyte."""
    org, second = OrgSimulator(), PrivateKeySigner.generate()
    roles = {"root": role(org.root_signer), "bundle": [delegation(org.scope, org.bundle_signer, second, threshold=2)]}
    judge = Judge("acme", org.anchors)
    now = org.clock.now()
    judge.trust_root(org.root_envelope(signers=[second], roles=roles), now)
    text = 'permit (principal, action, resource) when { resource.name == "' + "x" * 560 + '" };'
    blob = encode_content([(f"policy-{n}", text) for n in range(CONTENT_BYTES // (len(text) + 35))])
    envelope, _ = org.bundle_envelope(org.scope, blob, signed_by=[org.bundle_signer, second])
    count = blob.count(b'"id"')
    envelope = org.sign_manifest(org.manifest_document(org.scope, blob, count), [org.bundle_signer, second])
    reference = describe_content(blob, count)

    def verify() -> None:
        verified = judge.judge_manifest(envelope, now)
        assert verified.manifest.content is not None  # noqa: S101 - the benchmark's own sanity
        assert hashlib.sha256(blob).hexdigest() == verified.manifest.content.digest == reference.digest  # noqa: S101

    verified = judge.judge_manifest(envelope, now)
    manifest = _median_ms(lambda: judge.judge_manifest(envelope, now))
    opened = _median_ms(lambda: judge.judge_content(verified, blob), TURNS // 10)
    size = len(blob) / 1e6
    return [
        Line(
            f"manifest, two signatures, and {size:.2f} MB by digest, verified", _median_ms(verify), "ms", MAX_VERIFY_MS
        ),
        Line("  of that the manifest", manifest, "ms"),
        Line(f"  and then the {count} policies opened as strict JSON", opened, "ms"),
    ]


def _heartbeat(place: Path) -> list[Line]:
    """Believe a heartbeat, from the message to the state on disk."""
    # Two clocks: the server's heartbeats are made beforehand, one a second.
    servers, hosts = ManualClock(), ManualClock()
    host = HostSimulator(place, org=OrgSimulator(clock=servers), clock=hosts)
    host.office.publish()
    host.office.publish(scope="org/acme")
    host.connect()
    beats = []
    for _ in range(TURNS):
        servers.advance(1)
        beats.append(host.office.heartbeat())

    # In turns, so that a busy disk slows down both.
    believed, bare = [], []
    for beat in beats:
        hosts.advance(1)
        believed.append(_ms(lambda beat=beat: host.hear(beat)))  # type: ignore[misc]
        bare.append(_ms(lambda: write_atomic(place.parent / "file", b"x" * 1024)))
    refused = host.nacks
    host.close()
    if refused:
        raise RuntimeError(refused)
    median, durable = statistics.median(believed), statistics.median(bare)
    return [
        Line("heartbeat believed, state written and synced", median, "ms", MAX_HEARTBEAT_MS),
        Line("bare: one durable write of 1 KB, in the same turns", durable, "ms"),
        Line("  heartbeat / bare write", median / durable, "x"),
    ]


def _roots(place: Path) -> list[Line]:
    """Follow a chain of roots from disk at a start."""
    host = HostSimulator(place)
    org = host.org
    for version in range(2, ROOTS + 1):
        new = PrivateKeySigner.generate()
        roles = {**org.root_document()["roles"], "root": role(new)}
        root = org.root_envelope(version=version, signers=[new], roles=roles, signed_by=[org.root_signer, new])
        org.root_signer = new
        host.office.add_root(root)
    host.office.publish()
    host.connect()
    times = []
    for _ in range(STARTS):
        host.close()
        began = time.perf_counter()
        host = HostSimulator(place, org=org, clock=host.clock, anchors=host.anchors, office=host.office)
        times.append(time.perf_counter() - began)
        if host.updater.root_version != ROOTS:
            raise RuntimeError(host.troubles)
    host.close()
    return [Line(f"start on a cache with {ROOTS} roots, each rotated, max of {STARTS}", max(times), "s", MAX_ROOTS_S)]


def _bare() -> list[Line]:
    """Measure the parts that nobody can do without."""
    signer, message, blob = PrivateKeySigner.generate(), b"x" * 2048, os.urandom(CONTENT_BYTES)
    signature = signer.sign(message)
    return [
        Line("bare: one Ed25519 check", _median_ms(lambda: signer.public_key.verifies(signature, message)), "ms"),
        Line("bare: SHA-256 of 1 MB", _median_ms(lambda: hashlib.sha256(blob).digest()), "ms"),
    ]


if __name__ == "__main__":
    sys.exit(main())

"""The audit log: one JSON line a decision.

Rules:

- A line is `akpolicy.v1.DecisionRecord` as JSON, with the field names of the message and numbers as numbers. It is
  written whole, by one write(2) to a file opened with O_APPEND, before the answer leaves.
- A record that cannot be written is counted, logged once until writing works again, and shown by /readyz; the decision
  stands. Denying everything while a disk is full would turn a full log into an outage of every sandbox on the host;
  whoever needs the other choice can alert on `akpolicy_sidecar_audit_errors_total`.
- A pipe or terminal whose reader has stopped must not stop decisions: where the target is no file, a record that
  cannot be written at once counts as one that cannot be written.
- The file is created 0600. A link or anything but a regular file is refused at start.
- `reopen` follows a log rotation: the file that has the name now is written from then on.
"""

from __future__ import annotations

import json
import os
import select
import stat
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.decision import Effect
from akpolicy.durable import PRIVATE_FILE_MODE
from akpolicy.errors import StartupError
from akpolicy_sidecar.settings import AUDIT_OFF, AUDIT_STDOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.decision import Decision

OCSF_CLASS_AUTHORIZE: Final = 3003
OCSF_ACTIVITY: Final = 1
OCSF_SEVERITY: Final = {Effect.ALLOW: 1, Effect.DENY: 3}
OCSF_STATUS: Final = {Effect.ALLOW: 1, Effect.DENY: 2}
VERDICT: Final = {Effect.ALLOW: "Permit", Effect.DENY: "Deny"}

_OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

log = structlog.get_logger(__name__)


def record_of(
    decision: Decision, *, wall: float, org: str, principal: str, action: str, resource: str, sandbox: str
) -> bytes:
    """Return the line of a decision; `principal` and `resource` are entity ids, `wall` is in epoch seconds."""
    effect = decision.effect
    record = {
        "timestamp": datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "class_uid": OCSF_CLASS_AUTHORIZE,
        "activity_id": OCSF_ACTIVITY,
        "principal": principal,
        "action": action,
        "resource": resource,
        "decision": VERDICT[effect],
        "matched_policies": [f"{policy.scope}/{policy.policy_id}" for policy in decision.determining],
        "evaluation_time_us": decision.evaluation_time_us,
        "org_id": org,
        "reason": decision.reason.name,
        "severity_id": OCSF_SEVERITY[effect],
        "status_id": OCSF_STATUS[effect],
        "decision_id": decision.decision_id,
        "policy_versions": {bundle.scope: bundle.version for bundle in decision.bundles},
        "mode": decision.mode.value,
        "deciding_layer": decision.deciding_layer,
        "sandbox": sandbox,
        "source": decision.source.value,
        "policy_age_ms": decision.policy_age_ms,
        "fresh": decision.fresh,
    }
    # ASCII only: a line feed or a terminal's control character in a name cannot break or forge a line.
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


class AuditLog:
    """Appends lines to a file or to standard output, or drops them. Safe to use from several threads."""

    def __init__(self, target: str, *, written: Callable[[], None], failed: Callable[[], None]) -> None:
        """Open `target`: a path, `-` (standard output) or `off`; `written` and `failed` count records.

        Raises `StartupError` if the file cannot be opened.
        """
        self._target = target
        self._written = written
        self._failed = failed
        self._lock = threading.Lock()
        self._torn = False
        self._broken = False
        try:
            self._descriptor = None if target == AUDIT_OFF else _open(target)
        except OSError as error:
            msg = f"cannot write the audit log `{target}`: {(error.strerror or str(error)).lower()}"
            raise StartupError(msg) from error

    @property
    def is_working(self) -> bool:
        """Whether the last record could be written."""
        return not self._broken

    def write(self, line: bytes) -> None:
        """Append a line, which ends with a line feed."""
        if self._descriptor is None:
            return
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                self._note_failure(error)
                return
        self._written()
        if self._broken:
            self._broken = False
            log.info("audit log works again", path=self._target)

    def reopen(self) -> None:
        """Open the file anew, after a rotation; the old one is kept if that fails."""
        if self._target in (AUDIT_OFF, AUDIT_STDOUT):
            return
        try:
            descriptor = _open(self._target)
        except OSError as error:
            log.error("cannot reopen the audit log; the old file is kept", path=self._target, error=str(error))  # noqa: TRY400 - the message says all
            return
        with self._lock:
            old, self._descriptor, self._torn = self._descriptor, descriptor, False
        if old is not None:
            os.close(old)
        log.info("audit log reopened", path=self._target)

    def close(self) -> None:
        """Make what was written durable and close the file; records that come later are dropped."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or descriptor == sys.stdout.fileno():
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            log.error("cannot flush the audit log", path=self._target, error=str(error))  # noqa: TRY400 - the message says all
        os.close(descriptor)

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            return
        if self._target == AUDIT_STDOUT and not _is_writable(self._descriptor):
            msg = "nobody reads the standard output"
            raise BlockingIOError(msg)
        # After a part of a line, the next one begins on a line of its own.
        data = b"\n" + line if self._torn else line
        size = os.write(self._descriptor, data)
        self._torn = size < len(data)
        if self._torn:
            msg = f"only {size} of {len(data)} bytes were written"
            raise OSError(msg)

    def _note_failure(self, error: OSError) -> None:
        self._failed()
        if not self._broken:
            self._broken = True
            log.error("cannot write the audit log; decisions go on", path=self._target, error=str(error))


def _is_writable(descriptor: int) -> bool:
    """Whether a write of a short line would not wait (a pipe takes at least PIPE_BUF bytes then, pipe(7))."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _open(target: str) -> int:
    if target == AUDIT_STDOUT:
        return sys.stdout.fileno()
    path = Path(target)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, _OPEN_FLAGS, PRIVATE_FILE_MODE)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = "is not a regular file"
        raise OSError(msg)
    return descriptor

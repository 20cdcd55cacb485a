"""What goes wrong between programs, on disk, in the server and at the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors.base import AkpolicyError

if TYPE_CHECKING:
    from akpolicy.errors.policy import Problem


class DistributionError(AkpolicyError):
    """The stream between server and sidecar broke its own rules."""


class StreamProtocolError(DistributionError):
    """A message that must not come here."""


class UpdateTooSlow(DistributionError):
    """An update did not complete in time."""


class CacheError(AkpolicyError):
    """The state directory cannot be believed or written."""


class CacheCorrupt(CacheError):
    """A file in the state directory is not what it should be."""


class CacheRolledBack(CacheError):
    """A genuine document in the state directory that is older than the one accepted last."""


class CacheStateMissing(CacheError):
    """Documents without the state that says what is enforced."""


class CacheMissing(CacheError):
    """The state names a file that is not there."""


class CacheLocked(CacheError):
    """Another process uses the state directory."""


class CacheWriteFailed(CacheError):
    """The state directory could not be written; nothing changed."""


class CacheSymlink(CacheError):
    """A symbolic link where a file or directory must be."""


class CacheWritableByOthers(CacheError):
    """A file or directory that others can access or replace."""


class CacheWrongOwner(CacheError):
    """A file or directory of another user."""


class CacheHardlink(CacheError):
    """A file with more than one name."""


class CacheNotRegular(CacheError):
    """Something that is not a regular file."""


class ServerError(AkpolicyError):
    """The server refuses an operation."""


class Unauthenticated(ServerError):
    """No API key, or a wrong or revoked one."""


class PermissionDenied(ServerError):
    """The API key's role or org does not allow it."""


class HostDenied(PermissionDenied):
    """The host is refused by its id, whatever it shows."""


class OrgNotFound(ServerError):
    """No such org."""


class OrgExists(ServerError):
    """The org exists already."""


class KeyNotFound(ServerError):
    """No such API key."""


class LastAdminKey(ServerError):
    """Nobody could administer the platform without this key."""


class RevisionNotFound(ServerError):
    """No such revision."""


class RootNotFound(ServerError):
    """The org has no such root, or none yet."""


class SignersMissing(ServerError):
    """The server holds too few of the keys that must sign."""


class VersionConflict(ServerError):
    """The scope is at another version than expected; `current` is its version."""

    def __init__(self, message: str, *, current: int) -> None:
        super().__init__(message)
        self.current = current


class OrgFrozen(ServerError):
    """The org is frozen, and a publish that does not say that it knows would end that."""


class IdempotencyKeyReused(ServerError):
    """The idempotency key was used for something else."""


class InvalidField(ServerError):
    """A request field is out of bounds."""


class HostNotDenied(ServerError):
    """The host that is to be let in again was not refused."""


class TooManyStreams(ServerError):
    """A host has too many open streams, all of them too young to make room."""


class TooManyDenials(ServerError):
    """More hosts are refused by id than a server looks through."""


class LegacyNotServed(ServerError):
    """agentkernel's own endpoint does not serve this org."""


class LegacyUnsupported(ServerError):
    """Something that agentkernel's own hosts, which the org still has, could not be served or would not understand."""


class StoreUnavailable(ServerError):
    """The database cannot be used right now."""


class ClientError(AkpolicyError):
    """No decision could be had. A runtime must treat it as denied."""


class SidecarUnreachable(ClientError):
    """Nobody answers on the sidecar's socket."""


class DeadlineExceeded(ClientError):
    """No answer within the deadline."""


class InvalidRequest(ClientError):
    """The sidecar refuses the request as it stands; repeating it will not help."""


class BadAnswer(ClientError):
    """An answer that is not a decision."""


class SessionRefused(ClientError):
    """The sidecar refuses a question of a session; `reason` is its name for why, for example `SessionExpired`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ServerUnreachable(ClientError):
    """The policy server cannot be reached."""


class ServerRefused(ClientError):
    """The policy server refuses; `status` is the gRPC status name, `problems` the mistakes in refused policies."""

    def __init__(self, message: str, *, status: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems


class BackupFailed(AkpolicyError):
    """A backup that cannot be made, or is not what can be restored."""

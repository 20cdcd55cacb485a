"""Every error that akpolicy raises on purpose.

Rules:

- Inside, code raises these; only a servicer turns them into a gRPC status, only a program's entry into an exit code.
- The class name is the error's stable `code`: it is counted in metrics, sent in a Nack and printed. Rename none.
- A message starts lower-case, has no final full stop, puts user input in backticks and says what to do where it can.
- Bad *data* raises a subclass of `AkpolicyError`. A wrong *call* (a bug) raises `RuntimeError` or `TypeError`.

::

    AkpolicyError
    ├── ConfigError                  a setting is wrong; every mistake is listed at once
    ├── UsageError                   a command was asked for something impossible
    ├── StartupError                 a program cannot start
    │   ├── AddressInUse  SocketInUse  SocketPathTooLong  SocketNotWritable  StateDirUnusable
    ├── TrustError                   a document that must not be believed
    │   ├── EnvelopeMalformed  EnvelopeTooLarge  PayloadTypeMismatch
    │   ├── SignatureInvalid  UnknownKey  ThresholdNotMet  KeyIdMismatch  KeyNotAuthorised
    │   ├── KeyExpired  KeyNotYetValid  KeyRevoked  ExpiryExceedsKey
    │   ├── WeakKey  AnchorFormat  DuplicateAnchor
    │   ├── PayloadNotUtf8  PayloadMalformed  DuplicateField  UnknownField  MissingField  FieldInvalid
    │   ├── ScopeMismatch  OrgMismatch
    │   ├── RollbackDetected  Equivocation  VersionJump  EpochMismatch
    │   ├── BundleExpired  IssuedInFuture  NotYetValid  LifetimeTooLong
    │   ├── RootMissing  RootExpired  RootUnanchored  RootChainGap  RootRollback  SidecarTooOld
    │   └── ContentDigestMismatch  ContentTooLarge  EncodingNotAllowed
    ├── KeyFileError                 a private key cannot be read or written
    ├── PolicyError                  policies that cannot be enforced (policy id, source, line)
    │   ├── EmptyPolicySet  PolicyCountMismatch  PolicyIdDuplicate  PolicyIdInvalid  PolicyIdMissing
    │   ├── PolicyTooLarge  PolicyTooDeep  TooManyPolicies  PolicyNotUtf8
    │   ├── PolicyParseError  PolicyTemplate  PolicyValidationError  SchemaInvalid  SchemaUnsupported
    │   └── PolicySetInvalid         carries several of the above
    ├── RequestInvalid               an authorization request that cannot be judged (field)
    ├── DistributionError            the stream broke its own rules
    │   └── StreamProtocolError  UpdateTooSlow
    ├── CacheError                   the state directory cannot be believed or written
    │   ├── CacheCorrupt  CacheStateMissing  CacheMissing  CacheLocked  CacheWriteFailed
    │   └── CacheSymlink  CacheWritableByOthers  CacheWrongOwner  CacheHardlink  CacheNotRegular
    ├── ServerError                  the server refuses an operation
    │   ├── Unauthenticated  PermissionDenied
    │   ├── OrgNotFound  OrgExists  KeyNotFound  RevisionNotFound
    │   ├── VersionConflict  IdempotencyKeyReused  InvalidField  TooManyStreams  StoreUnavailable
    └── ClientError                  the client library could not get an answer: treat as denied
        ├── SidecarUnreachable  DeadlineExceeded  InvalidRequest  BadAnswer
        └── ServerUnreachable  ServerRefused
"""

from __future__ import annotations

from dataclasses import dataclass


class AkpolicyError(Exception):
    """Base of every error raised on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def code(self) -> str:
        """The stable name of this error."""
        return type(self).__name__


# --- configuration and start ------------------------------------------------------------------------------------------


class ConfigError(AkpolicyError):
    """A configuration that cannot be used. `problems` has one line a mistake, each with file and line number."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join((message, *(f"  {p}" for p in problems))))
        self.problems = problems


class UsageError(AkpolicyError):
    """A command was asked for something impossible."""


class StartupError(AkpolicyError):
    """A program cannot start."""


class AddressInUse(StartupError):
    """A TCP address is taken."""


class SocketInUse(StartupError):
    """A Unix socket is served by a live process."""


class SocketPathTooLong(StartupError):
    """A Unix socket path does not fit into `sockaddr_un`."""


class SocketNotWritable(StartupError):
    """A Unix socket cannot be created where it should be."""


class StateDirUnusable(StartupError):
    """The state directory cannot be created or used."""


# --- trust ------------------------------------------------------------------------------------------------------------


class TrustError(AkpolicyError):
    """A document that must not be believed."""


class EnvelopeMalformed(TrustError):
    """Not an envelope."""


class EnvelopeTooLarge(TrustError):
    """An envelope over one of its limits."""


class PayloadTypeMismatch(TrustError):
    """Another kind of document than the one asked for."""


class SignatureInvalid(TrustError):
    """A known key's signature does not verify."""


class UnknownKey(TrustError):
    """No signature is by a known key."""


class ThresholdNotMet(TrustError):
    """Too few distinct keys signed."""


class KeyIdMismatch(TrustError):
    """A key is listed under an id that is not its own."""


class KeyNotAuthorised(TrustError):
    """A known key signed what it may not sign."""


class KeyExpired(TrustError):
    """A signing key is past its validity."""


class KeyNotYetValid(TrustError):
    """A signing key is before its validity."""


class KeyRevoked(TrustError):
    """A signing key is revoked."""


class ExpiryExceedsKey(TrustError):
    """A document outlives its signing key."""


class WeakKey(TrustError):
    """A public key that verifies forgeries (low order or not canonical)."""


class AnchorFormat(TrustError):
    """A trust anchor is not written as one."""


class DuplicateAnchor(TrustError):
    """A trust anchor is configured twice."""


class PayloadNotUtf8(TrustError):
    """A payload is not UTF-8."""


class PayloadMalformed(TrustError):
    """A payload is not a JSON object."""


class DuplicateField(TrustError):
    """A JSON object names a field twice."""


class UnknownField(TrustError):
    """A payload has a field that its specification does not know."""


class MissingField(TrustError):
    """A payload lacks a field."""


class FieldInvalid(TrustError):
    """A payload's field has a value that is not allowed."""


class ScopeMismatch(TrustError):
    """A document is for another scope than the one asked for, or carries what its scope may not."""


class OrgMismatch(TrustError):
    """A document is of another org."""


class RollbackDetected(TrustError):
    """An older version than the one enforced."""


class Equivocation(TrustError):
    """The same version with other content."""


class VersionJump(TrustError):
    """A version too far ahead of the one enforced."""


class EpochMismatch(TrustError):
    """Another epoch than the root's."""


class BundleExpired(TrustError):
    """A bundle past its expiry."""


class IssuedInFuture(TrustError):
    """A document issued after now, beyond the tolerated skew."""


class NotYetValid(TrustError):
    """A bundle before its validity."""


class LifetimeTooLong(TrustError):
    """A document that would live too long."""


class RootMissing(TrustError):
    """A document came before any trusted root."""


class RootExpired(TrustError):
    """The trusted root is past its expiry."""


class RootUnanchored(TrustError):
    """A first root that the configured anchors do not verify."""


class RootChainGap(TrustError):
    """A root that is not the next one."""


class RootRollback(TrustError):
    """An older root than the trusted one."""


class SidecarTooOld(TrustError):
    """The root demands a newer sidecar."""


class ContentDigestMismatch(TrustError):
    """Content that is not what the manifest names."""


class ContentTooLarge(TrustError):
    """Content over the limit or longer than the manifest says."""


class EncodingNotAllowed(TrustError):
    """Content in a media type or encoding that is not allowed."""


class KeyFileError(AkpolicyError):
    """A private key cannot be read or written."""


# --- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in policies: `line` counts from 1 in `source`; 0 and "" mean unknown."""

    code: str
    message: str
    policy_id: str = ""
    source: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = ":".join(part for part in (self.source, str(self.line) if self.line else "") if part)
        subject = f"policy `{self.policy_id}`: " if self.policy_id else ""
        return f"{where + ': ' if where else ''}{self.code}: {subject}{self.message}"


class PolicyError(AkpolicyError):
    """Policies that cannot be enforced. `line` counts from 1 in `source`; 0 and "" mean unknown."""

    def __init__(self, message: str, *, policy_id: str = "", source: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.policy_id = policy_id
        self.source = source
        self.line = line

    @property
    def problems(self) -> tuple[Problem, ...]:
        """This error as a list of problems (one, except for `PolicySetInvalid`)."""
        return (Problem(self.code, self.message, self.policy_id, self.source, self.line),)

    def __str__(self) -> str:
        return str(self.problems[0])


class EmptyPolicySet(PolicyError):
    """No policy at all, or only comments."""


class PolicyCountMismatch(PolicyError):
    """Another number of policies than stated."""


class PolicyIdDuplicate(PolicyError):
    """Two policies with one id."""


class PolicyIdInvalid(PolicyError):
    """An id with forbidden characters, or another one than the policy's `@id`."""


class PolicyIdMissing(PolicyError):
    """A policy without an `@id`."""


class PolicyTooLarge(PolicyError):
    """A policy, or the whole text, over its size limit."""


class PolicyTooDeep(PolicyError):
    """Brackets nested beyond the limit."""


class TooManyPolicies(PolicyError):
    """More policies than a scope may have."""


class PolicyNotUtf8(PolicyError):
    """Policy text that is not UTF-8."""


class PolicyParseError(PolicyError):
    """Policy text that Cedar cannot parse."""


class PolicyTemplate(PolicyError):
    """A template (`?principal`, `?resource`); these are not supported."""


class PolicyValidationError(PolicyError):
    """A policy that does not fit the schema."""


class SchemaInvalid(PolicyError):
    """A schema that Cedar cannot parse."""


class SchemaUnsupported(PolicyError):
    """A bundle with a schema of its own; these are not supported."""


class PolicySetInvalid(PolicyError):
    """Several problems at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(first.message + more, policy_id=first.policy_id, source=first.source, line=first.line)
        self._problems = problems

    @property
    def code(self) -> str:
        """The code of the first problem."""
        return self._problems[0].code

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Every problem, in order."""
        return self._problems

    def __str__(self) -> str:
        more = len(self._problems) - 1
        return f"{self._problems[0]}{f' (and {more} more)' if more else ''}"


class RequestInvalid(AkpolicyError):
    """An authorization request that cannot be judged; `field` names the culprit where it is known."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


# --- distribution and cache -------------------------------------------------------------------------------------------


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


# --- server -----------------------------------------------------------------------------------------------------------


class ServerError(AkpolicyError):
    """The server refuses an operation."""


class Unauthenticated(ServerError):
    """No API key, or a wrong or revoked one."""


class PermissionDenied(ServerError):
    """The API key's role or org does not allow it."""


class OrgNotFound(ServerError):
    """No such org."""


class OrgExists(ServerError):
    """The org exists already."""


class KeyNotFound(ServerError):
    """No such API key."""


class RevisionNotFound(ServerError):
    """No such revision."""


class VersionConflict(ServerError):
    """The scope is at another version than expected; `current` is its version."""

    def __init__(self, message: str, *, current: int) -> None:
        super().__init__(message)
        self.current = current


class IdempotencyKeyReused(ServerError):
    """The idempotency key was used for something else."""


class InvalidField(ServerError):
    """A request field is out of bounds."""


class TooManyStreams(ServerError):
    """A host has too many open streams."""


class StoreUnavailable(ServerError):
    """The database cannot be used right now."""


# --- client -----------------------------------------------------------------------------------------------------------


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


class ServerUnreachable(ClientError):
    """The policy server cannot be reached."""


class ServerRefused(ClientError):
    """The policy server refuses; `status` is the gRPC status name, `problems` the mistakes in refused policies."""

    def __init__(self, message: str, *, status: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems

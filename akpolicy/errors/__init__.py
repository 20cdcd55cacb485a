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
    │   ├── AddressInUse  SocketInUse  SocketPathTooLong  SocketNotWritable  StateDirUnusable  HandoverFailed
    ├── TrustError                   a document that must not be believed
    │   ├── EnvelopeMalformed  EnvelopeTooLarge  PayloadTypeMismatch
    │   ├── SignatureInvalid  UnknownKey  ThresholdNotMet  KeyIdMismatch  KeyNotAuthorised
    │   ├── KeyExpired  KeyNotYetValid  KeyRevoked  ExpiryExceedsKey
    │   ├── WeakKey  AnchorFormat  DuplicateAnchor
    │   ├── PayloadNotUtf8  PayloadMalformed  DuplicateField  UnknownField  MissingField  FieldInvalid
    │   ├── ScopeMismatch  TooManyScopes  OrgMismatch
    │   ├── RollbackDetected  RollbackNotAuthorised  Equivocation  VersionJump  EpochMismatch
    │   ├── BundleExpired  IssuedInFuture  NotYetValid  LifetimeTooLong  ClockRollback  ClockJump
    │   ├── HeartbeatStale  HeartbeatReplay  HeartbeatRollback  HeartbeatNonceMismatch  PolicyStale
    │   ├── RootMissing  RootExpired  RootUnanchored  RootChainGap  RootChainTooLong  RootRollback
    │   ├── RootThresholdOld  RootThresholdNew  SidecarTooOld
    │   └── ContentDigestMismatch  ContentTooLarge  EncodingNotAllowed
    ├── SignerError                  a private key cannot be used
    │   └── KeyFileError  SignerUnavailable  SigningFailed
    ├── PolicyError                  policies that cannot be enforced (policy id, source, line)
    │   ├── EmptyPolicySet  PolicyCountMismatch  PolicyIdDuplicate  PolicyIdInvalid  PolicyIdMissing
    │   ├── PolicyTooLarge  PolicyTooDeep  TooManyPolicies  PolicyNotUtf8  PolicyCrashesEngine
    │   ├── EngineUnavailable
    │   ├── PolicyParseError  PolicyTemplate  PolicyValidationError  PolicyAnnotationInvalid
    │   ├── SchemaInvalid  SchemaUnsupported
    │   ├── SchemaConflict
    │   └── PolicySetInvalid         carries several of the above
    ├── RequestInvalid               an authorization request that cannot be judged (field)
    ├── SessionError                 a session's question that gets no decision, or a call that its socket does not take
    │   ├── SessionUnknown  SessionClosed  SessionExpired  SessionRateLimited  SessionQuotaExhausted
    │   └── SessionRequired  TooManySessions  ForeignOrg  TooManyQuestionStreams
    ├── DistributionError            the stream broke its own rules
    │   └── StreamProtocolError  UpdateTooSlow
    ├── CacheError                   the state directory cannot be believed or written
    │   ├── CacheCorrupt  CacheRolledBack  CacheStateMissing  CacheMissing  CacheLocked  CacheWriteFailed
    │   └── CacheSymlink  CacheWritableByOthers  CacheWrongOwner  CacheHardlink  CacheNotRegular
    ├── BackupFailed                 a backup that cannot be made or restored
    ├── ServerError                  the server refuses an operation
    │   ├── Unauthenticated  PermissionDenied  HostDenied  HostNotDenied  TooManyDenials
    │   ├── OrgNotFound  OrgExists  KeyNotFound  LastAdminKey  RevisionNotFound  RootNotFound  SignersMissing
    │   ├── VersionConflict  OrgFrozen  IdempotencyKeyReused  InvalidField  TooManyStreams  StoreUnavailable
    │   └── LegacyNotServed  LegacyUnsupported
    └── ClientError                  the client library could not get an answer: treat as denied
        ├── SidecarUnreachable  DeadlineExceeded  InvalidRequest  BadAnswer  SessionRefused
        └── ServerUnreachable  ServerRefused
"""

from akpolicy.errors.base import (
    AddressInUse,
    AkpolicyError,
    ConfigError,
    HandoverFailed,
    SocketInUse,
    SocketNotWritable,
    SocketPathTooLong,
    StartupError,
    StateDirUnusable,
    UsageError,
)
from akpolicy.errors.operation import (
    BackupFailed,
    BadAnswer,
    CacheCorrupt,
    CacheError,
    CacheHardlink,
    CacheLocked,
    CacheMissing,
    CacheNotRegular,
    CacheRolledBack,
    CacheStateMissing,
    CacheSymlink,
    CacheWritableByOthers,
    CacheWriteFailed,
    CacheWrongOwner,
    ClientError,
    DeadlineExceeded,
    DistributionError,
    HostDenied,
    HostNotDenied,
    IdempotencyKeyReused,
    InvalidField,
    InvalidRequest,
    KeyNotFound,
    LastAdminKey,
    LegacyNotServed,
    LegacyUnsupported,
    OrgExists,
    OrgFrozen,
    OrgNotFound,
    PermissionDenied,
    RevisionNotFound,
    RootNotFound,
    ServerError,
    ServerRefused,
    ServerUnreachable,
    SessionRefused,
    SidecarUnreachable,
    SignersMissing,
    StoreUnavailable,
    StreamProtocolError,
    TooManyDenials,
    TooManyStreams,
    Unauthenticated,
    UpdateTooSlow,
    VersionConflict,
)
from akpolicy.errors.policy import (
    EmptyPolicySet,
    EngineUnavailable,
    PolicyAnnotationInvalid,
    PolicyCountMismatch,
    PolicyCrashesEngine,
    PolicyError,
    PolicyIdDuplicate,
    PolicyIdInvalid,
    PolicyIdMissing,
    PolicyNotUtf8,
    PolicyParseError,
    PolicySetInvalid,
    PolicyTemplate,
    PolicyTooDeep,
    PolicyTooLarge,
    PolicyValidationError,
    Problem,
    RequestInvalid,
    SchemaConflict,
    SchemaInvalid,
    SchemaUnsupported,
    TooManyPolicies,
)
from akpolicy.errors.session import (
    ForeignOrg,
    SessionClosed,
    SessionError,
    SessionExpired,
    SessionQuotaExhausted,
    SessionRateLimited,
    SessionRequired,
    SessionUnknown,
    TooManyQuestionStreams,
    TooManySessions,
)
from akpolicy.errors.trust import (
    AnchorFormat,
    BundleExpired,
    ClockJump,
    ClockRollback,
    ContentDigestMismatch,
    ContentTooLarge,
    DuplicateAnchor,
    DuplicateField,
    EncodingNotAllowed,
    EnvelopeMalformed,
    EnvelopeTooLarge,
    EpochMismatch,
    Equivocation,
    ExpiryExceedsKey,
    FieldInvalid,
    HeartbeatNonceMismatch,
    HeartbeatReplay,
    HeartbeatRollback,
    HeartbeatStale,
    IssuedInFuture,
    KeyExpired,
    KeyFileError,
    KeyIdMismatch,
    KeyNotAuthorised,
    KeyNotYetValid,
    KeyRevoked,
    LifetimeTooLong,
    MissingField,
    NotYetValid,
    OrgMismatch,
    PayloadMalformed,
    PayloadNotUtf8,
    PayloadTypeMismatch,
    PolicyStale,
    RollbackDetected,
    RollbackNotAuthorised,
    RootChainGap,
    RootChainTooLong,
    RootExpired,
    RootMissing,
    RootRollback,
    RootThresholdNew,
    RootThresholdOld,
    RootUnanchored,
    ScopeMismatch,
    SidecarTooOld,
    SignatureInvalid,
    SignerError,
    SignerUnavailable,
    SigningFailed,
    ThresholdNotMet,
    TooManyScopes,
    TrustError,
    UnknownField,
    UnknownKey,
    VersionJump,
    WeakKey,
)

__all__ = [
    "AddressInUse",
    "AkpolicyError",
    "AnchorFormat",
    "BackupFailed",
    "BadAnswer",
    "BundleExpired",
    "CacheCorrupt",
    "CacheError",
    "CacheHardlink",
    "CacheLocked",
    "CacheMissing",
    "CacheNotRegular",
    "CacheRolledBack",
    "CacheStateMissing",
    "CacheSymlink",
    "CacheWritableByOthers",
    "CacheWriteFailed",
    "CacheWrongOwner",
    "ClientError",
    "ClockJump",
    "ClockRollback",
    "ConfigError",
    "ContentDigestMismatch",
    "ContentTooLarge",
    "DeadlineExceeded",
    "DistributionError",
    "DuplicateAnchor",
    "DuplicateField",
    "EmptyPolicySet",
    "EncodingNotAllowed",
    "EngineUnavailable",
    "EnvelopeMalformed",
    "EnvelopeTooLarge",
    "EpochMismatch",
    "Equivocation",
    "ExpiryExceedsKey",
    "FieldInvalid",
    "ForeignOrg",
    "HandoverFailed",
    "HeartbeatNonceMismatch",
    "HeartbeatReplay",
    "HeartbeatRollback",
    "HeartbeatStale",
    "HostDenied",
    "HostNotDenied",
    "IdempotencyKeyReused",
    "InvalidField",
    "InvalidRequest",
    "IssuedInFuture",
    "KeyExpired",
    "KeyFileError",
    "KeyIdMismatch",
    "KeyNotAuthorised",
    "KeyNotFound",
    "KeyNotYetValid",
    "KeyRevoked",
    "LastAdminKey",
    "LegacyNotServed",
    "LegacyUnsupported",
    "LifetimeTooLong",
    "MissingField",
    "NotYetValid",
    "OrgExists",
    "OrgFrozen",
    "OrgMismatch",
    "OrgNotFound",
    "PayloadMalformed",
    "PayloadNotUtf8",
    "PayloadTypeMismatch",
    "PermissionDenied",
    "PolicyAnnotationInvalid",
    "PolicyCountMismatch",
    "PolicyCrashesEngine",
    "PolicyError",
    "PolicyIdDuplicate",
    "PolicyIdInvalid",
    "PolicyIdMissing",
    "PolicyNotUtf8",
    "PolicyParseError",
    "PolicySetInvalid",
    "PolicyStale",
    "PolicyTemplate",
    "PolicyTooDeep",
    "PolicyTooLarge",
    "PolicyValidationError",
    "Problem",
    "RequestInvalid",
    "RevisionNotFound",
    "RollbackDetected",
    "RollbackNotAuthorised",
    "RootChainGap",
    "RootChainTooLong",
    "RootExpired",
    "RootMissing",
    "RootNotFound",
    "RootRollback",
    "RootThresholdNew",
    "RootThresholdOld",
    "RootUnanchored",
    "SchemaConflict",
    "SchemaInvalid",
    "SchemaUnsupported",
    "ScopeMismatch",
    "ServerError",
    "ServerRefused",
    "ServerUnreachable",
    "SessionClosed",
    "SessionError",
    "SessionExpired",
    "SessionQuotaExhausted",
    "SessionRateLimited",
    "SessionRefused",
    "SessionRequired",
    "SessionUnknown",
    "SidecarTooOld",
    "SidecarUnreachable",
    "SignatureInvalid",
    "SignerError",
    "SignerUnavailable",
    "SignersMissing",
    "SigningFailed",
    "SocketInUse",
    "SocketNotWritable",
    "SocketPathTooLong",
    "StartupError",
    "StateDirUnusable",
    "StoreUnavailable",
    "StreamProtocolError",
    "ThresholdNotMet",
    "TooManyDenials",
    "TooManyPolicies",
    "TooManyQuestionStreams",
    "TooManyScopes",
    "TooManySessions",
    "TooManyStreams",
    "TrustError",
    "Unauthenticated",
    "UnknownField",
    "UnknownKey",
    "UpdateTooSlow",
    "UsageError",
    "VersionConflict",
    "VersionJump",
    "WeakKey",
]

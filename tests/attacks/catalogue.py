"""The acceptance list: every attack that must be refused, by number, and the error that it must lead to.

Numbers are stable. An empty name means that nothing is wrong and nothing may happen.
"""

from __future__ import annotations

from typing import Final

_RANGES: Final[tuple[tuple[int, int, str], ...]] = (
    # Envelope
    (1, 7, "SignatureInvalid"),
    (8, 8, "UnknownKey"),
    (9, 11, "PayloadTypeMismatch"),
    (12, 15, "EnvelopeTooLarge"),
    (16, 17, "EnvelopeMalformed"),
    # Threshold and roles
    (18, 21, "ThresholdNotMet"),
    (22, 22, "KeyIdMismatch"),
    (23, 29, "KeyNotAuthorised"),
    # Keys
    (30, 30, "KeyExpired"),
    (31, 31, "KeyNotYetValid"),
    (32, 33, "KeyRevoked"),
    (34, 34, "ExpiryExceedsKey"),
    (35, 37, "WeakKey"),
    (38, 41, "AnchorFormat"),
    (42, 42, "DuplicateAnchor"),
    (43, 43, "AnchorFormat"),
    # Payload
    (44, 44, "DuplicateField"),
    (45, 47, "PayloadNotUtf8"),
    (48, 53, "FieldInvalid"),
    (54, 55, "PayloadMalformed"),
    (56, 56, "UnknownField"),
    (57, 57, "MissingField"),
    # Scope
    (58, 59, "ScopeMismatch"),
    (60, 61, "OrgMismatch"),
    # Version
    (62, 63, "RollbackDetected"),
    (64, 64, "Equivocation"),
    (65, 65, "VersionJump"),
    (66, 67, "EpochMismatch"),
    (68, 68, ""),
    (69, 69, "RollbackDetected"),
    (70, 76, "RollbackNotAuthorised"),
    # Time
    (77, 77, "BundleExpired"),
    (78, 78, "IssuedInFuture"),
    (79, 79, "NotYetValid"),
    (80, 81, "LifetimeTooLong"),
    (82, 83, "ClockRollback"),
    (84, 84, "ClockJump"),
    (85, 86, ""),
    # Heartbeat
    (87, 87, "HeartbeatReplay"),
    (88, 91, "HeartbeatStale"),
    (92, 92, "HeartbeatNonceMismatch"),
    (93, 94, "HeartbeatRollback"),
    (95, 96, "Equivocation"),
    (97, 97, ""),
    # Root
    (98, 98, "RootThresholdNew"),
    (99, 100, "RootThresholdOld"),
    (101, 101, "RootChainGap"),
    (102, 103, "RootRollback"),
    (104, 104, "RootUnanchored"),
    (105, 105, "RootExpired"),
    (106, 108, "FieldInvalid"),
    (109, 109, "SidecarTooOld"),
    (110, 110, "RootChainTooLong"),
    # Content
    (111, 112, "ContentDigestMismatch"),
    (113, 114, "ContentTooLarge"),
    (115, 115, "EncodingNotAllowed"),
    (116, 117, "EmptyPolicySet"),
    (118, 120, "PolicyCountMismatch"),
    (121, 121, "PolicyIdDuplicate"),
    (122, 123, "PolicyIdInvalid"),
    (124, 124, "PolicyParseError"),
    (125, 125, "PolicyTooDeep"),
    (126, 126, "SchemaInvalid"),
    (127, 127, "PolicyValidationError"),
    (128, 128, "PolicyCrashesEngine"),
    # Cache
    (129, 132, "CacheCorrupt"),
    (133, 133, "SignatureInvalid"),
    (134, 134, "CacheRolledBack"),
    (135, 135, "CacheStateMissing"),
    (136, 136, "CacheMissing"),
    (137, 139, "CacheSymlink"),
    (140, 142, "CacheWritableByOthers"),
    (143, 143, "CacheWrongOwner"),
    (144, 144, "CacheHardlink"),
    (145, 145, "CacheNotRegular"),
    (146, 146, "CacheLocked"),
    # Offline
    (147, 150, "PolicyStale"),
    (151, 151, "KeyRevoked"),
    (152, 152, "PolicyStale"),
    (153, 153, "BundleExpired"),
    (154, 154, ""),
)

CATALOGUE: Final[dict[int, str]] = {number: name for first, last, name in _RANGES for number in range(first, last + 1)}

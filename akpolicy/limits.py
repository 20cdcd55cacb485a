"""Limits of documents and messages: what is refused before it costs anything.

Each is enforced where the bytes enter; both ends share the numbers, so that the server refuses what a sidecar would.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Signed documents. 4,096 is what a KMS signs raw (AWS KMS, message type RAW).
MAX_PAE_BYTES: Final = 4096
MAX_ROOT_PAE_BYTES: Final = 256 * KIB
MAX_SIGNATURES: Final = 16
MAX_ENVELOPE_BYTES: Final = 64 * KIB
MAX_ROOT_ENVELOPE_BYTES: Final = 512 * KIB
MAX_JSON_INT: Final = 2**53 - 1

# The index of all scopes of an org, `global` among them; a usual line has 110 bytes.
MAX_INDEX_SCOPES: Final = 20_001
MAX_INDEX_BYTES: Final = 3 * MIB

# Roots that are followed at once: one after the other, each signed by the one before.
MAX_ROTATIONS: Final = 256

# Content.
MAX_CONTENT_BYTES: Final = 32 * MIB
MAX_POLICIES: Final = 50_000
MAX_POLICY_BYTES: Final = 16 * KIB
MAX_SCHEMA_BYTES: Final = 1 * MIB

# Time, in seconds.
CLOCK_SKEW_S: Final = 60
# How far ahead of the wall clock a signed time can be proven at the most: a clock that is right may be slewed back.
MAX_PROOF_LEAD_S: Final = 30
# By what share a boot clock may be fast or slow.
MAX_CLOCK_DRIFT: Final = 0.0002
# How long after it was asked for an answer to a nonce tells the time. Roots and bundles come before it.
MAX_ANSWER_DELAY_S: Final = 300
MAX_BUNDLE_LIFETIME_S: Final = 366 * 86_400
DEFAULT_HEARTBEAT_LIFETIME_S: Final = 300
MAX_HEARTBEAT_LIFETIME_S: Final = 3600
# How long a host that polls may wait between polls.
MAX_POLL_INTERVAL_S: Final = 300
MAX_VERSION_JUMP: Final = 2**20

# gRPC. The 4 MiB default is kept; what is larger goes in chunks.
MAX_MESSAGE_BYTES: Final = 4 * MIB
MAX_CHUNK_BYTES: Final = 256 * KIB
# Of messages that go to a host together. A batch is one message in what they cost to send.
MAX_BATCH_BYTES: Final = 256 * KIB
MAX_BATCH: Final = 1000

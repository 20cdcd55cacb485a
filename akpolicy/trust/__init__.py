"""The one judge of trust: bytes in, a typed document or a typed error out.

Rules:

- Nothing else in akpolicy decides whether a document is believed. Server, sidecar, command line and tests ask `Judge`;
  the cache and the network go through the same door.
- Received bytes are verified first and parsed after. A threshold counts distinct *keys*, never ids or signatures.
- The first root must be signed by the configured anchors and by its own root role; each next one is exactly one version
  further and signed by the root role before it and by its own. A revocation is never undone.
- The root says of each prefix whether its signers may grant. The judge does not read Cedar: a `VerifiedBundle` says so
  (`grants`), and who compiles it calls `refuse_ungranted` with the permits that it found.
- A bundle is believed if keys that the root names for its scope signed it, within their validity; if it is of the
  root's epoch, not older than what was accepted before, not a different document of the same version, and not
  absurdly ahead; if it is valid now; and if its content is what it names. A rollback also needs its original.
- A heartbeat is believed if the root's heartbeat keys signed it, if it is young, not a replay, and names no older state
  than one that was believed before.
- The judge does no I/O and reads no clock: `now` is handed in, in epoch seconds, once for each judgement.
- Judging changes nothing. `accept_root`, `advance` and `accept_heartbeat` do, and the caller calls them when the
  document is on disk. A mark never goes back, in whatever order documents that were judged together are accepted.

Wrong data raises a `TrustError` (a `PolicyError` for the entries of a content, `CacheRolledBack` for a kept document
that is not the one that was accepted last); a wrong call raises `RuntimeError`.

`judge` puts the steps in order, `roots`, `bundles`, `rollbacks` and `heartbeats` have those of one kind of document,
`signatures` those of all, `verdicts` what comes out.
"""

from akpolicy.trust.bundles import refuse_ungranted
from akpolicy.trust.judge import Judge
from akpolicy.trust.verdicts import (
    HeartbeatMark,
    Mark,
    TrustedRoot,
    VerifiedBundle,
    VerifiedHeartbeat,
    VerifiedManifest,
)

__all__ = [
    "HeartbeatMark",
    "Judge",
    "Mark",
    "TrustedRoot",
    "VerifiedBundle",
    "VerifiedHeartbeat",
    "VerifiedManifest",
    "refuse_ungranted",
]

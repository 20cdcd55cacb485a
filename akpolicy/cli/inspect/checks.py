"""What is verified of a signed document, step by step, as far as what was given allows.

Rules:

- The steps are those of `akpolicy.trust`. Where everything is given, the judge of a host judges the whole; otherwise
  the steps that can be made are made, and the report says which ones were not and what they lack.
- Nothing that a host accepted earlier is known here: that a document is not older than the last one is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import Manifest, open_content
from akpolicy.cli.contents import check_enforceable
from akpolicy.cli.inspect.report import Check, failed, not_checked, ok
from akpolicy.errors import PolicyError, TrustError
from akpolicy.heartbeat import Heartbeat
from akpolicy.rollback import Rollback
from akpolicy.root import Root, parse_root
from akpolicy.root_chain import follow
from akpolicy.root_difference import short_id
from akpolicy.trust import bundles, heartbeats, refuse_ungranted, roots
from akpolicy.trust.signatures import check_role, usable_signers, verified_signers

if TYPE_CHECKING:
    from akpolicy.cli.inspect.given import Given
    from akpolicy.cli.inspect.recognise import Signed
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.keys import PublicKey
    from akpolicy.root import Role
    from akpolicy.trust import Judge, TrustedRoot, VerifiedManifest


_CONTENT_GOOD: Final = "its content is what it names, and its policies can be enforced"
_CONTENT_MISSING: Final = "its content, which was not given: `--with FILE`"


def check_signed(signed: Signed, given: Given) -> Iterator[Check]:
    """Yield every check of a signed document."""
    if signed.problem is not None:
        yield failed(signed.problem)
        return
    try:
        signed.envelope.check_limits()
    except TrustError as error:
        yield failed(error)
        return
    match signed.document:
        case Root() as root:
            yield from _signatures(signed.envelope, parse_root(signed.envelope.payload)[1])
            yield from _root(root, signed.envelope, given)
        case Manifest() | Rollback() | Heartbeat() as document:
            trusted, said = given.newest_root()
            yield from said
            yield from _signatures(signed.envelope, given.known_keys(trusted))
            if trusted is None:
                yield not_checked("whether those keys may sign this: " + ("no root given" if not said else "see above"))
                yield from _life(document, given)
                if isinstance(document, Manifest):
                    yield from _content_alone(document, given)
            else:
                yield from _judged(document, signed.envelope, trusted, given)


def _signatures(envelope: SignedEnvelope, keys: dict[str, PublicKey]) -> Iterator[Check]:
    for entry in envelope.signatures:
        key = keys.get(entry.key_id)
        if key is None:
            yield not_checked(f"signature by key {short_id(entry.key_id)}: its public key was not given")
            continue
        try:
            # One signature at a time: which one is wrong is what people want to know.
            verified_signers(_only(envelope, entry.key_id), {key.key_id: key})
        except TrustError as error:
            yield failed(error)
        else:
            yield ok(f"signature by key {short_id(key.key_id)} verifies")


def _only(envelope: SignedEnvelope, key_id: str) -> SignedEnvelope:
    return replace(envelope, signatures=tuple(entry for entry in envelope.signatures if entry.key_id == key_id))


def _attempt(step: Callable[[], object], good: str) -> Iterator[Check]:
    try:
        step()
    except (TrustError, PolicyError) as error:
        yield failed(error)
    else:
        yield ok(good)


# --- roots ------------------------------------------------------------------------------------------------------------


def _root(root: Root, envelope: SignedEnvelope, given: Given) -> Iterator[Check]:
    try:
        trusted = follow(root.org, [envelope], None, given.now)
    except TrustError as error:
        yield failed(error)
        return
    yield ok(f"its own root role signed it: {_who(root.roles.root)}")
    earlier = [known for known in given.roots if parse_root(known.payload)[0].version < root.version]
    if given.anchors is None and not earlier:
        yield not_checked(f"whether these are the root keys of {root.org}: no anchor and no earlier root given")
    else:
        base = "the anchors" if given.anchors else f"the given version {parse_root(earlier[0].payload)[0].version}"
        yield from _attempt(
            lambda: _reach(trusted, earlier, given), f"it is reached from {base}, as hosts follow roots"
        )
        if given.anchors is None:
            yield not_checked(f"whether {base} is a true root of {root.org}: no anchor given")
    if any(parse_root(known.payload)[0].version > root.version for known in given.roots):
        yield ok("a later root has taken its place, so that its expiry does not matter")
    else:
        yield from _attempt(lambda: roots.check_usable(trusted, given.now), "it has not expired")


def _reach(root: TrustedRoot, earlier: list[SignedEnvelope], given: Given) -> None:
    """Raise the `TrustError` with which a host would not come from what was given to this root."""
    follow(given.org or root.document.org, [*earlier, root.envelope], given.anchors, given.now)


# --- what roots delegate ----------------------------------------------------------------------------------------------


def _judged(
    document: Manifest | Rollback | Heartbeat, envelope: SignedEnvelope, root: TrustedRoot, given: Given
) -> Iterator[Check]:
    judge = given.judge(root)
    match document:
        case Manifest():
            yield from _manifest(document, envelope, judge, root, given)
        case Rollback():
            yield from _rollback(document, envelope, judge, root, given)
        case Heartbeat():
            yield from _heartbeat(document, envelope, judge, root, given)


def _manifest(
    manifest: Manifest, envelope: SignedEnvelope, judge: Judge, root: TrustedRoot, given: Given
) -> Iterator[Check]:
    try:
        verified = judge.judge_manifest(envelope, given.now)
    except TrustError as error:
        yield failed(error)
        return
    role = root.document.bundle_role(manifest.scope)
    yield ok(f"hosts accept it: {_who(role)} for `{manifest.scope}`, of this epoch, in time")
    yield from _content(verified, judge, given)


def _content(verified: VerifiedManifest, judge: Judge, given: Given) -> Iterator[Check]:
    reference = verified.manifest.content
    if reference is None:
        return
    blob = given.blobs.get(reference.digest)
    if blob is None:
        yield not_checked(_CONTENT_MISSING)
        return
    try:
        bundle = judge.judge_content(verified, blob)
        permits = check_enforceable(bundle.content.content) if bundle.content else ()
        refuse_ungranted(bundle, permits)
    except (TrustError, PolicyError) as error:
        yield failed(error)
    else:
        yield ok(_CONTENT_GOOD)


def _content_alone(manifest: Manifest, given: Given) -> Iterator[Check]:
    """Check the content of a manifest that nobody vouches for."""
    reference = manifest.content
    if reference is None:
        return
    blob = given.blobs.get(reference.digest)
    if blob is None:
        yield not_checked(_CONTENT_MISSING)
    else:
        yield from _attempt(lambda: check_enforceable(open_content(blob, reference).content), _CONTENT_GOOD)


def _rollback(
    rollback: Rollback, envelope: SignedEnvelope, judge: Judge, root: TrustedRoot, given: Given
) -> Iterator[Check]:
    original = given.envelopes.get(rollback.restores.digest)
    if original is not None:
        yield from _attempt(
            lambda: judge.judge_manifest(envelope, given.now, original=original),
            f"hosts accept it: {_who(root.document.rollback_role(rollback.scope))} for rollbacks, "
            f"and version {rollback.restores.version} is what it restores",
        )
        return
    yield from _attempt(
        lambda: _authorised(
            bundles.require_role(root.document.rollback_role(rollback.scope), rollback.scope, "rollbacks"),
            envelope,
            root,
            given,
            f"the scope `{rollback.scope}`",
        ),
        f"{_who(root.document.rollback_role(rollback.scope))} for rollbacks",
    )
    yield not_checked("what it restores: that manifest was not given: `--with FILE`")


def _heartbeat(
    heartbeat: Heartbeat, envelope: SignedEnvelope, judge: Judge, root: TrustedRoot, given: Given
) -> Iterator[Check]:
    index = given.blobs.get(heartbeat.index.digest)
    if index is not None:
        yield from _attempt(
            lambda: judge.judge_heartbeat(envelope, index, given.now, nonce=heartbeat.nonce),
            "hosts accept it: the heartbeat role signed it, it is of now, and its index is what it names",
        )
    else:
        yield from _attempt(
            lambda: _authorised(heartbeats.require_heartbeat_role(root.document), envelope, root, given, "heartbeats"),
            "the heartbeat role signed it",
        )
        yield from _life(heartbeat, given)
        yield from _attempt(lambda: heartbeats.check_root(heartbeat, root), "it names the given root")
        yield not_checked("its index, which was not given: `--with FILE`")
    yield not_checked("whether it answers the nonce of a connection")


def _authorised(role: Role, envelope: SignedEnvelope, root: TrustedRoot, given: Given, what: str) -> None:
    signers = verified_signers(envelope, root.keys)
    check_role(role, usable_signers(role, signers, root.document, given.now, held=False), what)


def _life(document: Manifest | Rollback | Heartbeat, given: Given) -> Iterator[Check]:
    """Check the times of a document alone."""
    match document:
        case Manifest():
            yield from _attempt(lambda: bundles.check_times(document, given.now, held=False), "it is valid now")
        case Heartbeat():
            yield from _attempt(lambda: heartbeats.check_times(document, given.now, given.now), "it is of now")
        case Rollback():
            yield not_checked("whether it is valid now: a rollback has the life of what it restores at most")


def _who(role: Role | None) -> str:
    return f"{role.threshold} of {len(role.keys)} keys must sign" if role else "nobody may sign"

"""`akpolicy org freeze` and `unfreeze`: every host of an org denies everything, until that is ended.

Rules:

- The server does it if it holds the keys of the org's bundles. If not, and keys are given here, the same bundle is
  prepared there, signed here and published: one command either way.
- What is signed here is checked first. A freeze has the one policy that forbids everything; its end has the content of
  the newest version before the freeze, which one of these keys must have signed.
- Asking for what is so already changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import KeysOption, MessageOption, OutputOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_note, print_text, printable, working
from akpolicy.errors import BadAnswer, KeyNotAuthorised, ServerRefused, TrustError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.client.publishing import PublishingClient
    from akpolicy.client.publishing_types import FreezeState, PublishTerms, RevisionContent
    from akpolicy.engine.files import PolicyFile
    from akpolicy.signing import Signer

OrgArgument = Annotated[str, typer.Argument(metavar="ORG", help="The org.")]

# How many versions are looked through for what was before a freeze.
MAX_LOOKED_BACK = 1000


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `org`."""
    app.command(
        epilog=examples(
            "akpolicy org freeze acme --message 'agent credentials leaked'",
            "akpolicy org freeze acme --key file:bundle.pem",
        )
    )(grouped(freeze))
    app.command(
        epilog=examples(
            "akpolicy org unfreeze acme --message 'credentials replaced'",
            "akpolicy org unfreeze acme --key file:bundle.pem --output json",
        )
    )(grouped(unfreeze))


def freeze(
    org: OrgArgument,
    *,
    message: MessageOption = "",
    key: KeysOption = None,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Make every host of an org deny everything, in its next version. No rollback goes behind it.

    With --key, the bundle is signed here if the server lacks the keys. An org that is frozen stays so.
    """
    _set(connection, org, True, message, key or [], output)


def unfreeze(
    org: OrgArgument,
    *,
    message: MessageOption = "",
    key: KeysOption = None,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """End a freeze: publish the policies from before it as the next version.

    With --key, the bundle is signed here if the server lacks the keys. An org that is not frozen stays so.
    """
    _set(connection, org, False, message, key or [], output)


def _set(
    connection: Connection, org: str, frozen: bool, message: str, keys: Sequence[str], output: OutputFormat
) -> None:
    with connection.open() as client:
        try:
            with working(f"{'freezing' if frozen else 'unfreezing'} {org}"):
                state = client.set_freeze(org, frozen, message)
        except ServerRefused as error:
            if error.status != "FAILED_PRECONDITION" or not keys:
                if error.status == "FAILED_PRECONDITION":
                    print_note("if the server lacks the keys, give yours: `--key URI`")
                raise
            print_note(printable(f"{error}; signing here"))
            state = _set_here(client, org, frozen, message, keys)
    _print_state(state, org, frozen, output)


def _print_state(state: FreezeState, org: str, frozen: bool, output: OutputFormat) -> None:
    if output == "json":
        print_json({"org": org, "frozen": frozen, "changed": state.changed, "revision": state.revision.to_json()})
        return
    what = "frozen: every host denies everything" if frozen else "not frozen"
    since = "" if state.changed else " already"
    print_text(f"{org} is{since} {what}\nversion  {state.revision.version}\ndigest   {state.revision.digest}")


# --- signed here ------------------------------------------------------------------------------------------------------


def _set_here(client: PublishingClient, org: str, frozen: bool, message: str, keys: Sequence[str]) -> FreezeState:
    from akpolicy.cli.policy_proposals import describe, proposal_of
    from akpolicy.cli.signing import open_keys, require_complete
    from akpolicy.client.publishing_types import FreezeState
    from akpolicy.proposal import add_signature
    from akpolicy.scope import org_scope

    scope = org_scope(org)
    with open_keys(keys) as signers:
        current = client.revision(scope)
        if _is_frozen(current) == frozen:
            return FreezeState(current.revision, changed=False)
        policies = _freeze_policies() if frozen else _policies_before(client, scope, signers)
        terms = _terms(current, frozen=frozen)
        proposal = proposal_of(client.prepare_bundle(scope, _files(policies), terms), scope)
        blob = _blob(policies)
        if proposal.content is None or proposal.content.blob != blob:
            raise BadAnswer(f"the server prepared other policies for `{scope}` than it was given; do not sign them")
        print_note(printable(describe(proposal)))
        for signer in signers:
            proposal = add_signature(proposal, signer)
    require_complete(proposal)
    published = client.publish_envelope(proposal.envelope, blob, message=message)
    return FreezeState(published.revision, changed=not published.repeated)


Policies = list[tuple[str, str]]


def _freeze_policies() -> Policies:
    from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID

    return [(FREEZE_POLICY_ID, FREEZE_POLICY)]


def _policies_before(client: PublishingClient, scope: str, signers: Sequence[Signer]) -> Policies:
    """Return the policies of the newest version that is no freeze; one of the signers must have signed them."""
    for info in client.history(scope, MAX_LOOKED_BACK):
        content = client.revision(scope, info.version)
        if not _is_frozen(content):
            _check_signed(content, signers)
            return _pairs(content)
    raise KeyNotAuthorised(
        f"`{scope}` has no version before the freeze; publish policies with `akpolicy policy publish`"
    )


def _check_signed(content: RevisionContent, signers: Sequence[Signer]) -> None:
    """Raise `KeyNotAuthorised` unless one of the signers has signed this very content before."""
    import hashlib

    from akpolicy.bundle import Manifest
    from akpolicy.strict_json import load
    from akpolicy.trust.signatures import verified_signers

    version = content.revision.version
    signed = content.original or content.envelope
    try:
        verified_signers(signed, {signer.public_key.key_id: signer.public_key for signer in signers})
        manifest = load(signed.payload, Manifest)
    except TrustError as error:
        raise KeyNotAuthorised(
            f"none of these keys signed version {version}, that before the freeze ({error.message}); look at it with "
            f"`akpolicy policy show --version {version}`, publish it with `akpolicy policy publish --unsigned`"
        ) from error
    if manifest.content is None or manifest.content.digest != hashlib.sha256(_blob(_pairs(content))).hexdigest():
        raise BadAnswer(f"the policies that the server sent are not those that were signed as version {version}")


def _is_frozen(content: RevisionContent) -> bool:
    from akpolicy.freeze import is_freeze

    return is_freeze(_pairs(content))


def _pairs(content: RevisionContent) -> Policies:
    return [(policy.id, policy.text) for policy in content.policies]


def _blob(policies: Policies) -> bytes:
    from akpolicy.bundle import encode_content

    return encode_content(policies)


def _files(policies: Policies) -> list[PolicyFile]:
    """Return a file for each policy: one without an `@id` keeps its id as the file's name."""
    from akpolicy.engine.files import PolicyFile

    return [PolicyFile(f"{policy_id}.cedar", text.encode()) for policy_id, text in policies]


def _terms(current: RevisionContent, *, frozen: bool) -> PublishTerms:
    """Return the terms: on top of what is current, with its offline floor."""
    from akpolicy.bundle import Manifest, OfflineMode
    from akpolicy.client.publishing_types import PublishTerms
    from akpolicy.strict_json import load

    floor = load((current.original or current.envelope).payload, Manifest).offline
    return PublishTerms(
        expected_version=current.revision.version,
        offline_mode=OfflineMode(floor.mode),
        offline_max_age_s=floor.max_age_s,
        no_rollback=frozen,
    )

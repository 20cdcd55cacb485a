"""`akpolicy root revoke`: an end to a key, at once where the keys at hand suffice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import KeysOption, OutputOption, YesOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_note, print_text
from akpolicy.cli.root.changes import find_key
from akpolicy.cli.root.making import RootLife, next_proposal
from akpolicy.errors import UsageError
from akpolicy.instants import rfc3339_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.client.publishing import PublishingClient
    from akpolicy.keys import PublicKey
    from akpolicy.proposal import Proposal
    from akpolicy.role_name import RoleName
    from akpolicy.root import Root
    from akpolicy.root_change import Change
    from akpolicy.trust import TrustedRoot


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root revoke --org acme 0123456789ab --key file:root.pem --replace",
            "akpolicy root revoke --org acme 0123456789ab --key file:root.pem --replace --new-epoch",
            "akpolicy root revoke --org acme 0123456789ab --key file:root-1.pem --out acme-root-5.json",
        )
    )(grouped(revoke))


def revoke(  # noqa: PLR0913 - one parameter an option
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key, or the beginning of its id.")],
    *,
    org: Annotated[str, typer.Option(metavar="NAME", help="The org.")],
    key: KeysOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Have the server make a new key for each role that the key had.")
    ] = False,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="The key was misused to let versions run ahead: begin them anew.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the proposal, if more keys have to sign.")
    ] = None,
    life: RootLife,
    anchors: Anchors,
    yes: YesOption = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Revoke a key in every role, for good, and publish the root that says so, after showing what it changes.

    A key that is revoked already stays so, and nothing is signed. What the key signed alone is dropped by hosts; what
    the server can sign anew with its other keys, it does in the same moment. If the root keys given with --key are too
    few, the root is written as a proposal (ORG-root-N.json, or --out) for the others to sign; the key is revoked once
    it is published.
    """
    from akpolicy.cli.clock import now
    from akpolicy.cli.proposal_files import check_new, write_new
    from akpolicy.cli.root.fetch import anchors_or_keys, newest_root
    from akpolicy.cli.root.publish import publish_root
    from akpolicy.cli.root.sign import describe
    from akpolicy.cli.signing import open_keys, print_progress, require_complete, sign_own
    from akpolicy.proposal_progress import progress_of

    life.check()
    with open_keys(key or []) as signers, connection.open() as client:
        current = newest_root(client, org, anchors_or_keys(anchors, signers))
        found = find_key(current.document, key_id)
        if found in current.document.revoked:
            _print_done(current.document, found, output, new_epoch=new_epoch)
            return
        file = out or Path(f"{org}-root-{current.document.version + 1}.json")
        check_new(file)
        proposal = _proposed(client, current, life, found, replace=replace, new_epoch=new_epoch)
        proposal = sign_own(proposal, signers, describe(proposal), yes=yes)
        if progress_of(proposal, now()).signed:
            require_complete(proposal)
            publish_root(client, proposal, output)
            return
    write_new(file, proposal)
    print_note("more root keys have to sign: the key is not revoked yet")
    print_progress(file, proposal, output)


def _print_done(root: Root, key_id: str, output: OutputFormat, *, new_epoch: bool) -> None:
    since = rfc3339_of(root.revoked[key_id])
    if output == "json":
        print_json({"org": root.org, "version": root.version, "key_id": key_id, "repeated_request": True})
    else:
        print_text(f"the key {key_id} of {root.org} is revoked already, since {since}; nothing is left to do")
    if new_epoch:
        print_note(
            f"root version {root.version} has epoch {root.epoch}; if versions ran ahead in that one, begin another "
            "with `akpolicy root propose --new-epoch`"
        )


def _proposed(
    client: PublishingClient, current: TrustedRoot, life: RootLife, key_id: str, *, replace: bool, new_epoch: bool
) -> Proposal:
    def changes_with(new_key: Callable[[RoleName], PublicKey]) -> list[Change]:
        return _changes(current.document, key_id, new_key, replace=replace, new_epoch=new_epoch)

    try:
        return next_proposal(client, current, life, changes_with)
    except UsageError as error:
        if replace:
            raise
        raise UsageError(f"{error.message}; with `--replace` the server makes a new key for an online role") from error


def _changes(
    root: Root, key_id: str, new_key: Callable[[RoleName], PublicKey], *, replace: bool, new_epoch: bool
) -> list[Change]:
    from akpolicy.role_name import ROOT
    from akpolicy.root_change import AddKey, NewEpoch, RevokeKey
    from akpolicy.root_draft import roles_of

    names = [name for name, role in roles_of(root).items() if key_id in role.keys] if replace else []
    if any(name.kind == ROOT for name in names):
        raise UsageError(
            f"{key_id} is a root key, and the server holds none that could replace it; use "
            "`akpolicy root rotate --revoke`, or `akpolicy root propose --revoke KEY_ID --add-key root=ed25519:...`"
        )
    added: list[Change] = [AddKey(name, new_key(name)) for name in names]
    return [*added, RevokeKey(key_id), *([NewEpoch()] if new_epoch else [])]

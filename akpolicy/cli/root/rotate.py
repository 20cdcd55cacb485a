"""`akpolicy root rotate`: another root key, in one command, for orgs with a single one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.connection import Connection
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, YesOption, examples
from akpolicy.cli.output import OutputFormat, print_json, print_note, print_text
from akpolicy.cli.root.making import RootLife, next_proposal
from akpolicy.errors import KeyNotAuthorised, UsageError

if TYPE_CHECKING:
    from akpolicy.root import Root
    from akpolicy.root_change import Change
    from akpolicy.signing import Signer
    from akpolicy.trust import TrustedRoot


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the group `root`."""
    app.command(
        epilog=examples(
            "akpolicy root rotate --org acme --key file:/var/lib/akpolicy-server/data/keys/KEY_ID.pem \\",
            "    --new-key-file acme-root.pem",
            "akpolicy root rotate --org acme --key file:acme-root.pem --new-key 'pkcs11:token=acme;object=root'",
            "akpolicy root rotate --org acme --key file:leaked.pem --new-key-file acme-root-2.pem --revoke",
        )
    )(grouped(rotate))


def rotate(  # noqa: PLR0913 - one parameter an option
    *,
    org: Annotated[str, typer.Option(metavar="NAME", help="The org.")],
    key: Annotated[str, typer.Option(metavar="URI", help="The root key that goes.")],
    new_key: Annotated[str | None, typer.Option(metavar="URI", help="The root key that comes.")] = None,
    new_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The root key that comes; made if there is no such file.")
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the old key for good: it leaked.")] = False,
    life: RootLife,
    anchors: Anchors,
    yes: YesOption = False,
    connection: Connection,
    output: OutputOption = "text",
) -> None:
    """Replace the root key of an org that has one: the old and the new key sign the next root, which is published.

    What it changes is shown first. Repeating it changes nothing; with --revoke it revokes the old key if that was not
    done. The old key, having signed an earlier root, is what verifies the way to the newest one; --anchor takes its
    place. An org with several root keys uses `root propose`.
    """
    from akpolicy.cli.root.fetch import anchors_or_keys, newest_root
    from akpolicy.cli.root.publish import publish_root
    from akpolicy.cli.root.sign import describe
    from akpolicy.cli.signing import open_keys, require_complete, sign_own

    new_uri = _new_uri(new_key, new_key_file)
    life.check()
    with open_keys([key]) as [old], connection.open() as client:
        current = newest_root(client, org, anchors_or_keys(anchors, [old]))
        key_id = _single_key(current.document)
        if new_key_file is not None and not new_key_file.exists():
            # Before a key is made that nobody will need.
            _check_current(org, key_id, old)
            _make(new_key_file)
        with open_keys([new_uri]) as [new]:
            if key_id == new.public_key.key_id != old.public_key.key_id:
                if not revoke or old.public_key.key_id in current.document.revoked:
                    _print_done(current, output)
                    return
                changes, signers = _late_revocation(current.document, old), [new]
            else:
                _check_current(org, key_id, old)
                changes, signers = _exchange(old, new, revoke=revoke), [old, new]
            proposal = next_proposal(client, current, life, lambda _: changes)
            proposal = sign_own(proposal, signers, describe(proposal), yes=yes)
        require_complete(proposal)
        publish_root(client, proposal, output)
    if revoke:
        print_note(
            "the old key is revoked for hosts that know this root; a host without state that has the old key as its "
            "trust anchor would believe a root that it signs: replace the anchor on every host now"
        )


def _new_uri(new_key: str | None, new_key_file: Path | None) -> str:
    from akpolicy.signing import key_file_uri

    if new_key is not None and new_key_file is None:
        return new_key
    if new_key_file is not None and new_key is None:
        return key_file_uri(new_key_file)
    raise UsageError("name the new root key: either `--new-key URI` or `--new-key-file FILE`")


def _print_done(current: TrustedRoot, output: OutputFormat) -> None:
    root, [key_id] = current.document, current.document.roles.root.keys
    anchor = current.keys[key_id].anchor
    if output == "json":
        print_json({"org": root.org, "version": root.version, "repeated_request": True, "trust_anchors": [anchor]})
        return
    print_text(f"{key_id} is the root key of {root.org} already; nothing was changed")
    print_note(f"its trust anchor is {anchor}")


def _single_key(root: Root) -> str:
    """Return the id of the only root key; raise `UsageError` if there are several."""
    keys = root.roles.root.keys
    if len(keys) > 1:
        raise UsageError(
            f"`{root.org}` has {len(keys)} root keys; exchange one with "
            "`akpolicy root propose --add-key root=ed25519:... --remove-key root=KEY_ID`"
        )
    return keys[0]


def _check_current(org: str, key_id: str, old: Signer) -> None:
    if key_id != old.public_key.key_id:
        raise KeyNotAuthorised(f"the key {old.public_key.key_id} is not the root key of `{org}`; that is {key_id}")


def _exchange(old: Signer, new: Signer, *, revoke: bool) -> list[Change]:
    from akpolicy.role_name import ROOT, RoleName
    from akpolicy.root_change import AddKey, RemoveKey, RevokeKey

    old_id, role = old.public_key.key_id, RoleName(ROOT)
    if new.public_key.key_id == old_id:
        raise UsageError("the new root key is the old one; name another")
    return [AddKey(role, new.public_key), RevokeKey(old_id) if revoke else RemoveKey(role, old_id)]


def _late_revocation(root: Root, old: Signer) -> list[Change]:
    """Return what revokes an old root key that a rotation before this one only took out of its role.

    Raises `KeyNotAuthorised` for a key that another role has: it is none that went.
    """
    from akpolicy.root_change import RevokeKey
    from akpolicy.root_draft import roles_of

    key_id = old.public_key.key_id
    if any(key_id in role.keys for role in roles_of(root).values()):
        _check_current(root.org, root.roles.root.keys[0], old)
    return [RevokeKey(key_id)]


def _make(file: Path) -> None:
    from akpolicy.signing import create_key_file

    key = create_key_file(file).public_key
    print_note(f"made the new root key {file}, key id {key.key_id}; keep it off the server, and keep a copy")

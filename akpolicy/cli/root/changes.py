"""The options that say what the next root changes, and what they mean for a root.

A key that is listed may be named by the beginning of its id, if that is enough to tell it from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.cli.option_groups import OptionGroup
from akpolicy.errors import TrustError, UsageError

if TYPE_CHECKING:
    from akpolicy.keys import PublicKey
    from akpolicy.role_name import RoleName
    from akpolicy.root import Root
    from akpolicy.root_change import Change

MIN_ID_CHARS: Final = 8
KEY_ID_CHARS: Final = 64

_YES_OR_NO: Final = {"yes": True, "no": False}

Several = list[str] | None


@dataclass(frozen=True)
class RootChanges(OptionGroup):
    """Everything that `root propose` can change. ROLE is root, heartbeat, bundle[:PREFIX] or rollback[:PREFIX]."""

    add_key: Annotated[Several, typer.Option(metavar="ROLE=ed25519:...", help="Put a key into a role.")] = None
    remove_key: Annotated[Several, typer.Option(metavar="ROLE=KEY_ID", help="Take a key out of a role.")] = None
    revoke: Annotated[Several, typer.Option(metavar="KEY_ID", help="Take a key out of all roles, for good.")] = None
    threshold: Annotated[Several, typer.Option(metavar="ROLE=N", help="How many of a role's keys must sign.")] = None
    grants: Annotated[
        Several, typer.Option(metavar="PREFIX=yes|no", help="Whether the bundles of a prefix may permit.")
    ] = None
    drop_role: Annotated[Several, typer.Option(metavar="ROLE", help="Let nobody sign what the role signs.")] = None
    new_online_key: Annotated[
        Several,
        typer.Option(metavar="ROLE", help="Have the server make a key: bundle, rollback, heartbeat, bundle:global."),
    ] = None
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a new online key take the place of the role's key.")
    ] = False
    extend_key: Annotated[
        Several, typer.Option(metavar="KEY_ID", help="Let a key be valid for --key-lifetime from now.")
    ] = None
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Recover from versions that ran ahead: all begin at 1 again.")
    ] = False
    min_sidecar: Annotated[str | None, typer.Option(metavar="X.Y.Z", help="The oldest sidecar that may follow.")] = None

    def check(self) -> None:
        """Raise `UsageError` for options that do not go together."""
        if self.replace and not self.new_online_key:
            raise UsageError("`--replace` goes with `--new-online-key ROLE`")

    def changes(self, root: Root, new_key: Callable[[RoleName], PublicKey]) -> list[Change]:
        """Return the changes for `root`; `new_key` makes a key for an online role. Raises `UsageError`."""
        from akpolicy.root_change import (
            DropRole,
            ExtendKey,
            NewEpoch,
            RevokeKey,
            SetGrants,
            SetMinSidecar,
            SetThreshold,
        )

        made: list[Change] = [*self._keys(root), *self._online_keys(root, new_key)]
        made += [SetThreshold(role, _number(value)) for role, value in _of_roles(self.threshold, "--threshold", root)]
        made += [SetGrants(prefix, _answer(value)) for prefix, value in _pairs(self.grants, "--grants")]
        made += [DropRole(_role(text, root)) for text in self.drop_role or ()]
        made += [ExtendKey(find_key(root, text)) for text in self.extend_key or ()]
        made += [RevokeKey(find_key(root, text)) for text in self.revoke or ()]
        made += [NewEpoch()] if self.new_epoch else []
        made += [SetMinSidecar(self.min_sidecar)] if self.min_sidecar is not None else []
        return made

    def _keys(self, root: Root) -> Iterator[Change]:
        from akpolicy.root_change import AddKey, RemoveKey

        for role, value in _of_roles(self.add_key, "--add-key", root):
            yield AddKey(role, read_key(value, "--add-key"))
        for role, value in _of_roles(self.remove_key, "--remove-key", root):
            yield RemoveKey(role, find_key(root, value))

    def _online_keys(self, root: Root, new_key: Callable[[RoleName], PublicKey]) -> Iterator[Change]:
        from akpolicy.root_change import AddKey, RemoveKey
        from akpolicy.root_draft import roles_of

        for text in self.new_online_key or ():
            name = _role(text, root)
            role = roles_of(root).get(name)
            if self.replace and role is not None:
                if len(role.keys) > 1:
                    raise UsageError(
                        f"the role `{name}` has {len(role.keys)} keys; instead of `--replace` say which one goes: "
                        f"`--remove-key {name}=KEY_ID` or `--revoke KEY_ID`"
                    )
                yield RemoveKey(name, role.keys[0])
            yield AddKey(name, new_key(name))


def find_key(root: Root, text: str) -> str:
    """Return the id of a key: that of a listed one from its beginning, any other one whole. Raises `UsageError`."""
    known = {*root.keys, *root.revoked}
    found = sorted(key_id for key_id in known if len(text) >= MIN_ID_CHARS and key_id.startswith(text))
    if len(found) == 1:
        return found[0]
    if len(text) == KEY_ID_CHARS and not found:
        return text
    if found:
        raise UsageError(f"`{text}` is the beginning of several key ids: {', '.join(found)}")
    raise UsageError(
        f"the root has no key `{text}`; give at least {MIN_ID_CHARS} characters of an id from `akpolicy root show`"
    )


def read_key(text: str, option: str) -> PublicKey:
    """Read `ed25519:...`; raise `UsageError` naming the option."""
    from akpolicy.keys import parse_anchor

    try:
        return parse_anchor(text)
    except TrustError as error:
        raise UsageError(f"{option}: {error.message}") from error


def _role(text: str, root: Root) -> RoleName:
    from akpolicy.role_name import parse_role

    return parse_role(text, root.org)


def _of_roles(texts: Several, option: str, root: Root) -> Iterator[tuple[RoleName, str]]:
    for name, value in _pairs(texts, option):
        yield _role(name, root), value


def _pairs(texts: Several, option: str) -> Iterator[tuple[str, str]]:
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not value:
            raise UsageError(f"`{option} {text}` must be `{option} NAME=VALUE`")
        yield name, value


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"`{text}` is no number of keys")
    return int(text)


def _answer(text: str) -> bool:
    if text not in _YES_OR_NO:
        raise UsageError(f"`{text}` is neither `yes` nor `no`")
    return _YES_OR_NO[text]

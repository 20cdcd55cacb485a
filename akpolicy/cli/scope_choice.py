"""From options to the scope that a command is about."""

from __future__ import annotations

from dataclasses import dataclass

from akpolicy.cli.option_groups import OptionGroup
from akpolicy.cli.options import OrgOption, ScopeOption, TeamOption, UserOption
from akpolicy.errors import FieldInvalid, UsageError


@dataclass(frozen=True)
class ScopeChoice(OptionGroup):
    """The options that name a scope: `--scope`, or `--org` and perhaps one of its teams or users."""

    org: OrgOption = None
    team: TeamOption = None
    user: UserOption = None
    scope: ScopeOption = None

    @property
    def is_made(self) -> bool:
        """Whether any of the options is given."""
        return self != ScopeChoice()

    def chosen(self) -> str:
        """Return the scope; raise `UsageError` unless the options name exactly one."""
        from akpolicy.scope import check_scope, is_org_name

        if (self.org is None) == (self.scope is None):
            raise UsageError("name either `--org NAME` or `--scope SCOPE`")
        if self.org is None and (self.team is not None or self.user is not None):
            raise UsageError("`--team` and `--user` go with `--org`; a scope names its team or user itself")
        if self.org is not None and not is_org_name(self.org):
            raise UsageError(
                f"`{self.org}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends; a team or "
                "user goes beside it"
            )
        if self.team is not None and self.user is not None:
            raise UsageError("name a team or a user, not both: each has a scope of its own")
        try:
            return check_scope(self._text())
        except FieldInvalid as error:
            raise UsageError(error.message) from None

    def _text(self) -> str:
        from akpolicy.scope import LOCAL_ISSUER, org_scope, team_scope, user_scope

        if self.org is None:
            return self.scope or ""
        if self.team is not None:
            return team_scope(self.org, self.team)
        if self.user is not None:
            return user_scope(self.org, LOCAL_ISSUER, self.user)
        return org_scope(self.org)

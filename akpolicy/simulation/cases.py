"""Cases: requests with the decisions that are expected, in a YAML file.

Rules:

- `layers` names the policy files of each scope, or `policies` those of the org alone; paths are relative to the case
  file. `schema` names another schema than the package's.
- `defaults` has a `principal`, `resource`, `action` and `context` that each request starts from; what a case says of a
  principal, a resource or a context is put over it, key by key.
- A case expects `allow`, `deny` or `refused` (the request is no request). `policies` are exactly those that determine
  the decision, `<scope>/<id>` or the id alone; `reason`, `deciding_layer` and `field` (of a refusal) are compared where
  they are given.
- Unknown keys are mistakes, and every mistake has its file and line. So is an expectation that could never be looked
  at or never come true: of a decision beside `refused`, of a refusal beside a decision, a `reason` of the other effect
  or of a host that is out of date.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.engine.request import request_from_json
from akpolicy.engine.verdict import Reason
from akpolicy.errors import FieldInvalid, RequestInvalid, UsageError
from akpolicy.scope import check_scope, is_org_name, org_of, org_scope
from akpolicy.simulation.inputs import read_input
from akpolicy.simulation.yaml_subset import MAX_BYTES, Lined, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from akpolicy.engine.request import AuthorizationRequest

REFUSED: Final = "refused"
EXPECTATIONS: Final = ("allow", "deny", REFUSED)
_FILE_KEYS: Final = frozenset({"org", "policies", "layers", "schema", "defaults", "tests", "description"})
_CASE_KEYS: Final = frozenset(
    {"name", "request", "expect", "policies", "reason", "deciding_layer", "field", "source", "description"}
)
_REQUEST_KEYS: Final = frozenset({"principal", "action", "resource", "context"})
_REASONS: Final = {
    "allow": frozenset({Reason.PERMITTED.value}),
    "deny": frozenset(
        reason.value
        for reason in (
            Reason.FORBIDDEN,
            Reason.NO_PERMIT,
            Reason.EVALUATION_ERROR,
            Reason.NO_POLICY,
            Reason.FOREIGN_ORG,
        )
    ),
    REFUSED: frozenset[str](),
}
# What cannot be looked at beside an expectation.
_MEANINGLESS: Final = {
    "allow": ("field",),
    "deny": ("field",),
    REFUSED: ("policies", "reason", "deciding_layer"),
}
_SOURCES: Final = frozenset({"runtime", "sandbox"})


@dataclass(frozen=True, slots=True)
class Case:
    """One request and what is expected of it; `request` is the error itself if it cannot be one."""

    name: str
    line: int
    request: AuthorizationRequest | RequestInvalid
    expect: str
    policies: tuple[str, ...] | None = None
    reason: str = ""
    deciding_layer: str | None = None
    field: str = ""
    source: str = "runtime"


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file of cases: the policy files of each scope, and the cases."""

    path: Path
    org: str
    layers: Mapping[str, Sequence[Path]]
    cases: tuple[Case, ...]
    schema: Path | None = None


@dataclass(slots=True)
class _Parser:
    path: Path
    defaults: Mapping[str, object] = field(default_factory=dict)

    def file(self, document: object) -> CaseFile:
        top = self.mapping(document, Lined(), _FILE_KEYS, "the file")
        if "defaults" in top:
            self.defaults = self.default_parts(top["defaults"], top)
        self.text(top, "description")
        tests = top.get("tests")
        if not isinstance(tests, list) or not tests:
            raise self.wrong(top, "`tests` must be a list with at least one case")
        cases = tuple(self.case(one, top) for one in tests)
        org = self.org(top, cases)
        schema = top.get("schema")
        return CaseFile(
            self.path, org, dict(self.layers(top, org)), cases, self.beside(schema, top) if schema is not None else None
        )

    def default_parts(self, value: object, top: Lined) -> Lined:
        """Return the defaults, each of them of its kind: a case might put something over a wrong one."""
        parts = self.mapping(value, top, _REQUEST_KEYS, "`defaults`")
        for key, part in parts.items():
            if key == "action":
                self.text(parts, key)
            elif not isinstance(part, Lined):
                raise self.wrong(parts, f"`{key}` must be a mapping")
        return parts

    def org(self, top: Lined, cases: Sequence[Case]) -> str:
        """Return the org: as it is said, or the one of the layers, or that of the requests."""
        named = top.get("org")
        layers = top.get("layers")
        if named is None and isinstance(layers, Lined):
            named = next((org for scope in layers if (org := self.org_in(scope, top)) is not None), None)
        if named is None:
            requests = (case.request for case in cases)
            named = next((one.principal.org_id for one in requests if not isinstance(one, RequestInvalid)), None)
        if not isinstance(named, str) or not is_org_name(named):
            raise self.wrong(top, "`org` must name the org whose hosts would decide")
        return named

    def layers(self, top: Lined, org: str) -> Iterator[tuple[str, Sequence[Path]]]:
        if ("layers" in top) == ("policies" in top):
            raise self.wrong(top, "give either `layers` (files of each scope) or `policies` (files of the org)")
        if "policies" in top:
            yield org_scope(org), self.paths(top["policies"], top, "policies")
            return
        if not isinstance(top["layers"], Lined) or not top["layers"]:
            raise self.wrong(top, "`layers` must be a mapping from scopes to files")
        for scope, files in top["layers"].items():
            if self.org_in(scope, top) not in {None, org}:
                raise self.wrong(top["layers"], f"`{scope}` is not of the org `{org}`")
            yield scope, self.paths(files, top["layers"], scope)

    def org_in(self, scope: str, at: Lined) -> str | None:
        try:
            return org_of(check_scope(scope))
        except FieldInvalid as error:
            raise self.wrong(at, error.message) from None

    def paths(self, value: object, at: Lined, what: str) -> tuple[Path, ...]:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self.wrong(at, f"`{what}` must be a file, or a list of files")
        return tuple(self.beside(name, at) for name in names)

    def beside(self, name: object, at: Lined) -> Path:
        if not isinstance(name, str) or not name:
            raise self.wrong(at, "a file must be named by a text")
        return self.path.parent / name

    def case(self, value: object, top: Lined) -> Case:
        case = self.mapping(value, top, _CASE_KEYS, "a case")
        name, expect = case.get("name"), case.get("expect")
        if not isinstance(name, str) or not name:
            raise self.wrong(case, "a case needs a `name`")
        if expect not in EXPECTATIONS:
            raise self.wrong(case, "`expect` must be `allow`, `deny` or `refused`")
        for key in _MEANINGLESS[str(expect)]:
            if key in case:
                raise self.wrong(case, f"`{key}` has no meaning beside `expect: {expect}`; leave one of them out")
        self.text(case, "description")
        return Case(
            name,
            case.line,
            self.request(case),
            str(expect),
            self.names(case["policies"], case) if "policies" in case else None,
            self.one_of(case, "reason", _REASONS[str(expect)], ""),
            self.text(case, "deciding_layer"),
            self.refused_field(case),
            self.one_of(case, "source", _SOURCES, "runtime"),
        )

    def request(self, case: Lined) -> AuthorizationRequest | RequestInvalid:
        stated = self.mapping(case.get("request", Lined()), case, _REQUEST_KEYS, "`request`")
        whole = dict(self.defaults)
        for key, value in stated.items():
            before = whole.get(key)
            whole[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
        try:
            return request_from_json(whole)
        except RequestInvalid as error:
            if case["expect"] != REFUSED:
                raise self.wrong(case, error.message) from None
            return error

    def names(self, value: object, case: Lined) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(case, "`policies` must be a list of policies")
        for at, name in enumerate(value):
            if name in value[:at]:
                raise self.wrong(case, f"`{name}` is there twice in `policies`")
        return tuple(value)

    def refused_field(self, case: Lined) -> str:
        name = self.text(case, "field")
        if name == "":
            raise self.wrong(case, "`field` must be a text with the name of a value; leave it out for any")
        return name or ""

    def one_of(self, case: Lined, key: str, known: frozenset[str], default: str) -> str:
        if key not in case:
            return default
        value = case[key]
        if not isinstance(value, str) or value not in known:
            raise self.wrong(case, f"`{key}` must be one of {', '.join(f'`{name}`' for name in sorted(known))} here")
        return value

    def text(self, case: Lined, key: str) -> str | None:
        value = case.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(case, f"`{key}` must be a text")
        return value

    def mapping(self, value: object, at: Lined, known: frozenset[str], what: str) -> Lined:
        if not isinstance(value, Lined):
            raise self.wrong(at, f"{what} must be a mapping")
        if unknown := sorted(value.keys() - known):
            allowed = ", ".join(f"`{name}`" for name in sorted(known))
            raise self.wrong(value, f"{what} has the unknown key `{unknown[0]}`; it may have {allowed}")
        return value

    def wrong(self, at: Lined, message: str) -> UsageError:
        return UsageError(f"{self.path}:{at.line or 1}: {message}")


def read_cases(path: Path) -> CaseFile:
    """Read a file of cases; raise `UsageError` with file and line."""
    return _Parser(path).file(load(read_input(path, MAX_BYTES), str(path)))

"""Where policies and schemas that somebody sent are parsed for the first time, and nowhere else.

Rules:

- Limits come before any parse (`akpolicy.engine`), and the first parse is that of a child process (`akpolicy.fence`).
  What passed here may be parsed again: by this server, by hosts.
- Files are cut into policies; the content of a bundle that was signed elsewhere is policies already.
- Policies are checked against each schema that they have to fit; what is wrong with the first is not shown of the next.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from akpolicy.engine.check import check_policies
from akpolicy.engine.files import Findings, examine
from akpolicy.engine.host_schema import read_host_schema
from akpolicy.engine.legacy import load_legacy_schema, named_id_problems
from akpolicy.errors import PolicySetInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from akpolicy.engine.check import Check
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from akpolicy.errors import Problem

# How many schemas of orgs are kept parsed.
MAX_PARSED_SCHEMAS: Final = 64


class SchemaOf(NamedTuple):
    """A schema that policies have to fit: the text of an org's own, None for the packaged one."""

    org: str
    text: str | None


PACKAGED: Final = (SchemaOf("", None),)


def is_legacy(schema: SchemaOf) -> bool:
    """Whether it is the schema of agentkernel's own hosts."""
    return schema.text == load_legacy_schema().text


class Intake:
    """Checks policies and schemas. Thread-safe; takes its time."""

    def __init__(
        self,
        schema: CedarSchema,
        check: Check = check_policies,
        prove_schema: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Check with `check`, such as `Fence.check`, and have schemas parsed first by `prove_schema`.

        `schema` is the packaged one. Each call may raise what these raise.
        """
        self._packaged = schema
        self._check = check
        self._prove_schema = prove_schema
        self._parsed: OrderedDict[str, CedarSchema] = OrderedDict()
        self._lock = threading.Lock()

    def schema(self, text: str | None) -> CedarSchema:
        """Return a schema of an org, None for the packaged one; raise `SchemaInvalid` or `SchemaUnsupported`."""
        if text is None:
            return self._packaged
        if text == load_legacy_schema().text:
            return load_legacy_schema()
        with self._lock:
            if text in self._parsed:
                self._parsed.move_to_end(text)
                return self._parsed[text]
        self._prove_schema(text)
        parsed = read_host_schema(text)
        with self._lock:
            self._parsed[text] = parsed
            while len(self._parsed) > MAX_PARSED_SCHEMAS:
                self._parsed.popitem(last=False)
        return parsed

    def examine(self, cut: Findings, schemas: Sequence[SchemaOf] = PACKAGED) -> Findings:
        """Say what is wrong with files that were cut."""
        findings = examine(cut, self.schema(schemas[0].text), self._check)
        if findings.problems:
            return Findings(findings.policies, _naming(findings.problems, schemas[0]))
        return Findings(findings.policies, self.problems(findings.policies, schemas[1:]))

    def read(self, cut: Findings, schemas: Sequence[SchemaOf] = PACKAGED) -> tuple[PolicyText, ...]:
        """Return the policies of files that were cut; raise `PolicySetInvalid` with every problem."""
        findings = self.examine(cut, schemas)
        if findings.problems:
            raise PolicySetInvalid(findings.problems)
        return findings.policies

    def problems(self, policies: Sequence[PolicyText], schemas: Sequence[SchemaOf]) -> tuple[Problem, ...]:
        """Return what is wrong with policies that were cut elsewhere, by the first schema that they do not fit."""
        for wanted in schemas:
            problems = self._check(policies, self.schema(wanted.text))
            if not problems and is_legacy(wanted):
                problems = named_id_problems(policies)
            if problems:
                return _naming(problems, wanted)
        return ()

    def check(self, policies: Sequence[PolicyText], schemas: Sequence[SchemaOf] = PACKAGED) -> None:
        """Raise `PolicySetInvalid` with every problem of policies that were cut elsewhere."""
        if problems := self.problems(policies, schemas):
            raise PolicySetInvalid(problems)


def _naming(problems: Sequence[Problem], schema: SchemaOf) -> tuple[Problem, ...]:
    """Say of problems whose schema they are by; the packaged one goes without saying."""
    if schema.text is None:
        return tuple(problems)
    whose = f"by the schema of the org `{schema.org}`"
    if is_legacy(schema):
        whose = f"by the schema of agentkernel's own hosts of `{schema.org}`: no context, no optional attributes"
    return tuple(replace(problem, message=f"{problem.message} ({whose})") for problem in problems)

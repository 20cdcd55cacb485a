"""Which schema each org's hosts decide by, and that everything that they enforce fits it.

Rules:

- An org's hosts decide by the schema in the content of the org's own scope, or by the packaged one if that has none.
  So a publish of that scope can change the schema of every layer that they enforce, and each must fit the new one.
- Policies of a team or user must fit their org's schema. Those of `global` must fit the packaged one and each one that
  an org has of its own: an org that joins later begins with the packaged one.
- Where an org still has agentkernel's own hosts (`legacy`), what they are served must fit their schema too: `global`
  and the org's own scope. A layer for a team or user of such an org is refused.
- Cedar takes its time, and no transaction waits for it. What is to be fit is read before (`footing`), the policies are
  checked, and the transaction looks whether it is still so (`require`); if others published meanwhile, it begins again.
  What was once found to fit is remembered, so that beginning again is quick.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from akpolicy.engine.legacy import load_legacy_schema
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.errors import LegacyUnsupported, PolicySetInvalid, Problem, StoreUnavailable
from akpolicy.scope import GLOBAL, is_member_scope, org_of, org_scope
from akpolicy_server.contents import policies_in, schema_in
from akpolicy_server.intake import PACKAGED, SchemaOf
from akpolicy_server.orders import SchemaChoice
from akpolicy_server.store.blobs import load_blob
from akpolicy_server.store.layers import contents_of_org, own_contents
from akpolicy_server.store.revisions import current_revision

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import Connection

    from akpolicy.engine.source import PolicyText
    from akpolicy_server.intake import Intake
    from akpolicy_server.orders import PublishOrder
    from akpolicy_server.store.engine import Database

MAX_TRIES: Final = 10
# How much is remembered: contents with their schemas, and pairs of schema and content that fit.
MAX_KNOWN_CONTENTS: Final = 4096
MAX_KNOWN_PAIRS: Final = 65_536

R = TypeVar("R")


class FootingMoved(Exception):
    """What a check rested on is not so any more; it is not the publisher's mistake."""


@dataclass(frozen=True, slots=True)
class Footing:
    """What a publish has to fit.

    `schemas` are those that its policies must fit, and `layers` those that the schema must fit, each with the digest of
    its content: none unless it changes the schema of an org. `own` is the schema that its content brings.
    """

    schemas: tuple[SchemaOf, ...]
    layers: tuple[tuple[str, bytes], ...] = ()
    own: str | None = None


class Schemas:
    """Knows the schemas of orgs. Thread-safe; blocks."""

    def __init__(self, database: Database, intake: Intake, legacy_orgs: Collection[str] = ()) -> None:
        """`legacy_orgs` still have hosts of agentkernel's own kind."""
        self._database = database
        self._intake = intake
        self._legacy = tuple(SchemaOf(org, load_legacy_schema().text) for org in sorted(legacy_orgs))
        self._texts: OrderedDict[bytes, str | None] = OrderedDict()
        self._fits: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()
        self._lock = threading.Lock()

    # --- what is to be fit --------------------------------------------------------------------------------------------

    def footing_of(self, order: PublishOrder) -> Footing:
        """Return what an order has to fit as things are."""
        with self._database.read() as connection:
            return self.footing(connection, order.scope, self.wanted(connection, order))

    def wanted(self, connection: Connection, order: PublishOrder) -> str | None:
        """Return the schema that an order's content is to bring; raise `SchemaInvalid` or `SchemaUnsupported`."""
        if order.schema is SchemaChoice.OWN:
            return order.schema_text
        if order.schema is SchemaChoice.DEFAULT:
            return None
        return self.own(connection, order.scope)

    def own(self, connection: Connection, scope: str) -> str | None:
        """Return the schema that the content of an org's own scope brings; None for none, and for any other scope."""
        org = org_of(scope)
        if org is None or is_member_scope(scope):
            return None
        return self._of_org(connection, org)

    def footing(self, connection: Connection, scope: str, own: str | None) -> Footing:
        """Return what content of a scope has to fit that brings the schema `own`."""
        org = org_of(scope)
        if org is None:
            return Footing((*PACKAGED, *self._all(connection), *self._legacy[:1]))
        current = self._of_org(connection, org)
        legacy = tuple(schema for schema in self._legacy if schema.org == org)
        if is_member_scope(scope):
            if legacy:
                raise LegacyUnsupported(f"agentkernel's own hosts, which `{org}` still has, know no teams and users")
            return Footing((SchemaOf(org, current),))
        layers = () if own == current else self._layers(connection, org)
        return Footing((SchemaOf(org, own), *legacy), layers, own)

    def require(self, connection: Connection, scope: str, digest: bytes, footing: Footing) -> None:
        """Raise `FootingMoved` unless content of a scope, checked against `footing`, fits what it has to by now."""
        now = self.footing(connection, scope, footing.own)
        if now != footing and not self._is_all_known(digest, now):
            raise FootingMoved

    def require_wanted(self, connection: Connection, order: PublishOrder, digest: bytes, footing: Footing) -> None:
        """Raise `FootingMoved` unless the content of an order brings the schema that it is to bring, and fits."""
        if self.wanted(connection, order) != footing.own:
            raise FootingMoved
        self.require(connection, order.scope, digest, footing)

    def settled(self, attempt: Callable[[], R]) -> R:
        """Return what `attempt` returns, which may raise `FootingMoved` and is made again then."""
        for _ in range(MAX_TRIES):
            try:
                return attempt()
            except FootingMoved:
                continue
        raise StoreUnavailable("others keep publishing what this has to fit; try again")

    # --- whether it fits ----------------------------------------------------------------------------------------------

    def check_layers(self, footing: Footing) -> None:
        """Raise `PolicySetInvalid` with what is wrong with the layers that are to fit a new schema, `source` each."""
        problems: list[Problem] = []
        for scope, digest in footing.layers:
            if not self._is_known(footing.schemas[0], digest):
                problems += self._problems(scope, digest, footing.schemas[0])
            if len(problems) >= MAX_PROBLEMS:
                break
        if problems:
            raise PolicySetInvalid(tuple(problems[:MAX_PROBLEMS]))

    def check_content(self, digest: bytes, footing: Footing) -> None:
        """Raise `PolicySetInvalid` if stored content does not fit what it has to."""
        wanted = [schema for schema in footing.schemas if not self._is_known(schema, digest)]
        if wanted:
            self._intake.check(self._policies(digest), wanted)
            self.note(digest, footing)

    def note(self, digest: bytes, footing: Footing) -> None:
        """Note that content was found to fit."""
        for schema in footing.schemas:
            self._remember(schema, digest)

    def _problems(self, scope: str, digest: bytes, schema: SchemaOf) -> list[Problem]:
        found = self._intake.problems(self._policies(digest), [schema])
        if not found:
            self._remember(schema, digest)
        return [
            Problem(
                "SchemaConflict", f"the policy does not fit the new schema: {p.message}", p.policy_id, scope, p.line
            )
            for p in found
        ]

    def _policies(self, digest: bytes) -> list[PolicyText]:
        with self._database.read() as connection:
            blob = _blob(connection, digest)
        return policies_in(blob)

    # --- stored content that comes back -------------------------------------------------------------------------------

    def vet(self, scope: str, digest: bytes) -> None:
        """Raise `PolicySetInvalid` unless stored content of a scope fits what it has to if it becomes current."""
        with self._database.read() as connection:
            footing = self._footing_of_stored(connection, scope, digest)
        self.check_content(digest, footing)
        self.check_layers(footing)

    def require_vetted(self, connection: Connection, scope: str, digest: bytes) -> None:
        """Raise `FootingMoved` unless stored content of a scope was found to fit what it has to by now."""
        if not self._is_all_known(digest, self._footing_of_stored(connection, scope, digest)):
            raise FootingMoved

    def _footing_of_stored(self, connection: Connection, scope: str, digest: bytes) -> Footing:
        own = None if org_of(scope) is None or is_member_scope(scope) else self._text_in(connection, digest)
        return self.footing(connection, scope, own)

    # --- what is known ------------------------------------------------------------------------------------------------

    def _of_org(self, connection: Connection, org: str) -> str | None:
        digest = own_contents(connection, org).get(org)
        return None if digest is None else self._text_in(connection, digest)

    def _layers(self, connection: Connection, org: str) -> tuple[tuple[str, bytes], ...]:
        """Return everything but the org's own scope that its hosts enforce, or will once keys are right again."""
        found = set(contents_of_org(connection, org, but=org_scope(org)))
        newest = current_revision(connection, GLOBAL)
        return tuple(sorted(found | ({(GLOBAL, newest.content_digest)} if newest else set())))

    def _all(self, connection: Connection) -> list[SchemaOf]:
        """Return each schema that an org has of its own, with the first such org."""
        found: dict[str, SchemaOf] = {}
        for org, digest in sorted(own_contents(connection).items()):
            text = self._text_in(connection, digest)
            if text is not None:
                found.setdefault(text, SchemaOf(org, text))
        return list(found.values())

    def _text_in(self, connection: Connection, digest: bytes) -> str | None:
        with self._lock:
            if digest in self._texts:
                self._texts.move_to_end(digest)
                return self._texts[digest]
        text = schema_in(_blob(connection, digest))
        with self._lock:
            self._texts[digest] = text
            while len(self._texts) > MAX_KNOWN_CONTENTS:
                self._texts.popitem(last=False)
        return text

    def _is_all_known(self, digest: bytes, footing: Footing) -> bool:
        return all(self._is_known(schema, digest) for schema in footing.schemas) and all(
            self._is_known(footing.schemas[0], content) for _, content in footing.layers
        )

    def _is_known(self, schema: SchemaOf, digest: bytes) -> bool:
        with self._lock:
            return (_key(schema), digest) in self._fits

    def _remember(self, schema: SchemaOf, digest: bytes) -> None:
        with self._lock:
            self._fits[_key(schema), digest] = None
            while len(self._fits) > MAX_KNOWN_PAIRS:
                self._fits.popitem(last=False)


def _key(schema: SchemaOf) -> bytes:
    return b"" if schema.text is None else hashlib.sha256(schema.text.encode("utf-8")).digest()


def _blob(connection: Connection, digest: bytes) -> bytes:
    blob = load_blob(connection, digest)
    if blob is None:
        raise StoreUnavailable(f"the content {digest.hex()} is missing; restore the database from a backup")
    return blob

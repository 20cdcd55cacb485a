"""A server's insides on a real database of each kind, without the network."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from akpolicy.addresses import HostPort
from akpolicy.engine.files import PolicyFile
from akpolicy.engine.schema import CedarSchema, load_default_schema
from akpolicy_server.access import Caller, Role
from akpolicy_server.api_keys import ApiKeys
from akpolicy_server.first_root import DAY_S
from akpolicy_server.freeze import Freeze
from akpolicy_server.history import History
from akpolicy_server.installation import DATA_DIR, install
from akpolicy_server.intake import Intake
from akpolicy_server.ledger import Ledger
from akpolicy_server.online import OnlineKeys
from akpolicy_server.orders import PublishOrder, Sources
from akpolicy_server.orgs import Orgs
from akpolicy_server.presigned import Presigned
from akpolicy_server.publisher import Publisher
from akpolicy_server.replacements import Outlines
from akpolicy_server.rollbacks import Rollbacks
from akpolicy_server.roots import Roots
from akpolicy_server.schemas import Schemas
from akpolicy_server.settings import DATABASE_FILE
from akpolicy_server.signatory import Signatory
from akpolicy_server.store.engine import Database
from akpolicy_server.vault import Vault
from tests.simulators.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from tests.simulators.postgresql import PostgreSQL

LOOPBACK = HostPort("127.0.0.1", 0)

ON_BOTH_ENGINES = {
    "test_api_keys",
    "test_blobs",
    "test_catalog_and_sweep",
    "test_following",
    "test_freeze",
    "test_member_layers",
    "test_orgs",
    "test_publisher",
    "test_renewal",
    "test_reports",
    "test_rollbacks",
    "test_roots",
}


@dataclass
class Core:
    """The server's domain, wired as `app` wires it."""

    clock: ManualClock
    database: Database
    vault: Vault
    signatory: Signatory
    ledger: Ledger
    orgs: Orgs
    online_keys: OnlineKeys
    roots: Roots
    api_keys: ApiKeys
    publisher: Publisher
    presigned: Presigned
    rollbacks: Rollbacks
    freeze: Freeze
    history: History
    admin: Caller
    anchors: dict[str, str]
    announced: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)

    def publisher_of(self, org: str | None) -> Caller:
        """Return a caller with a stored publisher key."""
        made = self.api_keys.create(self.admin, org=org, role=Role.PUBLISHER, host_id="", description="")
        return self.api_keys.authenticate(made.secret)


def policy(policy_id: str, *, effect: str = "permit", roles: str = "developer") -> str:
    """Return a valid policy."""
    return (
        f'@id("{policy_id}")\n{effect} (principal is AgentKernel::User, action, resource)\n'
        f'when {{ principal.roles.contains("{roles}") }};\n'
    )


def order(scope: str, text: str, **conditions: object) -> PublishOrder:
    """Return an order to publish one file."""
    return PublishOrder(scope, Sources([PolicyFile("policies.cedar", text.encode())]), **conditions)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def schema() -> CedarSchema:
    """Return the schema that ships with the package."""
    return load_default_schema()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of what writes and reads most on both engines, and the others on SQLite."""
    if "database_url" in metafunc.fixturenames:
        name = metafunc.module.__name__.rpartition(".")[2]
        engines = ["sqlite", "postgresql"] if name in ON_BOTH_ENGINES else ["sqlite"]
        metafunc.parametrize("database_url", engines, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of an empty database, or none for a file in the data directory."""
    if request.param == "sqlite":
        yield ""
        return
    running: PostgreSQL = request.getfixturevalue("postgresql")
    yield (url := running.new_database())
    running.drop_database(url)


@contextmanager
def opened(
    data: Path, clock: ManualClock, schema: CedarSchema, admin_key: str, anchors: dict[str, str], url: str = ""
) -> Iterator[Core]:
    """Wire the domain over a database (without `url` the one in the data directory) and the keys of the directory."""
    announced: list[str] = []
    revoked: list[str] = []

    def announce(orgs: Collection[str]) -> None:
        announced.extend(sorted(orgs))

    with closing(Database(url or f"sqlite:///{data / DATABASE_FILE}")) as database:
        vault = Vault(data)
        signatory = Signatory(vault)
        ledger = Ledger(database, signatory, clock, announce=announce)
        intake = Intake(schema)
        api_keys = ApiKeys(database, clock, on_revoked=revoked.append)
        lifetime_s = 30 * DAY_S
        outlines, schemas = Outlines(), Schemas(database, intake)
        yield Core(
            clock=clock,
            database=database,
            vault=vault,
            signatory=signatory,
            ledger=ledger,
            orgs=Orgs(database, vault, signatory, ledger, clock),
            online_keys=OnlineKeys(database, vault, clock),
            roots=Roots(database, ledger),
            api_keys=api_keys,
            publisher=Publisher(database, ledger, intake, schemas, outlines, default_lifetime_s=lifetime_s),
            presigned=Presigned(database, ledger, intake, schemas, outlines, clock, default_lifetime_s=lifetime_s),
            rollbacks=Rollbacks(database, ledger, schemas, outlines, default_lifetime_s=lifetime_s),
            freeze=Freeze(database, ledger, schemas, default_lifetime_s=lifetime_s),
            history=History(database),
            admin=api_keys.authenticate(admin_key),
            anchors=anchors,
            announced=announced,
            revoked=revoked,
        )


@pytest.fixture
def core(tmp_path: Path, schema: CedarSchema, database_url: str) -> Iterator[Core]:
    """Return a server of the orgs `acme` and `globex`."""
    clock = ManualClock()
    made = install(
        tmp_path / "server",
        ("acme", "globex"),
        listen=LOOPBACK,
        metrics_listen=None,
        clock=clock,
        database_url=database_url,
    )
    anchors = {created.org: created.trust_anchor for created in made.orgs}
    with opened(tmp_path / "server" / DATA_DIR, clock, schema, made.admin_api_key, anchors, database_url) as core:
        yield core

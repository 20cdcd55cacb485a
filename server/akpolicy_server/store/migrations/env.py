"""What Alembic runs: the steps, on the connection and in the transaction that `migrate.upgrade` holds."""

from __future__ import annotations

from alembic import context

from akpolicy_server.store.migrate import CONNECTION
from akpolicy_server.store.tables import metadata

connection = context.config.attributes[CONNECTION]
# No transaction of its own: the caller's covers all steps.
context.configure(connection=connection, target_metadata=metadata)
context.run_migrations()

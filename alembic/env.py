"""How alembic reaches our schema: over the connection it is given, or the address in ``alembic.ini``."""

from sqlalchemy import Connection, create_engine

from alembic import context
from nanohook.tables import metadata


def migrate(connection: Connection) -> None:
    """Run the migrations asked for, in one transaction."""
    # SQLite cannot change a constraint in place: batch mode rebuilds the table.
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    address = context.config.get_main_option("sqlalchemy.url")
    with create_engine(address or "").begin() as connection:
        migrate(connection)

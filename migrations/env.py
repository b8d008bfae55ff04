"""How Alembic reaches the database: by the connection that ``jobs.database.migrate`` hands over, or by ``-x url=…``.

A migration runs in one transaction on both databases, SQLite included: either all of it happens, or nothing.
"""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from collegium.jobs.database.engine import Database, Instant, SafeText, open_engine
from collegium.jobs.database.schema import metadata


def render(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """A migration names the databases' own types, so that it means the same when the product's have moved on."""
    if kind == "type" and isinstance(item, Instant | SafeText):
        return "sa.BigInteger()" if isinstance(item, Instant) else "sa.Text()"
    return False


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        compare_server_default=True,
        render_item=render,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
elif context.is_offline_mode():
    raise SystemExit("run migrations against a database; there is no offline mode")
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if url is None:
        raise SystemExit("which database? alembic -c migrations/alembic.ini -x url=URL …")
    engine = open_engine(url)
    try:
        with Database(engine).write() as connection:
            run(connection)
    finally:
        engine.dispose()

"""Migrates the database's schema to this version, and checks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from collegium.jobs.database.engine import Database, open_engine
from collegium.jobs.errors import SchemaMismatch

#: Any number, the same in every process: the lock under which PostgreSQL migrates.
MIGRATION_LOCK = 0x636F6C6C


def config() -> Config:
    """Alembic's settings, without a database. Paths are doubled percents, as its parser wants them."""
    settings = Config()
    settings.set_main_option("script_location", str(resources.files("collegium.migrations")).replace("%", "%%"))
    return settings


def head() -> str:
    """The revision that this version works with."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:
        raise SchemaMismatch("this installation carries no migrations")
    return revision


def current(engine: Engine) -> str | None:
    """The revision that the database is at; None for an empty one."""
    with Database(engine).read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Engine | str, revision: str = "head") -> None:
    """Bring the database up to a revision, in one transaction. Concurrent calls run one after the other.

    Raises SchemaMismatch where a newer version has migrated the database.
    """
    with _opened(database) as engine, Database(engine).write() as connection:
        _lock_migrations(connection)
        _check_known(MigrationContext.configure(connection).get_current_revision())
        command.upgrade(_over(connection), revision)


def downgrade(database: Engine | str, revision: str) -> None:
    """Take the database back to a revision, ``base`` for none. Data of the tables that go are lost."""
    with _opened(database) as engine, Database(engine).write() as connection:
        _lock_migrations(connection)
        command.downgrade(_over(connection), revision)


def check(engine: Engine) -> None:
    """Raise SchemaMismatch unless the database is at the head; the message says what to do."""
    found, wanted = current(engine), head()
    if found != wanted:
        _check_known(found)
        raise SchemaMismatch(
            f"the database is at revision {found or 'none'}, this version needs {wanted}: run `collegium migrate`"
        )


def _check_known(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaMismatch(f"the database is at revision {revision}, which is newer than this version")


def _over(connection: Connection) -> Config:
    settings = config()
    settings.attributes["connection"] = connection
    return settings


def _lock_migrations(connection: Connection) -> None:
    # SQLite serialises writers by itself.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})


@contextmanager
def _opened(database: Engine | str) -> Iterator[Engine]:
    if isinstance(database, Engine):
        yield database
        return
    engine = open_engine(database)
    try:
        yield engine
    finally:
        engine.dispose()

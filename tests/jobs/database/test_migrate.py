import shutil
import threading
from importlib import resources

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import main as alembic_command
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect, text

from collegium.jobs.database import migrate
from collegium.jobs.database.engine import Database, open_engine
from collegium.jobs.database.schema import metadata
from collegium.jobs.errors import SchemaMismatch
from collegium.jobs.store import JobStore


@pytest.fixture
def engine(empty_database_url):
    engine = open_engine(empty_database_url)
    yield engine
    engine.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names())


def test_up_and_down_and_up_again(engine):
    for _ in range(2):
        assert migrate.current(engine) is None
        with pytest.raises(SchemaMismatch, match=r"revision none.*run `collegium migrate`"):
            migrate.check(engine)
        migrate.upgrade(engine)
        assert migrate.current(engine) == migrate.head()
        migrate.check(engine)
        assert tables(engine) == {*metadata.tables, "alembic_version"}
        store = JobStore(engine)
        assert store.claim(store.create("search", {}, queue="search")[0].id, "w", 60).attempt == 1
        migrate.downgrade(engine, "base")
        assert tables(engine) == {"alembic_version"}


def test_the_migrations_make_the_schema(engine):
    migrate.upgrade(engine)
    with Database(engine).read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    inspector = inspect(engine)
    for table in metadata.tables.values():
        checks = {check["name"] for check in inspector.get_check_constraints(table.name)}
        declared = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
        assert checks == {str(name) for name in declared}
        keys = {key["name"] for key in inspector.get_foreign_keys(table.name)}
        assert keys == {str(key.name) for key in table.foreign_key_constraints}
        assert inspector.get_pk_constraint(table.name)["name"] == table.primary_key.name


def test_the_developers_command(empty_database_url, engine):
    """As in migrations/alembic.ini: it finds the migrations, the product's tables, and no difference between them,
    with which ``check`` would end the process."""
    ini = str(resources.files("collegium.migrations") / "alembic.ini")
    for words in (["upgrade", "head"], ["check"]):
        alembic_command(["-c", ini, "-x", f"url={empty_database_url}", *words])
    migrate.check(engine)
    for words, says in [(["upgrade", "head"], "which database"), (["upgrade", "head", "--sql"], "no offline mode")]:
        with pytest.raises(SystemExit, match=says):
            alembic_command(["-c", ini, *words])


def test_a_new_migration_names_the_databases_own_types(tmp_path):
    shutil.copytree(str(resources.files("collegium.migrations")), tmp_path / "migrations")
    (tmp_path / "migrations/versions/0001_initial.py").unlink()
    url = f"url=sqlite:///{tmp_path}/jobs.db"
    ini = str(tmp_path / "migrations/alembic.ini")
    alembic_command(["-c", ini, "-x", url, "revision", "--autogenerate", "-m", "all again", "--rev-id", "1"])
    text = (tmp_path / "migrations/versions/1_all_again.py").read_text()
    assert "sa.Column('id', sa.Text(), nullable=False)" in text
    assert "sa.Column('created_at', sa.BigInteger(), nullable=False)" in text
    assert "collegium.jobs.database.engine" not in text


def test_a_database_of_a_newer_version_is_left_alone(engine):
    migrate.upgrade(engine)
    with Database(engine).write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (migrate.check, migrate.upgrade):
        with pytest.raises(SchemaMismatch, match="9999, which is newer"):
            attempt(engine)


def test_a_migration_that_fails_leaves_nothing_behind(engine):
    with Database(engine).write() as connection:
        connection.execute(text("CREATE TABLE datasets (id text)"))
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(engine)
    assert tables(engine) == {"datasets"}
    assert migrate.current(engine) is None


def test_concurrent_migrations_run_one_after_the_other(empty_database_url, engine):
    errors = []

    def start():
        try:
            migrate.upgrade(empty_database_url)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    migrate.check(engine)

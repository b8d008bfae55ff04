"""Alembic migrations, for SQLite and PostgreSQL; ``collegium.jobs.database.migrate`` runs them."""

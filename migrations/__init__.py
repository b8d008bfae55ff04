"""Alembic migrations, for SQLite and PostgreSQL; ``collegium.jobs.migrate`` runs them."""

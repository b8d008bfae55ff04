"""Alembic migrations, for SQLite and PostgreSQL; ``jobs.migrate`` runs them."""

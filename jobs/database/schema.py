"""The tables. ``migrations/`` builds the same ones; a test compares the two on both databases."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
)

from collegium.jobs.database.engine import Instant, SafeText
from collegium.jobs.states import STATUSES

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# `spec`, `result`, `failure`, `data`, `summary` and `value` hold JSON as text: the two databases' own JSON
# types differ in what they accept and in the order of keys.
jobs = Table(
    "jobs",
    metadata,
    Column("id", SafeText, primary_key=True),
    Column("kind", SafeText, nullable=False),
    Column("status", SafeText, nullable=False),
    Column("queue", SafeText, nullable=False),
    Column("spec", SafeText, nullable=False),
    Column("fingerprint", SafeText),
    Column("fraction", Double, nullable=False),
    Column("message", SafeText, nullable=False),
    Column("result", SafeText),
    Column("failure", SafeText),
    Column("attempt", Integer, nullable=False),
    Column("released", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("parent_id", SafeText, ForeignKey("jobs.id")),
    Column("child_key", SafeText),
    Column("cancel_requested", Boolean, nullable=False),
    Column("worker", SafeText),
    Column("lease_until", Instant),  # null unless an attempt holds the job
    Column("queued_at", Instant),  # null unless queued
    Column("hinted_at", Instant),  # when a message was last sent, or is being sent; null unless queued
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("updated_at", Instant, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    UniqueConstraint("parent_id", "child_key"),
    CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="status"),
    CheckConstraint("(parent_id IS NULL) = (child_key IS NULL)", name="child"),
    # Lists, newest first, by each combination of filters.
    Index(None, "created_at", "id"),
    Index(None, "kind", "created_at", "id"),
    Index(None, "status", "created_at", "id"),
    Index(None, "kind", "status", "created_at", "id"),
    Index(None, "parent_id", "created_at", "id"),
    # The queue, results of identical requests, the reaper's two scans.
    Index(None, "queue", "status", "created_at"),
    Index(None, "fingerprint", "status", "finished_at"),
    Index(None, "lease_until"),
    Index(None, "hinted_at"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", SafeText, ForeignKey("jobs.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("type", SafeText, nullable=False),
    Column("data", SafeText, nullable=False),
    Column("at", Instant, nullable=False),
    Index(None, "job_id", "type", "seq"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("job_id", SafeText, ForeignKey("jobs.id"), primary_key=True),
    Column("name", SafeText, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", SafeText, nullable=False),
    Column("media_type", SafeText, nullable=False),
    Column("location", SafeText, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", SafeText, primary_key=True),
    Column("request", SafeText, nullable=False),  # SHA-256 of the request
    Column("job_id", SafeText, ForeignKey("jobs.id"), nullable=False),
    Column("created_at", Instant, nullable=False),
)

estimates = Table(
    "estimates",
    metadata,
    Column("key", SafeText, primary_key=True),
    Column("value", SafeText, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", SafeText, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("hash", SafeText, nullable=False),
    Column("created_at", Instant, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", SafeText, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("kind", SafeText, nullable=False),
    Column("summary", SafeText, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index(None, "created_at", "id"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", SafeText, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

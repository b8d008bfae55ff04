"""Jobs, their events, artifacts and idempotency records; estimates, API keys, data sets, counters.

Times are microseconds since 1970 in UTC. `spec`, `result`, `failure`, `data`, `summary` and `value` hold JSON.

Revision: 0001, the first
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATUSES = ("queued", "running", "cancelling", "succeeded", "failed", "cancelled")


def text(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=null)


def big(name: str, *, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def whole(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer(), nullable=False)


def key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def job_key(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], ["jobs.id"], name=f"fk_{table}_{column}")


def index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def upgrade() -> None:
    op.create_table(
        "jobs",
        text("id"),
        text("kind"),
        text("status"),
        text("queue"),
        text("spec"),
        text("fingerprint", null=True),
        sa.Column("fraction", sa.Double(), nullable=False),
        text("message"),
        text("result", null=True),
        text("failure", null=True),
        whole("attempt"),
        whole("released"),
        whole("max_attempts"),
        text("parent_id", null=True),
        text("child_key", null=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        text("worker", null=True),
        big("lease_until", null=True),
        big("queued_at", null=True),
        big("hinted_at", null=True),
        big("created_at"),
        big("started_at", null=True),
        big("finished_at", null=True),
        big("updated_at"),
        whole("revision"),
        big("last_seq"),
        key("jobs", "id"),
        job_key("jobs", "parent_id"),
        sa.UniqueConstraint("parent_id", "child_key", name="uq_jobs_parent_id_child_key"),
        sa.CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name=op.f("ck_jobs_status")),
        sa.CheckConstraint("(parent_id IS NULL) = (child_key IS NULL)", name=op.f("ck_jobs_child")),
    )
    index("jobs", "created_at", "id")
    index("jobs", "kind", "created_at", "id")
    index("jobs", "status", "created_at", "id")
    index("jobs", "kind", "status", "created_at", "id")
    index("jobs", "parent_id", "created_at", "id")
    index("jobs", "queue", "status", "created_at")
    index("jobs", "fingerprint", "status", "finished_at")
    index("jobs", "lease_until")
    index("jobs", "hinted_at")
    op.create_table(
        "events",
        text("job_id"),
        big("seq"),
        text("type"),
        text("data"),
        big("at"),
        key("events", "job_id", "seq"),
        job_key("events", "job_id"),
    )
    index("events", "job_id", "type", "seq")
    op.create_table(
        "artifacts",
        text("job_id"),
        text("name"),
        big("bytes"),
        text("sha256"),
        text("media_type"),
        text("location"),
        key("artifacts", "job_id", "name"),
        job_key("artifacts", "job_id"),
    )
    op.create_table(
        "idempotency",
        text("key"),
        text("request"),
        text("job_id"),
        big("created_at"),
        key("idempotency", "key"),
        job_key("idempotency", "job_id"),
    )
    op.create_table("estimates", text("key"), text("value"), big("updated_at"), key("estimates", "key"))
    op.create_table("api_keys", text("id"), text("name"), text("hash"), big("created_at"), key("api_keys", "id"))
    op.create_table(
        "datasets",
        text("id"),
        text("name"),
        big("bytes"),
        text("kind"),
        text("summary"),
        big("created_at"),
        key("datasets", "id"),
    )
    index("datasets", "created_at", "id")
    op.create_table("counters", text("name"), big("value"), key("counters", "name"))


def downgrade() -> None:
    for table in ("counters", "datasets", "api_keys", "estimates", "idempotency", "artifacts", "events", "jobs"):
        op.drop_table(table)

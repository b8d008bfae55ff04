"""Durable counters, which only ever grow."""

from __future__ import annotations

from sqlalchemy import Connection, select

from collegium.jobs.database import insert
from collegium.jobs.schema import counters

LEASE_EXPIRIES = "lease_expiries"
FENCED_WRITES = "fenced_writes"


def count(connection: Connection, *names: str) -> None:
    """Add one to each, at the end of a transaction and in one order, so that two transactions never cross."""
    for name in sorted(names):
        fresh = insert(connection, counters).values(name=name, value=1)
        connection.execute(fresh.on_conflict_do_update(index_elements=["name"], set_={"value": counters.c.value + 1}))


def read_counters(connection: Connection) -> dict[str, int]:
    """All of them, by name."""
    return {row.name: row.value for row in connection.execute(select(counters).order_by(counters.c.name))}

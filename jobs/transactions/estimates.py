"""Estimates that later jobs reuse, stored by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from collegium.jobs.database.engine import Database, insert, now
from collegium.jobs.database.json_text import decode, encode
from collegium.jobs.database.schema import estimates


class Estimates:
    """Part of ``JobStore``: values by key."""

    database: Database

    def get_estimate(self, key: str) -> dict[str, Any] | None:
        """What was last put under this key."""
        with self.database.read() as connection:
            text = connection.scalar(select(estimates.c.value).where(estimates.c.key == key))
        return None if text is None else decode(text)

    def put_estimate(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a value, in place of an earlier one. Raises NotStorable."""
        values = {"value": encode(dict(value)), "updated_at": now()}
        with self.database.write() as connection:
            fresh = insert(connection, estimates).values(key=key, **values)
            connection.execute(fresh.on_conflict_do_update(index_elements=["key"], set_=values))

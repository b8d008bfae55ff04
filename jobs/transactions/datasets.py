"""The rows of data sets; ``collegium.jobs.files.datasets`` keeps their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, delete, select

from collegium.jobs.database.engine import Database, insert, now
from collegium.jobs.database.json_text import decode, encode
from collegium.jobs.database.schema import datasets
from collegium.jobs.errors import DatasetNotFound
from collegium.jobs.record import Dataset, Page
from collegium.jobs.transactions.listing import fetch_page


class Datasets:
    """Part of ``JobStore``: what is known about uploaded data."""

    database: Database

    def add_dataset(
        self, dataset_id: str, *, name: str, bytes: int, kind: str, summary: Mapping[str, Any]
    ) -> tuple[Dataset, bool]:
        """Record a data set, and whether it is new; one that is there already keeps its name. Raises NotStorable."""
        values = {"name": name, "bytes": bytes, "kind": kind, "summary": encode(dict(summary))}
        with self.database.write() as connection:
            fresh = insert(connection, datasets).values(id=dataset_id, created_at=now(), **values)
            fresh = fresh.on_conflict_do_nothing(index_elements=["id"]).returning(datasets.c.id)
            new = connection.scalar(fresh) is not None
            row = connection.execute(select(datasets).where(datasets.c.id == dataset_id)).one()
        return _dataset_of(row), new

    def get_dataset(self, dataset_id: str) -> Dataset:
        """One data set. Raises DatasetNotFound."""
        with self.database.read() as connection:
            row = connection.execute(select(datasets).where(datasets.c.id == dataset_id)).one_or_none()
        if row is None:
            raise DatasetNotFound(dataset_id)
        return _dataset_of(row)

    def list_datasets(self, *, limit: int = 50, cursor: str | None = None) -> Page[Dataset]:
        """One page, newest first. Raises InvalidCursor, and ValueError for a limit outside 1 … 1000."""
        with self.database.read() as connection:
            rows, next_cursor = fetch_page(
                connection, select(datasets), datasets.c.created_at, datasets.c.id, limit, cursor
            )
        return Page(tuple(_dataset_of(row) for row in rows), next_cursor)

    def delete_dataset(self, dataset_id: str) -> None:
        """Remove a data set. Raises DatasetNotFound."""
        with self.database.write() as connection:
            done = connection.execute(delete(datasets).where(datasets.c.id == dataset_id))
        if done.rowcount == 0:
            raise DatasetNotFound(dataset_id)


def _dataset_of(row: Row[Any]) -> Dataset:
    return Dataset(row.id, row.name, row.bytes, row.kind, decode(row.summary), row.created_at)

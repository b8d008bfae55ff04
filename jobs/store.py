"""The one object through which jobs are created, run, followed and ended."""

from __future__ import annotations

from sqlalchemy import Engine

from collegium.jobs.database.engine import Database
from collegium.jobs.transactions.attempts import Attempts
from collegium.jobs.transactions.cancellation import Cancellation
from collegium.jobs.transactions.creation import Creation
from collegium.jobs.transactions.datasets import Datasets
from collegium.jobs.transactions.estimates import Estimates
from collegium.jobs.transactions.events import History
from collegium.jobs.transactions.keys import Keys
from collegium.jobs.transactions.listing import Listing
from collegium.jobs.transactions.reading import Reading
from collegium.jobs.transactions.reaper import Reaping


class JobStore(Creation, Reading, Listing, Cancellation, Attempts, History, Reaping, Estimates, Datasets, Keys):
    """Durable jobs in SQLite or PostgreSQL. One method, one short transaction; safe to share between threads.

    Every method may also raise one of ``collegium.jobs.database.engine.UNAVAILABLE``, when the database cannot be
    reached. Nothing was written then, unless the connection broke during the commit; repeating a call is safe
    wherever it is fenced or carries a key.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.database = Database(engine)

    def close(self) -> None:
        """Close idle connections. The store opens new ones when it is used again."""
        self.engine.dispose()

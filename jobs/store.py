"""The one object through which jobs are created, run, followed and ended."""

from __future__ import annotations

from sqlalchemy import Engine

from jobs.attempts import Attempts
from jobs.creation import Creation
from jobs.database import Database
from jobs.datasets import Datasets
from jobs.estimates import Estimates
from jobs.events import History
from jobs.family import Cancellation
from jobs.keys import Keys
from jobs.listing import Listing
from jobs.reading import Reading
from jobs.reaper import Reaping


class JobStore(Creation, Reading, Listing, Cancellation, Attempts, History, Reaping, Estimates, Datasets, Keys):
    """Durable jobs in SQLite or PostgreSQL. One method, one short transaction; safe to share between threads.

    Every method may also raise one of ``jobs.database.UNAVAILABLE``, when the database cannot be reached. Nothing
    was written then, unless the connection broke during the commit; repeating a call is safe wherever it is fenced
    or carries a key.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.database = Database(engine)

    def close(self) -> None:
        """Close idle connections. The store opens new ones when it is used again."""
        self.engine.dispose()

"""What the broker's messages name."""

from __future__ import annotations

from collegium.worker.application import Collegium
from collegium.worker.publisher import TASK

REAP = "collegium.reap"


def register(app: Collegium) -> None:
    """Add the tasks to an application."""

    @app.task(name=TASK)
    def run_job(job_id: str) -> None:
        """Run a job, if it waits and there is room for it."""
        if app.runner is not None:
            app.runner.run(job_id)

    @app.task(name=REAP)
    def reap() -> None:
        """Look for lost jobs; beat sends it, for set-ups that want a reaper beside those in the workers."""
        if app.runner is not None:
            app.runner.reap_once()

"""Runs jobs: a Celery worker that supervises one computing process per job, and never loads torch itself.

``celery -A collegium.worker worker -Q search,train --pool threads`` finds the application here; ``python -m
collegium.worker.embedded`` runs the same worker as a child of ``collegium serve``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery


def __getattr__(name: str) -> Celery:
    # The application reads the environment; a module that only needs a part of this package should not.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from collegium.worker.celery import create_app
    from collegium.worker.settings import load_settings

    app = globals()["app"] = create_app(load_settings())
    return app

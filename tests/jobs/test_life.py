"""The state machine of jobs: random sequences of every operation, against a model in a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import update

from collegium.jobs.database.engine import open_engine
from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import CancelNotRequested, ParentClosed, Superseded
from collegium.jobs.record import Artifact, Failure
from collegium.jobs.states import TERMINAL, TRANSITIONS
from collegium.jobs.store import JobStore

FAILURE = Failure("internal", "broke")
ALLOWED = {(transition.source, transition.target) for transition in TRANSITIONS}


@dataclass
class Model:
    """What a job should be."""

    id: str
    max_attempts: int
    parent: Model | None = None
    status: str = "queued"
    attempt: int = 0
    counted: int = 0
    history: list[str] = field(default_factory=lambda: ["queued"])
    children: list[Model] = field(default_factory=list)

    def to(self, status: str) -> None:
        self.status = status
        self.history.append(status)
        if status in TERMINAL:
            for child in self.children:
                if child.status == "queued":
                    child.cancel()

    def cancel(self) -> None:
        if self.status == "queued":
            self.status = "cancelled"
            self.history.append("cancelled")
        elif self.status == "running":
            self.to("cancelling")
        for child in self.children:
            child.cancel()

    def try_again_or(self, end: str) -> None:
        self.to("queued" if self.counted < self.max_attempts else end)


class Life(RuleBasedStateMachine):
    """Attempts are drawn at random, so most of them are superseded; the store must tell which."""

    store: JobStore
    known = Bundle("known")
    attempts = st.integers(0, 4)

    @initialize()
    def start(self):
        self.models: list[Model] = []
        self.fenced = self.store.metrics().counters.get("fenced_writes", 0)

    @rule(target=known, max_attempts=st.integers(1, 3))
    def create(self, max_attempts):
        job, _ = self.store.create("search", {}, queue="search", max_attempts=max_attempts)
        return self.remember(Model(job.id, max_attempts))

    @rule(target=known, parent=known)
    def create_child(self, parent):
        key = str(len(parent.children))
        try:
            job, _ = self.store.create("shard", {}, queue="search", parent_id=parent.id, child_key=key)
        except ParentClosed:
            assert parent.status not in ("queued", "running")
            return parent
        assert parent.status in ("queued", "running")
        child = self.remember(Model(job.id, 3, parent))
        parent.children.append(child)
        return child

    def remember(self, model):
        self.models.append(model)
        return model

    @rule(model=known)
    def claim(self, model):
        job = self.store.claim(model.id, "w", 600)
        assert (job is not None) == (model.status == "queued")
        if job is not None:
            model.attempt += 1
            model.counted += 1
            model.to("running")

    def write(self, model, attempt, action, effect):
        """Do it; it must go through exactly when this attempt holds the job."""
        holds = attempt == model.attempt and model.status in ("running", "cancelling")
        try:
            action()
        except Superseded:
            assert not holds
            self.fenced += 1
        else:
            assert holds
            effect()

    @rule(model=known, attempt=attempts)
    def beat(self, model, attempt):
        answers = []
        self.write(
            model,
            attempt,
            lambda: answers.append(self.store.heartbeat(model.id, attempt, 600)),
            lambda: None,
        )
        assert all(beat.cancel_requested == (model.status == "cancelling") for beat in answers)

    @rule(model=known, attempt=attempts)
    def report(self, model, attempt):
        self.write(model, attempt, lambda: self.store.report(model.id, attempt, 0.5, "half"), lambda: None)

    @rule(model=known, attempt=attempts)
    def succeed(self, model, attempt):
        file = Artifact("a", 1, "00", "text/plain", f"{model.id}/{attempt}/a")
        self.write(
            model,
            attempt,
            lambda: self.store.succeed(model.id, attempt, {"by": attempt}, [file]),
            lambda: model.to("succeeded"),
        )

    @rule(model=known, attempt=attempts, retry=st.booleans())
    def fail(self, model, attempt, retry):
        def effect():
            if model.status == "cancelling":
                model.to("cancelled")
            elif retry:
                model.try_again_or("failed")
            else:
                model.to("failed")

        self.write(model, attempt, lambda: self.store.fail(model.id, attempt, FAILURE, retry=retry), effect)

    @rule(model=known, attempt=attempts)
    def stop(self, model, attempt):
        try:
            self.write(
                model,
                attempt,
                lambda: self.store.finish_cancelled(model.id, attempt),
                lambda: model.to("cancelled"),
            )
        except CancelNotRequested:
            assert (model.status, model.attempt) == ("running", attempt)

    @rule(model=known, attempt=attempts)
    def release(self, model, attempt):
        def effect():
            model.counted -= 1
            model.to("cancelled" if model.status == "cancelling" else "queued")

        self.write(model, attempt, lambda: self.store.release(model.id, attempt), effect)

    @rule(model=known)
    def cancel(self, model):
        self.store.request_cancel(model.id)
        model.cancel()

    @rule(model=known)
    def lose_worker(self, model):
        with self.store.database.write() as connection:
            connection.execute(
                update(jobs).where(jobs.c.id == model.id).values(lease_until=jobs.c.lease_until - 10**12)
            )
        reaped = self.store.reap()
        if model.status == "running":
            model.try_again_or("failed")
        elif model.status == "cancelling":
            model.to("cancelled")
        else:
            assert (reaped.expired, reaped.failed, reaped.cancelled) == ((), (), ())

    @invariant()
    def the_store_agrees_with_the_model(self):
        stored = {job.id: job for job in self.store.list(limit=1000).items}
        for model in getattr(self, "models", []):
            job = stored[model.id]
            assert (job.status, job.attempt, job.terminal) == (
                model.status,
                model.attempt,
                model.status in TERMINAL,
            )
            assert (job.lease_until is not None) == (model.status in ("running", "cancelling"))
            assert (job.finished_at is not None) == job.terminal
            assert (job.result is not None) == (model.status == "succeeded")
            assert (job.failure is not None) == (model.status == "failed")

    def teardown(self):
        for model in getattr(self, "models", []):
            events = self.store.events(model.id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            history = [event.data["status"] for event in events if event.type == "state"]
            assert history == model.history
            assert set(pairwise(history)) <= ALLOWED
            assert [event.terminal for event in events[:-1]] == [False] * (len(events) - 1)
            assert events[-1].terminal == (model.status in TERMINAL)
            assert len(self.store.artifacts(model.id)) == (model.status == "succeeded")
        if hasattr(self, "fenced"):
            assert self.store.metrics().counters.get("fenced_writes", 0) == self.fenced
            for model in self.models:
                self.store.request_cancel(model.id)
                if not self.store.get(model.id).terminal:
                    self.store.finish_cancelled(model.id, model.attempt)


def test_any_sequence_of_events_follows_the_transitions(database_url: str, request: pytest.FixtureRequest):
    store = JobStore(open_engine(database_url))
    Life.store = store
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=8,
            stateful_step_count=35,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    store.close()

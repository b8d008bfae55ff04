"""Durable jobs, their events, artifacts and data sets. No torch, no HTTP.

``collegium.jobs.database.engine.open_engine(url)`` → ``collegium.jobs.database.migrate.upgrade(engine)`` →
``collegium.jobs.store.JobStore(engine)``; and ``collegium.jobs.files.artifacts.ArtifactStore(url)`` and
``collegium.jobs.files.datasets.DatasetStore(folder, store, …)``.

The store at a glance (records in ``collegium.jobs.record``, errors in ``collegium.jobs.errors``, states in
``collegium.jobs.states``)::

    create(kind, spec, *, queue, fingerprint=None, idempotency_key=None, parent_id=None, child_key=None,
           max_attempts=3, reuse_result=False) -> (Job, created)
    fan_out(parent_id, attempt, children) -> list[Job]
    get(id) -> Job
    list(*, kind=None, status=None, parent_id=None, top_level=False, limit=50, cursor=None, results=True) -> Page[Job]
    children(parent_id) -> list[Job]          child_counts(parent_id) -> {status: count}
    request_cancel(id) -> Job                 and everything below it

    next_queued(queue) -> id | None
    claim(id, worker, lease_s) -> Job | None
    claim_next(queue, worker, lease_s)        claim_child(parent_id, worker, lease_s)
    heartbeat(id, attempt, lease_s) -> Heartbeat
    report(id, attempt, fraction, message) -> seq
    append_event(id, attempt, type, data) -> seq       append_events(id, attempt, [(type, data), …]) -> seq
    succeed(id, attempt, result, artifacts=()) -> Job
    fail(id, attempt, failure, *, retry, artifacts=()) -> Job
    finish_cancelled(id, attempt, artifacts=()) -> Job
    release(id, attempt) -> Job

    events(id, after=0, limit=500, types=None) -> list[Event]
    artifacts(id) -> list[Artifact]           artifact(id, name) -> Artifact | None
    reap(limit=100) -> Reaped                 publishable(older_than_s, limit=100) -> list[Hint]
    metrics() -> QueueMetrics                 ping()
    get_estimate(key) -> dict | None          put_estimate(key, value)
    add_key(name) -> (ApiKey, secret)         verify_key(secret) -> ApiKey | None
    list_keys() -> list[ApiKey]               revoke_key(id) -> bool          has_keys() -> bool
    add_dataset(...) -> (Dataset, created)    get_dataset(id)    list_datasets(limit, cursor)    delete_dataset(id)
"""

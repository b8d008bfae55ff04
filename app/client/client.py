"""A client of the HTTP service, for the command line and for programs.

::

    ClientError
    ├── Unreachable    the connection failed
    ├── Refused        the service answered with a problem; ``problem`` holds it
    └── Damaged        a downloaded file does not match its hash
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from pydantic import BaseModel

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
PATHS = {"search": "/v1/searches", "training": "/v1/trainings", "study": "/v1/studies"}
_RETRIES = 4
_STREAM_SILENCE_S = 60.0


class ClientError(Exception):
    """Root of what a call may raise.

    >>> from collegium import Client, ClientError
    >>> try:
    ...     Client("http://127.0.0.1:9").search("resnet50")
    ... except ClientError as error:
    ...     print(type(error).__name__)
    Unreachable
    """


class Unreachable(ClientError):
    """The connection failed."""


class Damaged(ClientError):
    """A downloaded file does not match its hash."""


class Refused(ClientError):
    """The service answered with a problem document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        self.status = int(problem.get("status", 0))
        self.kind = str(problem.get("type", "")).rpartition(":")[2]
        self.errors: list[dict[str, str]] = list(problem.get("errors") or [])
        super().__init__(str(problem.get("detail") or problem.get("title") or "the service refused"))


class StreamedEvent(NamedTuple):
    """One server-sent event."""

    seq: int
    type: str
    data: dict[str, Any]

    @property
    def terminal(self) -> bool:
        """The last event of its job."""
        return self.type == "state" and self.data.get("status") in TERMINAL


class Client:
    """Calls the service at ``url``, with an API key where one is required. Raises ``ClientError``.

    >>> from collegium import Client
    >>> with Client("http://127.0.0.1:8321") as client:
    ...     answer = client.search("mlp-digits-6x100").wait().result
    >>> answer.primal.multiplicity, answer.primal.width
    (20, 17)
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8321", key: str = "", transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"User-Agent": "collegium", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(30.0, connect=5.0), transport=transport
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()

    def search(self, baseline: str | Mapping[str, Any] | BaseModel, *, fresh: bool = False, **fields: Any) -> RemoteJob:
        """Have a baseline searched: a preset's name, a baseline, or a whole specification, as ``find_ensemble`` takes.

        An identical search that was answered before is that finished job, unless ``fresh``. The service validates it,
        and may have families that are not installed here.
        """
        from collegium.search.find import search_document  # which loads every family

        return RemoteJob(self, self.submit("search", search_document(baseline, **fields), fresh=fresh))

    def train(self, spec: Mapping[str, Any] | BaseModel, *, fresh: bool = False) -> RemoteJob:
        """Have an architecture trained: a ``TrainingSpec``, or the same as a dictionary."""
        return RemoteJob(self, self.submit("training", _plain(spec), fresh=fresh))

    def study(self, spec: Mapping[str, Any] | BaseModel, *, fresh: bool = False) -> RemoteJob:
        """Have architectures and methods compared over seeds: a ``StudySpec``, or the same as a dictionary."""
        return RemoteJob(self, self.submit("study", _plain(spec), fresh=fresh))

    def submit(self, kind: str, spec: Mapping[str, Any], *, fresh: bool = False) -> dict[str, Any]:
        """Post a specification; the job. A broken connection is tried again under one idempotency key."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._json("POST", PATHS[kind], json=spec, headers=headers, params={"fresh": "true"} if fresh else None)

    def presets(self) -> list[dict[str, Any]]:
        """The named architectures, with their sizes."""
        return self._json("GET", "/v1/presets")["items"]

    def preset(self, name: str) -> dict[str, Any]:
        """One named architecture with its whole ``baseline``."""
        return self._json("GET", f"/v1/presets/{quote(name)}")

    def job(self, job_id: str) -> dict[str, Any]:
        """One job."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self, **filters: Any) -> dict[str, Any]:
        """A page of jobs: ``items`` and ``next_cursor``."""
        return self._json("GET", "/v1/jobs", params={k: v for k, v in filters.items() if v is not None})

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Request that a job ends."""
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def metrics(self, job_id: str, after: int = 0) -> dict[str, Any]:
        """A job's metrics as a table."""
        return self._json("GET", f"/v1/jobs/{job_id}/metrics", params={"after": after})

    def artifacts(self, job_id: str) -> list[dict[str, Any]]:
        """The files that a job left."""
        return self._json("GET", f"/v1/jobs/{job_id}/artifacts")["items"]

    def datasets(self) -> list[dict[str, Any]]:
        """All uploaded data sets, newest first."""
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self._json("GET", "/v1/datasets", params={"cursor": cursor} if cursor else None)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set."""
        self._request("DELETE", f"/v1/datasets/{dataset_id}")

    def wait(self, job_id: str, seen: Callable[[StreamedEvent], None] = lambda event: None) -> dict[str, Any]:
        """Follow a job to its end, calling ``seen`` with each event; the finished job."""
        for event in self.events(job_id):
            seen(event)
        return self.job(job_id)

    def events(self, job_id: str, after: int = 0) -> Iterator[StreamedEvent]:
        """A job's events up to the terminal one, over as many connections as it takes."""
        failures = 0
        while True:
            try:
                for event in self._stream(job_id, after):
                    after, failures = event.seq, 0
                    yield event
                    if event.terminal:
                        return
            except (Unreachable, httpx.TransportError) as error:
                failures += 1
                if failures > _RETRIES:
                    raise Unreachable(f"{self.url} no longer answers: {error}") from error
            time.sleep(min(5.0, 0.2 * 2**failures))

    def _stream(self, job_id: str, after: int) -> Iterator[StreamedEvent]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(30.0, read=_STREAM_SILENCE_S)
        with self._http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as response:
            _raise_refusal(response)
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield StreamedEvent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    fields = {}
                else:
                    fields = {}

    def stream_file(self, link: str, headers: Mapping[str, str]) -> Any:
        """A download as a context manager; see ``collegium.app.client.transfer``."""
        return self._http.stream("GET", link, headers={"Accept": "*/*", "Accept-Encoding": "identity", **headers})

    def send_bytes(
        self, method: str, path: str, content: Any, headers: Mapping[str, str] | None = None, **query: Any
    ) -> dict[str, Any]:
        """Send raw bytes; the JSON answer."""
        headers = {"Content-Type": "application/octet-stream", **(headers or {})}
        response = self._once(
            method, path, content=content, headers=headers, params=query, timeout=httpx.Timeout(1200.0, connect=5.0)
        )
        return response.json()

    def get(self, path: str) -> dict[str, Any]:
        """Any JSON document of the service."""
        return self._json("GET", path)

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._request(method, path, **options).json()

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Every request made through here may be repeated: it reads, is absorbed, or carries an idempotency key."""
        for attempt in range(_RETRIES):
            try:
                return self._once(method, path, **options)
            except Unreachable as error:
                if attempt == _RETRIES - 1 or isinstance(error.__cause__, httpx.ConnectError):
                    raise
            except Refused as error:
                if error.status != 503 or attempt == _RETRIES - 1:
                    raise
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            problem = f"{self.url!r} is not the address of a service, as http://127.0.0.1:8321 is: {error}"
            raise Unreachable(problem) from error
        except httpx.TransportError as error:
            raise Unreachable(f"no connection to {self.url}: {error or type(error).__name__}") from error
        _raise_refusal(response)
        return response


class RemoteJob:
    """A search, training or study at a service; ``Client.search``, ``train`` and ``study`` return one.

    >>> from collegium import Client
    >>> with Client("http://127.0.0.1:8321") as client:
    ...     job = client.search({"baseline": {"family": "mlp", "inputs": 64, "hidden": [100, 100], "outputs": 10}})
    ...     answer = job.wait().result
    >>> job.status, answer.primal.multiplicity
    ('succeeded', 17)
    """

    def __init__(self, client: Client, document: Mapping[str, Any]) -> None:
        self._client = client
        self.document = dict(document)

    @property
    def id(self) -> str:
        """The job's identifier."""
        return self.document["id"]

    @property
    def status(self) -> str:
        """``queued``, ``running``, ``cancelling``, ``succeeded``, ``failed`` or ``cancelled``, as last read."""
        return self.document["status"]

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the job failed: ``kind``, ``message``, ``remedy`` and ``log_tail``; None where it did not."""
        return self.document["failure"]

    @property
    def result(self) -> Any:
        """The ``SearchResult``, ``TrainingResult`` or ``StudyResult`` of a job that succeeded, else None."""
        if self.document["result"] is None:
            return None
        # The service adds links, and a newer one may add fields.
        return _result_type(self.document["kind"]).model_validate(self.document["result"], extra="ignore")

    def refresh(self) -> RemoteJob:
        """Read the job again, and return it. Raises ``ClientError``."""
        self.document = self._client.job(self.id)
        return self

    def wait(self, on_event: Callable[[StreamedEvent], None] | None = None) -> RemoteJob:
        """Follow the job to its end, calling ``on_event`` with each event, and return it. Raises ``ClientError``."""
        for event in self.events():
            if on_event is not None:
                on_event(event)
        return self.refresh()

    def events(self, after: int = 0) -> Iterator[StreamedEvent]:
        """The job's events after a sequence number, live, up to the terminal one. Raises ``ClientError``."""
        return self._client.events(self.id, after)

    def cancel(self) -> RemoteJob:
        """Request that the job ends, and return it. Raises ``ClientError``."""
        self.document = self._client.cancel(self.id)
        return self

    def download(self, folder: str | Path) -> list[Path]:
        """Fetch the job's files into ``folder``, hashes checked; their paths. Raises ``ClientError``."""
        from collegium.app.client.transfer import download

        client: Any = self._client  # that module imports this one
        return [download(client, artifact, Path(folder)) for artifact in client.artifacts(self.id)]

    def __repr__(self) -> str:
        return f"<RemoteJob {self.id} {self.document['kind']} {self.status}>"


def _result_type(kind: str) -> type[Any]:
    from collegium.search.result import SearchResult
    from collegium.train.result import StudyResult, TrainingResult

    return {"search": SearchResult, "training": TrainingResult, "study": StudyResult}[kind]


def _plain(spec: Mapping[str, Any] | BaseModel) -> Mapping[str, Any]:
    return spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, BaseModel) else spec


def _raise_refusal(response: httpx.Response) -> None:
    if not response.is_error:
        return
    response.read()
    try:
        problem = response.json()
        if not isinstance(problem, dict):
            raise ValueError
    except ValueError:
        place = response.url.copy_with(path="/", query=None)
        said = f"{response.status_code} {response.reason_phrase}"
        problem = {"detail": f"{said}, without a reason: is what answers at {place} the service?"}
    raise Refused({"status": response.status_code, **problem})

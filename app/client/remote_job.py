"""A job at a service, as programs use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collegium.app.client.client import Client, StreamedEvent

Result = Any


class RemoteJob:
    """A search, training or study at a service; ``Client.search``, ``train`` and ``study`` return one.

    >>> from collegium import Client
    >>> with Client("http://127.0.0.1:8321") as client:
    ...     job = client.search({"baseline": {"family": "mlp", "inputs": 64, "hidden": [100, 100], "outputs": 10}})
    ...     answer = job.wait().result
    >>> job.status, answer.primal.multiplicity
    ('succeeded', 9)
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
    def result(self) -> Result | None:
        """The ``SearchResult``, ``TrainingResult`` or ``StudyResult`` of a job that succeeded, else None."""
        if self.document["result"] is None:
            return None
        return _result_type(self.document["kind"]).model_validate(self.document["result"])

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
        """Ask the job to end, and return it. Raises ``ClientError``."""
        self.document = self._client.cancel(self.id)
        return self

    def download(self, folder: str | Path) -> list[Path]:
        """Fetch the job's files into ``folder``, hashes checked; their paths. Raises ``ClientError``."""
        from collegium.app.client.transfer import download

        return [download(self._client, artifact, Path(folder)) for artifact in self._client.artifacts(self.id)]

    def __repr__(self) -> str:
        return f"<RemoteJob {self.id} {self.document['kind']} {self.status}>"


def _result_type(kind: str) -> type[Any]:
    from collegium.search.result import SearchResult
    from collegium.train.result import StudyResult, TrainingResult

    return {"search": SearchResult, "training": TrainingResult, "study": StudyResult}[kind]

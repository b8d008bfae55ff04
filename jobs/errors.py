"""What the store refuses.

::

    JobsError
    ├── Missing
    │   ├── JobNotFound
    │   ├── DatasetNotFound
    │   ├── ArtifactNotFound
    │   └── UploadNotFound
    ├── Conflict
    │   ├── Superseded            an attempt that no longer holds its job tried to write
    │   ├── IdempotencyConflict   the key was used before, for something else
    │   ├── CancelNotRequested    an attempt ended a job as cancelled without a request
    │   ├── ParentClosed          a child for a parent that has ended or is ending
    │   └── OffsetMismatch        an upload continued in the wrong place
    ├── Rejected (ValueError)
    │   ├── InvalidCursor         not one that this store made
    │   ├── NotStorable           not JSON: NaN, Infinity, an unknown type
    │   ├── InvalidName           an artifact or data set name that could leave its folder
    │   ├── TooLarge              an upload beyond the limit
    │   └── HashMismatch          an upload that is not what was announced
    └── SchemaMismatch            the database is not at this version's migration
"""

from __future__ import annotations


class JobsError(Exception):
    """Root of everything this package raises on purpose."""


class Missing(JobsError):
    """What an id or a name refers to was not found."""


class JobNotFound(Missing):
    """No job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id!r}")
        self.job_id = job_id


class DatasetNotFound(Missing):
    """No data set has this id."""

    def __init__(self, dataset_id: str) -> None:
        super().__init__(f"there is no data set {dataset_id!r}")
        self.dataset_id = dataset_id


class ArtifactNotFound(Missing):
    """The artifact is not in the store."""

    def __init__(self, location: str) -> None:
        super().__init__(f"there is no artifact {location!r}")
        self.location = location


class UploadNotFound(Missing):
    """No upload with this id is under way."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"there is no upload {upload_id!r}")
        self.upload_id = upload_id


class Conflict(JobsError):
    """It cannot be done in the present state."""


class Superseded(Conflict):
    """The attempt does not hold the job: another has taken over, or the job has ended. Nothing was written."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} does not hold job {job_id!r}")
        self.job_id = job_id
        self.attempt = attempt


class IdempotencyConflict(Conflict):
    """The idempotency key belongs to a different request, the one that made ``job_id``."""

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(f"the idempotency key {key!r} was used for a different request")
        self.key = key
        self.job_id = job_id


class CancelNotRequested(Conflict):
    """No cancellation was requested, so the attempt may finish, fail or release the job, but not cancel it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no cancellation of job {job_id!r} was requested")
        self.job_id = job_id


class ParentClosed(Conflict):
    """The parent takes no more children."""

    def __init__(self, parent_id: str, status: str) -> None:
        super().__init__(f"job {parent_id!r} is {status} and takes no more children")
        self.parent_id = parent_id
        self.status = status


class OffsetMismatch(Conflict):
    """The upload holds ``expected`` bytes; continue there."""

    def __init__(self, upload_id: str, expected: int, offset: int) -> None:
        super().__init__(f"upload {upload_id!r} holds {expected} bytes and cannot continue at {offset}")
        self.upload_id = upload_id
        self.expected = expected


class Rejected(JobsError, ValueError):
    """The value itself is wrong."""


class InvalidCursor(Rejected):
    """Not a cursor that this store made."""


class NotStorable(Rejected):
    """The value cannot be written as JSON."""


class InvalidName(Rejected):
    """The name is empty, too long, or could leave its folder."""


class TooLarge(Rejected):
    """More bytes than are permitted."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than the permitted {limit} bytes")
        self.limit = limit


class HashMismatch(Rejected):
    """The bytes are not those that were announced."""

    def __init__(self, announced: str, found: str) -> None:
        super().__init__(f"the bytes hash to {found}, announced was {announced}")
        self.announced = announced
        self.found = found


class SchemaMismatch(JobsError):
    """The database's schema is not the one that this version works with."""

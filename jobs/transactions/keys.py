"""Bearer keys of the API. A key carries 256 random bits, so a plain SHA-256 of it is as safe to keep as any hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import delete, insert, select

from collegium.jobs.database.engine import Database, now
from collegium.jobs.database.schema import api_keys
from collegium.jobs.record import ApiKey
from collegium.jobs.transactions.creation import new_id

PREFIX = "collegium"
NAME_LIMIT = 255


class Keys:
    """Part of ``JobStore``: who may use the API."""

    database: Database

    def add_key(self, name: str) -> tuple[ApiKey, str]:
        """A new key, and its secret, which cannot be read again. Raises ValueError for an empty or long name."""
        if not 1 <= len(name) <= NAME_LIMIT:
            raise ValueError(f"a key's name has between 1 and {NAME_LIMIT} characters")
        key_id = new_id()
        secret = f"{PREFIX}_{key_id}_{secrets.token_hex(32)}"
        with self.database.write() as connection:
            connection.execute(insert(api_keys).values(id=key_id, name=name, hash=_hash(secret), created_at=now()))
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one()
        return ApiKey(row.id, row.name, row.created_at), secret

    def verify_key(self, secret: str) -> ApiKey | None:
        """The key that this secret belongs to, or None."""
        _, _, rest = secret.partition("_")
        key_id, _, _ = rest.partition("_")
        with self.database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        if row is None or not hmac.compare_digest(row.hash, _hash(secret)):
            return None
        return ApiKey(row.id, row.name, row.created_at)

    def list_keys(self) -> list[ApiKey]:
        """All keys, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return [ApiKey(row.id, row.name, row.created_at) for row in rows]

    def has_keys(self) -> bool:
        """Whether there is a key, and so the API requires one."""
        with self.database.read() as connection:
            return connection.scalar(select(api_keys.c.id).limit(1)) is not None

    def revoke_key(self, key_id: str) -> bool:
        """Remove a key; whether there was one."""
        with self.database.write() as connection:
            return connection.execute(delete(api_keys).where(api_keys.c.id == key_id)).rowcount > 0


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()

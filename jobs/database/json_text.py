"""JSON as it is stored: text that keeps the order of keys, without NaN and Infinity."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from collegium.jobs.errors import NotStorable


def encode(value: Any) -> str:
    """Compact text. Done before a transaction begins, as a large result takes its time. Raises NotStorable."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorable(f"not storable as JSON: {error}") from error


def decode(text: str) -> Any:
    """What ``encode`` was given."""
    return json.loads(text)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys, in hex."""
    try:
        canonical = json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStorable(f"not storable as JSON: {error}") from error
    return hashlib.sha256(canonical.encode()).hexdigest()

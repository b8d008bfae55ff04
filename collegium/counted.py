"""Numbers with the noun that they count, which agrees with them."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None, *, written: str | None = None) -> str:
    """A number, its thousands set apart by commas or as it is ``written``, and its noun.

    >>> counted(1, "API key"), counted(2, "API key"), counted(0, "match", "matches")
    ('1 API key', '2 API keys', '0 matches')
    >>> counted(12_000, "sample"), counted(12_000, "sample", written="12k")
    ('12,000 samples', '12k samples')
    """
    return f"{written or f'{count:,}'} {noun if count == 1 else plural or noun + 's'}"

"""Conditional and partial requests: strong entity tags (RFC 9110, section 13.1), ranges (section 14) and digests
(RFC 9530).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def tag_of(text: str) -> str:
    """A strong tag with this opaque text."""
    return f'"{text}"'


def tag_of_bytes(body: bytes) -> str:
    """A strong tag for exactly these bytes."""
    return tag_of(hashlib.sha256(body).hexdigest()[:32])


def none_match(header: str | None, tag: str) -> bool:
    """Whether ``If-None-Match`` names the tag, so that the response is ``304`` (weak comparison)."""
    if header is None:
        return False
    return header.strip() == "*" or tag in _TAG.findall(header)


def range_allowed(if_range: str | None, tag: str) -> bool:
    """Whether ``If-Range`` lets a range be sent (strong comparison; a date never matches, as none is sent)."""
    return if_range is None or if_range.strip() == tag


_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*\Z", re.IGNORECASE)


class Unsatisfiable(ValueError):
    """No byte of the file is in the range."""


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` up to, not including, ``end``."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def requested_span(header: str | None, size: int) -> Span | None:
    """The single range asked for, or None for the whole file. Raises ``Unsatisfiable``.

    A header that is malformed, has another unit, or asks for several ranges is ignored, as the standard permits.
    """
    match = _RANGE.match((header or "").strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable(header)
        return Span(size - length, size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable(header)
    return Span(int(first), min(int(last) + 1, size) if last else size)


def sha256_digest(hexadecimal: str) -> str:
    """A SHA-256 as the value of ``Repr-Digest`` or ``Content-Digest``."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(hexadecimal)).decode()}:"

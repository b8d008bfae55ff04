"""Entity tags: strong, compared as RFC 9110 section 13.1 says."""

from __future__ import annotations

import hashlib
import re

_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def tag_of(text: str) -> str:
    """A strong tag with this opaque text."""
    return f'"{text}"'


def tag_of_bytes(body: bytes) -> str:
    """A strong tag for exactly these bytes."""
    return tag_of(hashlib.sha256(body).hexdigest()[:32])


def none_match(header: str | None, tag: str) -> bool:
    """Whether ``If-None-Match`` names the tag, so that ``304`` is the answer (weak comparison)."""
    if header is None:
        return False
    return header.strip() == "*" or tag in _TAG.findall(header)


def range_allowed(if_range: str | None, tag: str) -> bool:
    """Whether ``If-Range`` lets a range be sent (strong comparison; a date never matches, as none is sent)."""
    return if_range is None or if_range.strip() == tag

"""Files to and from the service: downloads that resume and are checked, uploads that resume."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from collegium.app.client.client import Client, Damaged, Refused, Unreachable

_PIECE = 8 << 20
_ATTEMPTS = 5

#: Called with the number of bytes that have just been moved.
Moved = Callable[[int], None]


def _discard(count: int) -> None:
    pass


def download(client: Client, artifact: dict[str, Any], folder: Path, moved: Moved = _discard) -> Path:
    """Fetch one artifact into ``folder``; its path.

    A file that is there already and right is kept; a partial one (``NAME.part``) is continued. Raises
    ``Damaged`` where the hash is wrong even after a fresh start, and ``ClientError``.
    """
    target = folder / _safe(artifact["name"])
    if target.is_file() and _sha256(target) == artifact["sha256"]:
        moved(artifact["bytes"])
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    for attempt in range(_ATTEMPTS):
        try:
            _fetch(client, artifact, partial, moved)
        except (Unreachable, httpx.TransportError) as error:
            if attempt == _ATTEMPTS - 1:
                raise Unreachable(f"the download of {artifact['name']} broke off: {error}") from error
            time.sleep(0.2 * 2**attempt)
            continue
        if _sha256(partial) == artifact["sha256"]:
            partial.replace(target)
            return target
        partial.unlink()
    raise Damaged(f"{artifact['name']} does not match its hash; nothing was kept")


def _fetch(client: Client, artifact: dict[str, Any], partial: Path, moved: Moved) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have > artifact["bytes"]:
        partial.unlink()
        have = 0
    if have == artifact["bytes"]:
        partial.touch()
        return
    headers = {"Range": f"bytes={have}-", "If-Range": f'"{artifact["sha256"]}"'} if have else {}
    with client.stream_file(artifact["link"], headers) as response:
        if response.is_error:
            response.read()
            raise Refused({"status": response.status_code, "detail": f"cannot download {artifact['name']}"})
        resumed = response.status_code == 206
        if resumed:
            moved(have)
        with partial.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                moved(len(chunk))


def upload(client: Client, path: Path, name: str, kind: str, moved: Moved = _discard) -> dict[str, Any]:
    """Send a data set in pieces, going on after a broken connection; its description. Raises ``ClientError``."""
    sha256 = _sha256(path)
    begun = client.send_bytes("POST", "/v1/uploads", b"", name=name, kind=kind)
    size, offset, failures = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            piece = file.read(_PIECE)
            try:
                client.send_bytes("PATCH", begun["link"], piece, {"Upload-Offset": str(offset)})
            except Unreachable:
                failures += 1
                if failures == _ATTEMPTS:
                    raise
                time.sleep(0.2 * 2**failures)
                offset = client.get(begun["link"])["offset"]
                continue
            moved(len(piece))
            offset += len(piece)
    return client.send_bytes("POST", f"{begun['link']}/finish", b"", sha256=sha256)


def _safe(name: str) -> Path:
    """The name as a path that stays below its folder, whatever it is."""
    parts = PurePosixPath(name).parts
    if not parts or any(part in {"..", "/", ""} or "\\" in part or ":" in part for part in parts):
        raise Damaged(f"{name!r} is not the name of a file")
    return Path(*parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

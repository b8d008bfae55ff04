"""A broker made of files in a folder, for a worker beside its API on one machine.

kombu's ``filesystem`` transport, made safe for a reader that comes between a message's creation and its writing, and
for messages that are claimed by a rename within the folder rather than by a copy to the system's.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import urlsplit

from kombu.transport import filesystem

SCHEME = "filesystem"
POLL_S = 0.05
WRITING_S = 0.5
LOOK_UP_S = 0.25


def options(broker_url: str) -> dict[str, Any]:
    """Transport options for ``filesystem:///FOLDER``; makes the folders that the transport expects."""
    folder = Path(urlsplit(broker_url).path)
    places = {name: folder / name for name in ("messages", "control", "taken")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(places["messages"]),
        "data_folder_out": str(places["messages"]),
        "control_folder": str(places["control"]),
        "processed_folder": str(places["taken"]),
        "polling_interval": POLL_S,
    }


class Channel(filesystem.Channel):
    """Reads whole messages only."""

    def _get(self, queue: str) -> Any:
        """The oldest message of ``queue``. Raises Empty."""
        ending = f"{queue}.msg"
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != ending:
                continue
            taken = os.path.join(self.processed_folder, name)
            try:
                os.rename(os.path.join(self.data_folder_in, name), taken)
            except OSError:
                continue  # another reader was first
            message = _read_whole(taken)
            os.unlink(taken)
            if message is not None:
                return message
        raise Empty


class Transport(filesystem.Transport):
    """``filesystem://`` with this module's channel."""

    Channel = Channel

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for a message, but look up now and then: between two calls a worker notices that it shall end."""
        super().drain_events(connection, timeout=None if timeout is None else min(timeout, LOOK_UP_S))


def _read_whole(path: str) -> Any:
    """The message in a file, waiting a moment for its writer; None if it never becomes one (a hint is then lost)."""
    deadline = time.monotonic() + WRITING_S
    while True:
        try:
            return json.loads(Path(path).read_bytes())
        except ValueError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

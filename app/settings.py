"""Everything that the API and the command line read from the environment, and nowhere else.

``docs/configuration.md`` lists each variable; ``collegium.jobs.settings`` holds those that the worker reads too.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from pydantic import Field

from collegium.jobs.settings import SettingsError, SharedSettings, load

__all__ = ["Settings", "SettingsError", "load_settings"]

DEFAULT_PORT = 8321


class Settings(SharedSettings):
    """The service's configuration; field ``x`` is read from ``COLLEGIUM_X``.

    What is not given is derived from ``home``, so that the embedded service needs no variable.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535)
    allowed_hosts: str = ""
    max_body_bytes: int = Field(default=8 << 20, ge=1024)
    max_dataset_bytes: int = Field(default=2 << 30, ge=1024)
    max_streams: int = Field(default=256, ge=1)
    event_poll_s: float = Field(default=0.25, gt=0, le=60)
    keep_alive_s: float = Field(default=15.0, gt=0, le=300)

    server: str = ""
    api_key: str = ""

    @property
    def shares_folders(self) -> bool:
        """Whether workers are on this machine and see the same data folder: jobs reach them through a folder."""
        return self.broker_url.startswith("filesystem://")

    @property
    def loopback(self) -> bool:
        """Whether the service listens on this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> frozenset[str]:
        """Names that a request may address the service by while no key protects it."""
        extra = {name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip()}
        return frozenset({"localhost", "127.0.0.1", "[::1]", self.host.lower()} | extra)

    @property
    def server_url(self) -> str:
        """The URL that clients use: ``COLLEGIUM_SERVER``, or that of a service on this machine."""
        return self.server or f"http://{self.address}:{self.port}"

    @property
    def address(self) -> str:
        """``host`` as it stands in a URL."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host
        return f"[{host}]" if ":" in host else host


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with ``overrides`` first. Raises ``SettingsError``."""
    return load(Settings, overrides)

"""Settings that every process of the service reads from the environment.

``collegium.app.settings`` and ``collegium.worker.settings`` add those of the API and of the worker;
``docs/configuration.md`` lists them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "COLLEGIUM_"
DEFAULT_HOME = "~/.collegium"


class SettingsError(ValueError):
    """A variable that cannot be used; the message names it and its value."""


class SharedSettings(BaseSettings):
    """Where things are kept; field ``x`` is read from ``COLLEGIUM_X``. Whatever is not given is kept below ``home``.

    An empty variable counts as one that is not set.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Path(DEFAULT_HOME)
    database_url: str = ""
    broker_url: str = ""
    artifact_url: str = ""
    data_dir: Path = Path()
    datasets_dir: Path = Path()

    @model_validator(mode="before")
    @classmethod
    def _below_home(cls, values: dict[str, Any]) -> dict[str, Any]:
        home = Path(values.get("home") or DEFAULT_HOME).expanduser().absolute()
        # A folder's name may have what ends a URL's path, or is an escape in it; the URL of files has no such parts.
        written = "".join(quote(each) if each in "%?#" else each for each in str(home))
        derived = {
            "database_url": f"sqlite:///{written}/collegium.db",
            "broker_url": f"filesystem://{written}/broker",
            "artifact_url": f"file://{home / 'artifacts'}",
            "data_dir": home / "data",
            "datasets_dir": home / "datasets",
        }
        given = {key: value for key, value in values.items() if value != "" or key not in derived}
        return derived | given | {"home": home}

    @field_validator("broker_url")
    @classmethod
    def _of_a_whole_path(cls, value: str) -> str:
        if value.startswith("filesystem://") and not value.startswith("filesystem:///"):
            raise ValueError("a folder is named by its whole path: filesystem:///FOLDER")
        return value


S = TypeVar("S", bound=SharedSettings)


def load(settings: type[S], overrides: dict[str, Any]) -> S:
    """Settings from the environment, with ``overrides`` that are not None first. Raises ``SettingsError``.

    It names the variable, or the override.
    """
    try:
        return settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = "_".join(str(part) for part in first["loc"]) or "*"
        name = field if overrides.get(field) is not None else PREFIX + field.upper()
        shown = f"={first['input']!r}" if first["loc"] else ""
        raise SettingsError(f"{name}{shown}: {first['msg'].removeprefix('Value error, ')}") from error

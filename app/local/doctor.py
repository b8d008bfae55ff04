"""Checks of the installation and of every service that it needs, each with a remedy."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from collegium.app.settings import Settings
from collegium.counted import counted
from collegium.jobs.broker import BrokerDown, Publisher
from collegium.jobs.database import migrate
from collegium.jobs.database.engine import UNAVAILABLE, open_engine, sqlite_file, why
from collegium.jobs.errors import SchemaMismatch
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.store import JobStore
from collegium.jobs.subprocesses import python
from collegium.search.networks.family import FAMILIES, usable_families
from collegium.streams import reason
from collegium.train.data.catalog import DATA_FORMATS
from collegium.train.export import EXPORT_FORMATS
from collegium.train.methods import METHODS
from collegium.versions import software_version

State = Literal["ok", "note", "wrong"]

_NEEDED = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "fastapi", "celery", "sqlalchemy", "matplotlib")
#: Extras and the packages that each of them brings.
EXTRAS = {
    "transformers": ("transformers",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "s3": ("s3fs",),
    "augment": ("kornia",),
    "vision": ("torchvision", "timm"),
}
_DEVICE_TIMEOUT_S = 120
_DEVICE = """
import json, torch
from collegium.train.majority.native import passes
try:
    native = passes.is_built()
except ValueError as error:
    native = str(error)
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "gpus": names, "threads": torch.get_num_threads(),
                  "mps": bool(getattr(torch.backends, "mps", None) and torch.backends.mps.is_available()),
                  "native": native}))
"""


@dataclass(frozen=True)
class Finding:
    """The result of one check, with a ``remedy`` unless it is ``ok``."""

    state: State
    subject: str
    message: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks, each after those that it depends on."""
    yield Finding(
        "ok", "version", f"collegium {software_version()}, Python {platform.python_version()}, {platform.platform()}"
    )
    yield from _packages()
    yield from _extensions()
    yield from _device()
    yield _home(settings)
    yield from _database(settings)
    yield _artifacts(settings)
    yield from _broker(settings)
    yield _data(settings)


def _extensions() -> Iterator[Finding]:
    """Other packages' families, methods and formats; nothing where none is installed."""
    registries = (FAMILIES, METHODS, DATA_FORMATS, EXPORT_FORMATS)
    broken = list(usable_families()[1].values())
    broken += [problem for registry in registries[1:] for problem in registry.broken().values()]
    added = [f"{registry.kind} {name}" for registry in registries for name in registry.added]
    for problem in broken:
        yield Finding("wrong", "extensions", problem, "update or remove that package")
    if added and not broken:
        yield Finding("ok", "extensions", ", ".join(added))


def _packages() -> Iterator[Finding]:
    found, missing = [], []
    for name in _NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("wrong", "packages", f"missing: {', '.join(missing)}", "install again: pip install collegium")
    else:
        yield Finding("ok", "packages", ", ".join(found))
    absent = [extra for extra, names in EXTRAS.items() if not all(map(_installed, names))]
    if absent:
        extras = ",".join(absent)
        yield Finding(
            "note",
            "extras",
            f"not installed: {', '.join(absent)}",
            f"if you need them: pip install 'collegium[{extras}]'",
        )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _device() -> Iterator[Finding]:
    try:
        done = subprocess.run(
            python("-c", _DEVICE), capture_output=True, text=True, timeout=_DEVICE_TIMEOUT_S, check=False
        )
        found = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        yield Finding("wrong", "device", "torch does not start", f"see: {sys.executable} -c 'import torch'")
        return
    if isinstance(found["native"], str):
        yield Finding("wrong", "compiled", found["native"], "unset it")
    if found["gpus"]:
        yield Finding("ok", "device", f"torch {found['torch']}; {', '.join(found['gpus'])}")
        return
    more = "; Apple GPU present, not used" if found["mps"] else ""
    threads = counted(found["threads"], "thread")
    yield Finding("ok", "device", f"torch {found['torch']}; processor, {threads}, no GPU{more}")
    if not found["native"]:
        yield Finding(
            "note",
            "compiled",
            "nothing: majority kernels are trained operator by operator, which takes longer",
            "install a C compiler, then collegium again; or unset COLLEGIUM_NATIVE, if it is 0",
        )


def _home(settings: Settings) -> Finding:
    there = os.path.exists(settings.home)
    place = next(folder for folder in (settings.home, *settings.home.parents) if os.path.exists(folder))
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        problem = "cannot be written" if os.path.isdir(place) else f"cannot be made: {place} is a file"
        return Finding("wrong", "home", f"{settings.home} {problem}", "name another folder: --home or COLLEGIUM_HOME")
    return Finding("ok", "home", f"{settings.home}{'' if there else ' (made by `collegium serve`)'}")


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        shown = make_url(settings.database_url).render_as_string(hide_password=True)
        path = sqlite_file(settings.database_url)
        if shown.startswith("sqlite") and path and not os.path.exists(path):
            yield Finding("note", "database", f"{shown} does not exist yet", "`collegium serve` makes it")
            return
        engine = open_engine(settings.database_url)
    except ValueError as error:
        yield Finding("wrong", "database", str(error), "correct COLLEGIUM_DATABASE_URL")
        return
    try:
        yield from _open_database(engine, shown, settings)
    except UNAVAILABLE as error:
        yield Finding(
            "wrong", "database", f"{shown} does not answer: {why(error)}", "start it, or correct COLLEGIUM_DATABASE_URL"
        )
    finally:
        engine.dispose()


def _open_database(engine: Engine, shown: str, settings: Settings) -> Iterator[Finding]:
    store = JobStore(engine)
    store.ping()
    yield Finding("ok", "database", shown)
    try:
        migrate.check(engine)
    except SchemaMismatch as error:
        yield Finding("wrong", "migrations", str(error), "run `collegium migrate`")
        return
    yield Finding("ok", "migrations", f"at revision {migrate.head()}")
    metrics = store.metrics()
    waiting = sum(count for (_, status), count in metrics.depth.items() if status == "queued")
    longest = max(metrics.oldest_queued_seconds.values(), default=0.0)
    jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
    if waiting and longest > 60:
        yield Finding("wrong", "queue", f"{jobs}, the first for {longest:.0f} s", "start a worker, or more of them")
    else:
        yield Finding("ok", "queue", jobs)
    if not settings.loopback and not store.has_keys():
        yield Finding(
            "wrong", "keys", f"{settings.host} is open to a network and there is no key", "`collegium keys create NAME`"
        )
    else:
        yield Finding("ok", "keys", counted(len(store.list_keys()), "API key"))


def _artifacts(settings: Settings) -> Finding:
    try:
        ArtifactStore(settings.artifact_url).ping()
    except ImportError as error:
        return Finding("wrong", "artifacts", f"{settings.artifact_url}: {error}", "install the extra that it names")
    except (OSError, ValueError) as error:
        return Finding("wrong", "artifacts", f"{settings.artifact_url}: {error}", "correct COLLEGIUM_ARTIFACT_URL")
    return Finding("ok", "artifacts", settings.artifact_url)


def _broker(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.broker_url)
    shown = settings.broker_url if parts.password is None else settings.broker_url.replace(parts.password, "***")
    try:
        publisher = Publisher(settings.broker_url)
    except OSError as error:
        yield Finding("wrong", "broker", f"{shown}: {reason(error)}", "correct COLLEGIUM_BROKER_URL")
        return
    try:
        publisher.check()
        yield Finding("ok", "broker", shown)
        workers = publisher.workers(timeout_s=1.5)
    except BrokerDown as error:
        yield Finding(
            "wrong", "broker", f"{shown} does not answer: {error}", "start it; jobs are kept meanwhile, and start later"
        )
        return
    finally:
        publisher.close(1.0)
    if workers:
        yield Finding("ok", "workers", ", ".join(workers))
    else:
        remedy = "`collegium serve` starts one; or: celery -A collegium.worker worker --pool threads"
        yield Finding("note", "workers", "none responds", remedy)


def _data(settings: Settings) -> Finding:
    try:
        folders = sorted(os.listdir(settings.data_dir)) if os.path.isdir(settings.data_dir) else []
    except OSError as error:
        return Finding("wrong", "data", reason(error), "let this user read it, or correct COLLEGIUM_DATA_DIR")
    if folders:
        return Finding("ok", "data", f"{settings.data_dir}: {', '.join(folders[:12])}")
    return Finding("ok", "data", f"built-in data only; published data sets go to {settings.data_dir}")

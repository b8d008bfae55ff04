"""``make demo``: the whole product over HTTP, from an empty folder, in about a minute.

Starts the embedded service on a free port, searches ResNet-50 and two MLPs, trains the last one's primal ensemble with
majority kernels on scikit-learn's digits, downloads the collapsed checkpoint and evaluates it with the loader that
travels with it. Everything is written below ``demo/``, which is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collegium.app.cli.connection import follow_job, report_end
from collegium.app.cli.errors import out
from collegium.app.cli.tables.search import search_table
from collegium.app.client.client import Client
from collegium.app.client.transfer import download

_FOLDER = Path("demo")
_ADDRESS = "collegium is at "
_STOP_S = 30


@contextmanager
def running_service(home: Path) -> Iterator[str]:
    """The embedded service in a process of its own; its URL."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COLLEGIUM_")}
    environment |= {"COLLEGIUM_HOME": str(home.absolute()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "collegium", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as service:
        assert service.stdout is not None
        try:
            yield next(line for line in service.stdout if line.startswith(_ADDRESS)).removeprefix(_ADDRESS).strip()
        except StopIteration:
            raise SystemExit("the service did not start") from None
        finally:
            service.terminate()
            try:
                service.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                service.kill()


def search(client: Client, preset: str) -> dict[str, Any]:
    """Search a preset over HTTP, print the answer and write its figure; the finished job."""
    job = _finished(client, "search", {"baseline": {"preset": preset}})
    out.print(search_table(job["result"]))
    figure = _FOLDER / f"{preset}.svg"
    from collegium.search.plot import plot
    from collegium.search.result import SearchResult

    figure.write_bytes(plot(SearchResult.model_validate_json(json.dumps(job["result"])), "svg"))
    out.print(f"figure: {figure.absolute()}\n", soft_wrap=True)
    return job


def train(client: Client, searched: dict[str, Any]) -> Path:
    """Train the primal answer of a search with majority kernels; the folder of its downloaded artifacts."""
    spec = {
        "architecture": {"search": searched["id"], "choice": "primal"},
        "method": "majority",
        "data": "digits",
        "recipe": {"learning_rate": 0.003},
    }
    job = _finished(client, "training", spec)
    result = job["result"]
    out.print(
        f"[bold]{result['multiplicity']} × {result['widths'][0]}[/], majority kernels on digits: "
        f"test accuracy {result['accuracy']['test']:.4f} with {result['parameters']:,} parameters, "
        f"in {result['seconds']:.1f} s"
    )
    folder = _FOLDER / "checkpoint"
    for artifact in client.artifacts(job["id"]):
        download(client, artifact, folder)
    out.print(f"checkpoint: {folder.absolute()}", soft_wrap=True)
    return folder


def _finished(client: Client, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    job = follow_job(client, client.submit(kind, spec))
    if job["status"] != "succeeded":
        report_end(job)
        raise SystemExit(1)
    return job


def main() -> None:
    """Run the demonstration."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir()
    with running_service(_FOLDER / "home") as url, Client(url) as client:
        out.print(f"the service is at {url}\n")
        search(client, "resnet50")
        search(client, "mlp-mnist-6x500")
        folder = train(client, search(client, "mlp-digits-6x100"))
    out.print("\nthe collapsed checkpoint in plain PyTorch, without collegium (python checkpoint/load.py):")
    subprocess.run([sys.executable, "load.py"], cwd=folder, check=True)


if __name__ == "__main__":
    main()

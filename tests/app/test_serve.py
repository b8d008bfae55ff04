"""``collegium serve`` as a user runs it: one process with a child, up and down."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from collegium.app.client.client import Client
from collegium.app.local.embedded import listen
from collegium.app.settings import load_settings
from collegium.jobs.subprocesses import environment

START_LIMIT_S = 60
# The searches of these tests need a closed form alone; no process waits with torch loaded.
LIGHT = {"COLLEGIUM_SPARES": "0", "COLLEGIUM_PRELOAD": "json"}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``collegium serve`` with options; what is still running afterwards is killed with all its children."""
    processes: list[subprocess.Popen[str]] = []

    def start(*options: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "collegium", "serve", *options],
            cwd=Path(__file__).parent.parent.parent,
            env=environment(**{"COLLEGIUM_HOME": str(tmp_path / "home"), "COLUMNS": "200"} | variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """The address that the service prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line
    return found.group()


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_search_is_served_and_the_service_ends_without_leftovers(
    serve: Callable[..., Any], mlp: dict[str, Any], tmp_path: Path
) -> None:
    process = serve("--port", "0", **LIGHT)
    url = address(process)
    assert httpx.get(f"{url}/readyz").json()["status"] == "ok"
    (worker,) = children(process.pid)
    with Client(url) as client:
        job = client.wait(client.submit("search", {**mlp, "estimator": {"method": "exact"}})["id"])
        assert job["status"] == "succeeded", job["failure"]
        assert [item["name"] for item in client.artifacts(job["id"])] == ["plot.svg"]
        waiting = client.submit("search", mlp | {"budget": 500})
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0, output
    assert "collegium has ended" in output
    assert "Traceback" not in output
    assert not running(worker)
    again = serve(
        "--port", "0", "--home", str(tmp_path / "home"), **LIGHT | {"COLLEGIUM_HOME": str(tmp_path / "other")}
    )
    with Client(address(again)) as client:
        assert client.wait(waiting["id"])["status"] == "succeeded"
    assert (tmp_path / "home/worker.log").stat().st_size > 0
    again.terminate()
    assert again.wait(40) == 0


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again(serve: Callable[..., Any], wait_until: Callable[..., Any]) -> None:
    process = serve("--port", "0", **LIGHT)
    address(process)
    (first,) = wait_until(lambda: children(process.pid), "a worker is started", START_LIMIT_S)
    os.kill(first, signal.SIGKILL)
    (second,) = wait_until(lambda: set(children(process.pid)) - {first}, "it is started again", START_LIMIT_S)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "starting it again" in output
    assert not running(second)


def test_a_port_in_use_is_refused(serve: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = serve("--port", str(port), "--no-worker")
        output, _ = process.communicate(timeout=START_LIMIT_S)
    assert process.returncode == 3
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in output
    assert "--port" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (["--host", "0.0.0.0"], 2, "collegium keys create"),
        (["--host", "no.such.host.invalid"], 2, "collegium keys create"),
        (["--port", "70000"], 2, "port=70000"),
    ],
)
def test_a_refused_start_gives_the_reason(
    serve: Callable[..., Any], options: list[str], status: int, word: str
) -> None:
    process = serve(*options)
    output, _ = process.communicate(timeout=START_LIMIT_S)
    assert process.returncode == status
    assert word in output
    assert "Traceback" not in output


def test_open_streams_do_not_delay_the_end(serve: Callable[..., Any], mlp: dict[str, Any]) -> None:
    process = serve("--port", "0", "--no-worker")
    url = address(process)
    with Client(url) as client:
        job = client.submit("search", mlp)
        with httpx.stream("GET", f"{url}/v1/jobs/{job['id']}/events") as response:
            lines = response.iter_lines()
            assert next(lines).startswith("retry")
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            assert time.monotonic() - began < 4


def test_responses_do_not_wait_for_acknowledgements() -> None:
    """A kept-alive connection that waits for each delayed acknowledgement costs 40 ms a request."""
    accepted: list[int] = []

    class Look(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def connect() -> None:
        listener = listen(load_settings(port=0))
        async with await asyncio.get_running_loop().create_server(Look, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            await reader.read()
            writer.close()

    asyncio.run(connect())
    assert accepted
    assert accepted[0] != 0

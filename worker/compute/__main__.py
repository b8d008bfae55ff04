"""A computing process: loads torch, waits for a job, runs it, sends its outcome, and waits for the next.

``python -m collegium.worker.compute`` is started by a worker, as a spare that is already warm when a job arrives. With
``--once`` it runs a single job without a database: what ``collegium search`` does on this machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from collegium.worker import failures, protocol
from collegium.worker.compute import handlers
from collegium.worker.compute.connection import SupervisorConnection
from collegium.worker.compute.context import Cancelled, Context
from collegium.worker.compute.handlers import Handler
from collegium.worker.compute.local import LocalContext
from collegium.worker.protocol import Message, Run

TERMINATED = 128 + signal.SIGTERM


class Terminated(Cancelled):
    """SIGTERM: the job did not stop at a cancellation."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the supervisor at the other end of the standard streams."""
    options = _options(arguments)
    supervisor = SupervisorConnection.over_standard_streams()
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor.start()
    started = time.monotonic()
    preload(options.preload)
    table = handlers.load_handlers(options.handlers)
    supervisor.send(protocol.Ready(os.getpid(), round(time.monotonic() - started, 3)))
    try:
        while True:
            run = supervisor.next_run()
            if options.once:
                supervisor.send(execute(run, LocalContext(run, supervisor, table, options.cache), table))
                return 0
            supervisor.send(execute(run, Context(run, supervisor), table))
            supervisor.finished()
    except Terminated:
        return TERMINATED


def execute(run: Run, context: Context, table: dict[str, Handler]) -> Message:
    """Run one job; the message is its outcome. Nothing that a handler raises passes."""
    try:
        context.check()
        _prepare(run, context)
        handler = table.get(run.kind)
        if handler is None:
            raise failures.JobRejected("internal", f"this worker has no handler for jobs of kind {run.kind!r}")
        result = handler(run.spec, context)
        left = sorted(path.name for path in context.artifact_dir.iterdir() if not path.name.startswith("."))
        return protocol.JobSucceeded(result, left)
    except Cancelled:
        return protocol.JobCancelled()
    except BaseException as error:
        # The traceback goes to standard error, and so to the end of the job's log.
        traceback.print_exc()
        cause = failures.from_exception(error)
        return protocol.JobFailed(cause.kind, cause.message, cause.remedy)


def preload(modules: str) -> None:
    """Import the comma-separated ``modules``; one that is broken is reported when a job needs it."""
    for name in filter(None, modules.split(",")):
        try:
            importlib.import_module(name)
        except ImportError:
            traceback.print_exc()


def bound_threads(count: int) -> None:
    """Let numerical libraries use ``count`` threads, those that are loaded and those that will be."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def _prepare(run: Run, context: Context) -> None:
    # CUDA reads the visible devices when it is first touched, which no import does.
    os.environ.update(run.environment)
    if run.threads:
        bound_threads(run.threads)
    context.artifact_dir.mkdir(parents=True, exist_ok=True)
    context.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    os.chdir(context.workdir)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m collegium.worker.compute", description=__doc__)
    parser.add_argument("--once", action="store_true", help="run one job, without a database, and end")
    parser.add_argument("--cache", type=Path, help="with --once: folder in which estimates are kept")
    parser.add_argument("--preload", default="torch", help="modules to import before the first job")
    parser.add_argument("--handlers", default="", help="handlers that replace built-in ones, as module:mapping")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Everything of collegium that a GPU changes, in one run of at most eight minutes.

    python benchmarks/gpu.py [--output gpu.json] [--only SECTION …] [--seconds 480] [--device cuda] [--tiny]

Sections: the tests marked ``gpu``; samplers of kernel entries and ``torch.func``'s ``vmap(grad)``; training steps of
majority kernels and of plain training; training throughput of ResNet-50's ensembles; kernels of whole networks;
searches by latency; a search and a training through the service, with the memory they take and give back. Each runs in
a process of its own within a budget of its own: one that fails or takes too long is reported, with the rows it had, and
the next starts on a clean device. Prints Markdown.

Without a GPU the script says so and checks itself on the processor at tiny sizes (``--device cpu --tiny``); the
figures then mean nothing. ``benchmarks/accelerator/run.sh`` prepares a machine without a network and runs this.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerator.section import Bench, markdown

sys.path.insert(0, str(Path(__file__).absolute().parent.parent))

LEAST_S = 15.0
"""A section is skipped where less of the whole budget is left."""
GRACE_S = 15.0
"""Given to a section that is stopped, to end what it started."""
TAIL_LINES = 25


@dataclass(frozen=True)
class Section:
    """A module of ``accelerator`` with a function ``run(bench)``, and the most seconds it may take."""

    name: str
    title: str
    seconds: float
    needs_gpu: bool = False

    def run(self, bench: Bench) -> None:
        importlib.import_module(f"accelerator.{self.name}").run(bench)


SECTIONS = {
    section.name: section
    for section in (
        Section("marked_tests", "Tests marked gpu", 90, needs_gpu=True),
        Section("sampling", "Samples of a kernel entry per second, float32", 45),
        Section("steps", "Training steps, e = 3", 75),
        Section("throughput", "Training throughput of ResNet-50's ensembles, bf16, channels last", 50),
        Section("networks", "Kernels of whole networks, to 5 %", 55),
        Section("latency", "Searches of ResNet-50 by latency", 70),
        Section("jobs", "Jobs through the service", 95),
    )
}

_DESCRIBE = """
import json, os, platform, sys, torch
found = {"device": platform.processor() or platform.machine(), "memory_bytes": None, "capability": None}
if sys.argv[1] != "cpu":
    card = torch.cuda.get_device_properties(sys.argv[1])
    found = {"device": card.name, "memory_bytes": card.total_memory, "capability": f"{card.major}.{card.minor}"}
print(json.dumps(found | {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version(),
                          "cores": len(os.sched_getaffinity(0)), "gpus": torch.cuda.device_count()}))
"""


def main() -> int:
    options = _options()
    if options.section:
        signal.signal(signal.SIGTERM, _stop)
        bench = Bench(options.device, options.tiny, options.seconds, options.rows)
        SECTIONS[options.section].run(bench)
        return 0
    if options.device is None:
        options.device = "cuda" if _describe("cpu")["gpus"] else "cpu"
        if options.device == "cpu":
            print("There is no CUDA device here: the script checks itself on the processor, at tiny sizes.\n")
            options.tiny = True
    report = {"machine": _describe(options.device), "tiny": options.tiny, "budget_s": options.seconds}
    print(f"# {_headline(report)}\n", flush=True)
    started = time.monotonic()
    report["sections"] = {name: _measure(SECTIONS[name], options, started) for name in options.only}
    report["seconds"] = time.monotonic() - started
    failed = [name for name, found in report["sections"].items() if found["status"] in ("failed", "timed out")]
    print(f"{report['seconds']:.0f} s in all; {'failed: ' + ', '.join(failed) if failed else 'no section failed'}")
    if options.output:
        options.output.write_text(json.dumps(report, indent=1))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="write all rows as JSON to this file")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help=", ".join(SECTIONS))  # fmt: skip
    parser.add_argument("--seconds", type=float, default=480.0, help="budget of the whole run")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="by default cuda where there is one")
    parser.add_argument("--tiny", action="store_true", help="sizes that check the script and measure nothing")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _describe(device: str) -> dict[str, Any]:
    """The machine, asked in another process: this one never takes memory of the device."""
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBE, device], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise SystemExit(f"torch does not start on {device}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _headline(report: dict[str, Any]) -> str:
    machine = report["machine"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] / 2**30:.0f} GiB"
    cuda = f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    scale = ", tiny sizes: no measurement" if report["tiny"] else ""
    return f"{machine['device']}{memory}, {machine['cores']} cores, torch {machine['torch']}{cuda}{scale}"


def _measure(section: Section, options: argparse.Namespace, started: float) -> dict[str, Any]:
    """One section in a process of its own: status, reason, seconds and rows."""
    print(f"## {section.title}\n", flush=True)
    left = options.seconds - (time.monotonic() - started)
    reason = ""
    if section.needs_gpu and options.device == "cpu":
        reason = "needs a GPU"
    elif left < LEAST_S:
        reason = f"{max(0.0, left):.0f} s are left of {options.seconds:.0f}"
    if reason:
        print(f"skipped: {reason}\n", flush=True)
        return {"title": section.title, "status": "skipped", "reason": reason, "seconds": 0.0, "rows": []}
    # Where nothing is measured, a busy machine may take its time.
    found = _in_process(section, options, min(section.seconds * (3 if options.tiny else 1), left))
    print(markdown(found["rows"]))
    ended = "" if found["status"] == "ok" else f"{found['status']}: {found['reason']}; "
    print(f"\n{ended}{found['seconds']:.0f} s\n", flush=True)
    return found


def _in_process(section: Section, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder, "rows"), Path(folder, "log")
        command = [sys.executable, __file__, "--section", section.name, "--device", options.device]
        command += ["--seconds", str(seconds), "--rows", str(rows), *(["--tiny"] if options.tiny else [])]
        began = time.monotonic()
        # Steps of a tiny network cost less than waking a second thread for them.
        threads = {"OMP_NUM_THREADS": "1"} if options.tiny else {}
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, cwd=folder, env=os.environ | threads
            )
            code = _wait(child, seconds)
        written = rows.read_text().splitlines() if rows.exists() else []
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    status = {0: "ok", None: "timed out"}.get(code, "failed")
    if status != "ok":
        print("\n".join(["```", *tail, "```"]), flush=True)
    reason = {"ok": "", "timed out": f"stopped after {seconds:.0f} s"}.get(status, tail[-1] if tail else f"exit {code}")
    return {
        "title": section.title,
        "status": status,
        "reason": reason,
        "seconds": time.monotonic() - began,
        "rows": [json.loads(line) for line in written],
    }


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit status, or None after ``seconds``; nothing of the process's group is left."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _stop(number: int, frame: object) -> None:
    """SIGTERM unwinds a section, so that a service that it started ends with it."""
    raise SystemExit("stopped")


if __name__ == "__main__":
    sys.exit(main())

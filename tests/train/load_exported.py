"""Runs the ``load.py`` of exported folders one after another, in a process with PyTorch and without this project.

Each line of the input names a folder; each line of the output is what its ``load.py`` printed and its exit status.
Every one runs in a fork of its own: PyTorch is imported once, and none finds the modules of another.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from importlib.abc import MetaPathFinder


class WithoutCollegium(MetaPathFinder):
    """Refuses to import this project, even where it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "collegium":
            raise ImportError(f"{fullname} is not there for someone who has the exported folder alone")


def run(folder: str, output: int) -> int:
    """Be ``python load.py`` in this folder; the exit status."""
    os.dup2(output, sys.stdout.fileno())
    os.chdir(folder)
    sys.argv = ["load.py"]
    try:
        runpy.run_path("load.py", run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


def printed_by(folder: str) -> dict[str, object]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(run(folder, writer))
    os.close(writer)
    with os.fdopen(reader) as output:
        printed = output.read()
    return {"printed": printed, "status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


if __name__ == "__main__":
    sys.meta_path.insert(0, WithoutCollegium())

    for line in sys.stdin:
        print(json.dumps(printed_by(line.rstrip("\n"))), flush=True)

"""Looks into an uploaded file in a process of its own, so that a huge or hostile one cannot harm the service."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from collegium.app.problems import Problem
from collegium.jobs.subprocesses import environment, python

_TIMEOUT_S = 900
_CHILD = """
import json, sys
from pathlib import Path
from collegium.train.data.problem import DataProblem
from collegium.train.data.upload import check_upload
try:
    answer = {"summary": check_upload(Path(sys.argv[1]), limit=int(sys.argv[2]))}
except DataProblem as problem:
    answer = {"message": problem.message, "remedy": problem.remedy}
print(json.dumps(answer))
"""


def checked(path: Path, limit: int) -> dict[str, Any]:
    """What the file holds. ``limit`` bounds its unpacked bytes. Raises a 422 problem that says what is wrong."""
    command = python("-c", _CHILD, str(path), str(limit))
    try:
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Problem("invalid-dataset", f"looking into the file took more than {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1][:300] if lines else f"exit status {done.returncode}"
        raise Problem("invalid-dataset", f"the file could not be looked into: {reason}")
    answer = json.loads(done.stdout)
    if "summary" not in answer:
        raise Problem("invalid-dataset", f"{answer['message']}. {answer['remedy']}".removesuffix(". "))
    return answer["summary"]

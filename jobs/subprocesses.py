"""Python processes of this installation: the worker, computations, checks."""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib import resources
from pathlib import Path

#: The line that the embedded worker prints once it takes jobs.
WORKER_READY = "collegium worker ready"

#: The folder that the package is imported from: an environment's site-packages, or a checkout.
_ROOT = Path(str(resources.files("collegium"))).absolute().parent


def python(*arguments: str) -> list[str]:
    """A command line for this interpreter. Modules in the working directory are not imported (``-P``)."""
    return [sys.executable, "-P", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with some variables changed, in which this package can be imported.

    A checkout has folders beside the package, ``train`` and ``app`` among them, which would be imported in the place of
    the user's modules of these names: it comes to ``PYTHONPATH`` only where the package is not found otherwise.
    """
    inherited = dict(os.environ)
    if not _found_without_path():
        paths = [str(_ROOT), *filter(None, [inherited.get("PYTHONPATH")])]
        inherited["PYTHONPATH"] = os.pathsep.join(paths)
    return inherited | variables


def _found_without_path() -> bool:
    """Whether every process of this interpreter and environment finds this package."""
    installed = {Path(sysconfig.get_path(name)).absolute() for name in ("purelib", "platlib")}
    listed = {Path(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each}
    if _ROOT in installed | listed:
        return True
    # The finder of an editable install, which setuptools names so.
    editable = [each for each in sys.meta_path if getattr(each, "__module__", "").startswith("__editable__")]
    specs = [each.find_spec("collegium", None) for each in editable]
    return any(spec.origin and Path(spec.origin).absolute().parents[1] == _ROOT for spec in specs if spec is not None)

"""Find the m × n grouping of a network whose neural tangent kernel is smoothest, and train it.

>>> import collegium
>>> answer = collegium.find_ensemble("resnet50")
>>> answer.primal.multiplicity, answer.primal.width
(12, 10)

What is listed in ``__all__`` is the public interface; ``docs/python.md`` says what is stable. Everything is loaded
when it is first used: importing this package loads neither torch nor anything else of weight.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collegium.app.client.client import Client, ClientError, RemoteJob
    from collegium.search.attention.heads import head_curve
    from collegium.search.describe.describe import describe
    from collegium.search.errors import InvalidSpec, NotTraceable
    from collegium.search.find import find_ensemble, preset, presets
    from collegium.search.regroup.regroup import regroup
    from collegium.search.result import SearchResult
    from collegium.search.spec import SearchSpec
    from collegium.train.errors import TrainingError
    from collegium.train.loop.norms import reestimate_norms
    from collegium.train.majority.diagnostics import kernel_spread, stochastic_sharpness
    from collegium.train.majority.expand import collapse, expand, set_step
    from collegium.train.majority.fused import clip_gradient_norm, fuse
    from collegium.train.majority.kernel import majority_kernels
    from collegium.train.majority.per_copy import PerCopy
    from collegium.train.majority.targets.report import ExpansionReport, expansion_report
    from collegium.train.result import StudyResult, TrainingResult
    from collegium.train.run import build_model, run_study, run_training
    from collegium.train.spec.study import StudySpec
    from collegium.train.spec.training import TrainingSpec

    __version__: str

#: Public name → where it is defined.
_EXPORTS = {
    "Client": "collegium.app.client.client",
    "ClientError": "collegium.app.client.client",
    "ExpansionReport": "collegium.train.majority.targets.report",
    "InvalidSpec": "collegium.search.errors",
    "NotTraceable": "collegium.search.errors",
    "PerCopy": "collegium.train.majority.per_copy",
    "RemoteJob": "collegium.app.client.client",
    "SearchResult": "collegium.search.result",
    "SearchSpec": "collegium.search.spec",
    "StudyResult": "collegium.train.result",
    "StudySpec": "collegium.train.spec.study",
    "TrainingError": "collegium.train.errors",
    "TrainingResult": "collegium.train.result",
    "TrainingSpec": "collegium.train.spec.training",
    "build_model": "collegium.train.run",
    "clip_gradient_norm": "collegium.train.majority.fused",
    "collapse": "collegium.train.majority.expand",
    "describe": "collegium.search.describe.describe",
    "expand": "collegium.train.majority.expand",
    "expansion_report": "collegium.train.majority.targets.report",
    "find_ensemble": "collegium.search.find",
    "fuse": "collegium.train.majority.fused",
    "head_curve": "collegium.search.attention.heads",
    "kernel_spread": "collegium.train.majority.diagnostics",
    "majority_kernels": "collegium.train.majority.kernel",
    "preset": "collegium.search.find",
    "presets": "collegium.search.find",
    "reestimate_norms": "collegium.train.loop.norms",
    "regroup": "collegium.search.regroup.regroup",
    "run_study": "collegium.train.run",
    "run_training": "collegium.train.run",
    "set_step": "collegium.train.majority.expand",
    "stochastic_sharpness": "collegium.train.majority.diagnostics",
}

__all__ = [
    "Client",
    "ClientError",
    "ExpansionReport",
    "InvalidSpec",
    "NotTraceable",
    "PerCopy",
    "RemoteJob",
    "SearchResult",
    "SearchSpec",
    "StudyResult",
    "StudySpec",
    "TrainingError",
    "TrainingResult",
    "TrainingSpec",
    "build_model",
    "clip_gradient_norm",
    "collapse",
    "describe",
    "expand",
    "expansion_report",
    "find_ensemble",
    "fuse",
    "head_curve",
    "kernel_spread",
    "majority_kernels",
    "preset",
    "presets",
    "reestimate_norms",
    "regroup",
    "run_study",
    "run_training",
    "set_step",
    "stochastic_sharpness",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name == "__version__":
        value = import_module("collegium.versions").software_version()
    elif name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
    else:
        raise AttributeError(f"module 'collegium' has no attribute {name!r}; its public names are in collegium.__all__")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, "__version__"})

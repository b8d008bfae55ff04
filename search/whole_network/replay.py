"""A computation on a GPU recorded once and replayed, so that starting its thousands of small steps costs nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Runs before the recording, in which libraries choose algorithms and take their work space.
WARM_UPS = 2


class Replay:
    """``compute()`` as a CUDA graph: a call gives what it would give for what its tensors hold by then.

    ``compute`` takes nothing and reads tensors that stay where they are; what it does must not depend on their values,
    and it must not wait for the device. It may differentiate. Each call returns a tensor of its own.
    """

    def __init__(self, compute: Callable[[], Tensor], device: torch.device) -> None:
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    compute()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # other threads of the process may use the device meanwhile
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = compute().detach()

    def __call__(self) -> Tensor:
        """The result at what the tensors hold now."""
        self._graph.replay()
        return self._result.clone()

"""What a training says of the memory it took."""

import subprocess
import sys

import pytest
import torch

from collegium.train.loop.runtime import used_memory

CHILD = "import torch; from collegium.train.loop.runtime import used_memory; print(used_memory(torch.device('cpu')))"


def test_memory_rises_with_what_is_used():
    before = used_memory(torch.device("cpu"))
    kept = bytearray(before + 50_000_000)
    assert used_memory(torch.device("cpu")) > len(kept) > before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems say nothing but the highest of both")
def test_memory_of_the_process_that_started_a_training_is_not_its_own():
    program = "import subprocess, sys; kept = bytearray(1_500_000_000); subprocess.run(sys.argv[1:], check=True)"
    command = [sys.executable, "-P", "-c", program, sys.executable, "-P", "-c", CHILD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 50_000_000 < int(done.stdout) < 1_000_000_000

"""The sections of ``benchmarks/gpu.py``, and what brings it to a machine without a network."""

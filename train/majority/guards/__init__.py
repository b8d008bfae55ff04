"""What keeps code that knows nothing of majority kernels from being wrong in silence."""

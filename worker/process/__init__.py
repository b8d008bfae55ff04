"""Computing processes, the slots they run in, and warm spares."""

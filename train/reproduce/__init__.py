"""The papers' experiments that need training."""

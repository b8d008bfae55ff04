"""Baselines as networks: chains of weight layers, whole networks, their costs, and the presets."""

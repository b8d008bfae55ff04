"""Majority kernels (Mazzawi et al. 2024) for any module."""

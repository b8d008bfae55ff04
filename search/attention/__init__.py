"""Attention: heads as the members of an ensemble, and how the variance of their kernel depends on their width."""

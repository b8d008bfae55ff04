"""Data formats, one module each."""

"""Specifications of trainings and studies: frozen, strict models that load no torch."""

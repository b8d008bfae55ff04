"""Graphs of known layers, from which a described network is built anew without any code of its user's."""

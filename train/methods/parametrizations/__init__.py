"""How methods compute weights from what they train: parametrizations, which load torch."""

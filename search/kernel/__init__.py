"""The neural tangent kernel of a chain: its inputs, its receptive field, and its exact moments."""

"""Find the m × n grouping of a network whose neural tangent kernel is smoothest, and train it."""

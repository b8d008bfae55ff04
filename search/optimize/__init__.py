"""The grouping problem and its solution: members, primal and dual, band, and confidence."""

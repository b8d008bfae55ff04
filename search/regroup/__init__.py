"""A module of the user's own with its branches regrouped, freshly initialized."""

"""Studies: the papers' protocol over architectures, methods and recipes."""

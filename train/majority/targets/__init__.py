"""Which parameters of a model are kernels, and how each is replaced by its copies."""

"""A traced module as a graph of known layers and operations, from which it can be built without its code."""

"""The architectures that can be trained, as plain modules."""

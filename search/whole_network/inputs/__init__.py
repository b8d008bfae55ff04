"""What whole networks read where they are measured: images, fields, and tensors of several kinds."""

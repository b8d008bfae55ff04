"""Whether inner widths are free: the module run with others, without memory, and compared with itself."""

"""Monte Carlo samples of a kernel entry, in shards that can be computed anywhere."""

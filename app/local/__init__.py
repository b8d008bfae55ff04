"""Running on this machine: the embedded service, one job without a service, and diagnosis."""

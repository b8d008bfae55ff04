"""The tangent kernel of whole networks at initialization, measured: what grouping does beyond the module studied."""

"""Any ``nn.Module`` as a baseline: traced, divided into branches that can be split and parts that cannot."""

"""What stands between two weight layers of a sampled chain: activations and pools."""

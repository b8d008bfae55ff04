"""What is estimated around the curve: α, sampled points, and verification by sampling."""

"""Files that are copied into a bundle."""

"""What the store does: each method is one short transaction."""

"""One attempt at a job, from the claim to the last fenced write."""

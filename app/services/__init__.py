"""What the routes share: submission, references, uploads, lookups, views."""

"""HTTP conventions: bodies, problems, authentication, conditional requests, OpenAPI."""

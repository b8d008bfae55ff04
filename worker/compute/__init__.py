"""The computing process: torch is loaded here, and a job's function runs."""

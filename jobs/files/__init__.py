"""Files of jobs and data sets."""

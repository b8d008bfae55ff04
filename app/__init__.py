"""HTTP service, web page, command line and client. Nothing here, nor anything it imports, loads torch."""

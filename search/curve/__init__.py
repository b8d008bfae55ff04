"""ln r over widths: exact, given, or a smooth fit through samples."""

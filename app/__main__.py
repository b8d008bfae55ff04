"""``python -m app`` is the ``collegium`` command, also where the package is not installed."""

from app.cli import main

main()

"""``python -m collegium`` is the ``collegium`` command, also where the package is not installed."""

from collegium.app.cli import main

main()

"""``python -m collegium.search.describe``: what of a module can be split."""

import sys

from collegium.search.describe.command import main

sys.exit(main())

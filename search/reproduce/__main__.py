"""``python -m collegium.search.reproduce``: the figures and tables of the papers on architecture search."""

import sys

from collegium.search.reproduce.experiments import main

sys.exit(main())

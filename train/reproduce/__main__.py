"""``python -m collegium.train.reproduce``: the papers' experiments that need training."""

import sys

from collegium.train.reproduce.experiments import main

sys.exit(main())

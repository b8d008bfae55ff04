"""``python -m collegium.train.reproduce``: the papers' experiments that need training."""

from collegium.streams import run
from collegium.train.reproduce.experiments import main

run(main)

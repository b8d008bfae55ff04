"""``python -m collegium.search.reproduce``: the figures and tables of the papers on architecture search."""

from collegium.search.reproduce.experiments import main
from collegium.streams import run

run(main)

"""``python -m collegium.search.describe``: what of a module can be split."""

from collegium.search.describe.command import main
from collegium.streams import run

run(main)

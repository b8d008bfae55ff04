"""The documentation: every file that it names or links exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)\)")
MODULE = re.compile(r"`((?:app|benchmarks|collegium|jobs|search|tests|train|worker)/[a-z0-9_/]+\.py)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = [page.parent / target for target in LINK.findall(text)]
    named = [ROOT / path for path in MODULE.findall(text)]
    assert [str(path) for path in linked + named if not path.exists()] == []


def test_some_links_and_paths_are_found() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(LINK.findall(text)) > 20
    assert len(MODULE.findall(text)) > 3

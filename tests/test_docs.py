"""The documentation: every file that it names or links exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from collegium.train.methods import METHODS

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


def test_the_table_of_methods_has_every_option_with_its_default() -> None:
    """A default is written as JSON; one that is null or empty goes without saying, or in words."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = text.partition("## Methods")[2].partition("\n**")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "| `" in line]
    listed = {name: row[-1] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert set(listed) == set(METHODS.names) - set(METHODS.added)
    for name, cell in listed.items():
        fields = METHODS[name].Options.model_fields
        shown = dict(re.findall(r"`(\w+)`(?: \(`?([^)`]*)`?\))?", cell))
        assert set(shown) == set(fields), name
        for option, field in fields.items():
            if field.default not in (None, ()):
                written = field.default if isinstance(field.default, str) else json.dumps(field.default)
                assert shown[option] == written, (name, option)


def test_the_demo_has_the_searches_that_are_promised() -> None:
    main = (ROOT / "app" / "cli" / "demo.py").read_text(encoding="utf-8").partition("def main()")[2]
    count = ["no", "one", "two", "three", "four"][main.count("search(client, ")]
    assert f"{count} searches over HTTP" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_commands_by_hand_are_those_of_the_composed_services() -> None:
    """Settings and commands of docker-compose.yml, and every promised section."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    by_hand = text.partition("## By hand")[2].partition("\n## ")[0]
    composed = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    settings = set(re.findall(r"^    (COLLEGIUM_\w+): ", composed, re.MULTILINE))
    assert settings == set(re.findall(r"^export (COLLEGIUM_\w+)=", by_hand, re.MULTILINE)) - {"COLLEGIUM_API_KEY"}
    commands = [json.loads(each) for each in re.findall(r"command: (\[\"(?:sh|collegium|celery)\".*\])", composed)]
    parts = [
        part.split()
        for command in commands
        for part in (command[2] if command[0] == "sh" else " ".join(command)).split(" && ")
    ]
    assert len(parts) == 4
    lines = [line.partition("#")[0].split() for line in by_hand.splitlines()]
    assert [part for part in parts if not any(line[: len(part[:3])] == part[:3] for line in lines if line)] == []
    worker = next(part for part in parts if part[0] == "celery")
    assert any(line[: len(worker)] == worker for line in lines)

"""The small parts: locations, ranges, tags, settings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from collegium.app.http.conditional import Unsatisfiable, none_match, range_allowed, requested_span
from collegium.app.http.document import parse_json, parse_model
from collegium.app.http.problems import Problem
from collegium.app.settings import SettingsError, load_settings
from collegium.search.errors import pointer, readable, without_tags
from collegium.search.spec import SearchSpec


def test_a_location_reads_like_code() -> None:
    assert readable(("baseline", "layers", 2, "kernel")) == "baseline.layers[2].kernel"
    assert readable(()) == "$"
    assert readable((0, "a b", "c")) == "[0]['a b'].c"
    assert len(readable(("x" * 1000,))) < 80
    assert len(pointer(("x" * 1000,))) < 80
    assert pointer(("a/b", 3, "c~d")) == "#/a~1b/3/c~0d"


def test_union_tags_are_left_out_of_locations() -> None:
    document = {"baseline": {"preset": "x", "depth": 3}, "layers": [{"type": "conv", "out": True}]}
    assert without_tags(("baseline", "preset", "preset"), document) == ("baseline", "preset")
    assert without_tags(("baseline", "preset", "depth"), document) == ("baseline", "depth")
    assert without_tags(("layers", 0, "conv", "out", "int"), document) == ("layers", 0, "out")
    assert without_tags(("layers", 0, "conv", "kernel"), document, missing=True) == ("layers", 0, "kernel")
    assert without_tags(("layers", 5), document) == ("layers",)


def read_or_refused(read: Callable[[], object]) -> bool:
    """Whether reading ends well, or in an answer that blames the input."""
    try:
        read()
    except Problem as problem:
        return 400 <= problem.status < 500
    return True


LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=8))
def test_valid_json_is_parsed_unchanged(document: object) -> None:
    assert parse_json(json.dumps(document).encode()) == document


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    assert read_or_refused(lambda: parse_model(raw, SearchSpec))


@given(st.text('{}[]",:\\ abc', max_size=300))
def test_brackets_and_quotes_are_parsed_or_refused(text: str) -> None:
    assert read_or_refused(lambda: parse_json(text.encode()))


def test_an_unterminated_string_of_escapes_takes_linear_time() -> None:
    began = time.perf_counter()
    with pytest.raises(Problem):
        parse_json(("[" * 40 + '"' + '\\"' * 500_000).encode())
    assert time.perf_counter() - began < 3


def test_a_long_integer_is_refused_without_conversion() -> None:
    class Holder(BaseModel, strict=True):
        value: int

    with pytest.raises(Problem) as caught:
        parse_model(b'{"value": ' + b"9" * 60_000 + b"}", Holder)
    assert caught.value.errors[0][0] == ("value",)


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_span_is_inside_the_file(size: int, first: int, last: int) -> None:
    for header in (f"bytes={first}-{last}", f"bytes={first}-", f"bytes=-{last}"):
        try:
            span = requested_span(header, size)
        except Unsatisfiable:
            continue
        if span is not None:
            assert 0 <= span.start < span.end <= size


def test_tags_are_compared_as_the_standard_says() -> None:
    assert none_match('"a", W/"b"', '"b"')
    assert not none_match('"a"', '"b"')
    assert not none_match(None, '"b"')
    assert range_allowed(None, '"a"')
    assert not range_allowed('W/"a"', '"a"')


def test_settings_derive_everything_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLEGIUM_HOME", str(tmp_path))
    monkeypatch.setenv("COLLEGIUM_DATABASE_URL", "")
    settings = load_settings(port=9000)
    assert settings.database_url == f"sqlite:///{tmp_path}/collegium.db"
    assert settings.broker_url == f"filesystem://{tmp_path}/broker"
    assert settings.datasets_dir == tmp_path / "datasets"
    assert settings.server_url == "http://127.0.0.1:9000"
    assert load_settings(host="0.0.0.0").address == "127.0.0.1"
    assert load_settings(host="::1").address == "[::1]"


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "x"), ("PORT", "70000"), ("MAX_BODY_BYTES", "1"), ("EVENT_POLL_S", "0")]
)
def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"COLLEGIUM_{name}", value)
    with pytest.raises(SettingsError, match=f"COLLEGIUM_{name}='{value}'"):
        load_settings()


def test_every_setting_is_documented() -> None:
    import collegium.app.settings

    guide = Path(__file__).parents[2].joinpath("docs/configuration.md").read_text(encoding="utf-8")
    for name in collegium.app.settings.Settings.model_fields:
        assert f"`COLLEGIUM_{name.upper()}`" in guide

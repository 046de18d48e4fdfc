"""Text and JSON of a model or a client, as any provider could be sent it."""

from __future__ import annotations

from typing import Any

import pytest

from relight.providers.json_text import read_json, sendable


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("", ""),
        ("Köln \U0001f600", "Köln \U0001f600"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
    ],
    ids=ascii,
)
def test_halves_are_joined_or_replaced(text: str, sent: str) -> None:
    """fails when half a character is sent on, or two that belong together are lost."""
    assert sendable(text) == sent


def test_whole_text_is_the_same_object() -> None:
    """Whoever compares by identity sees that nothing was changed."""
    text = "Köln \U0001f600"
    assert sendable(text) is text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 1.5, null, "ü"]}', {"a": [1, 1.5, None, "ü"]}),
        ('{"a\\uD83D": [{"b": "\\udE00c"}]}', {"a\ufffd": [{"b": "\ufffdc"}]}),
        ('["\\ud83d\\ude00"]', ["\U0001f600"]),
        ('["\ud83d", "\ud83d\ude00"]', ["\ufffd", "\U0001f600"]),
    ],
    ids=ascii,
)
def test_a_value_is_read_the_same_of_text_and_of_bytes(text: str, value: Any) -> None:
    """Names and words at any depth are whole, however their halves were written."""
    assert read_json(text) == value
    assert read_json(text.encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "[-1e999]", '{"a": 1} b'])
def test_what_no_provider_could_read_is_refused(text: str) -> None:
    """fails when a number passes that Python reads and JSON cannot hold."""
    with pytest.raises(ValueError):
        read_json(text)


@pytest.mark.parametrize("words", ['"a"', '"\\ud83d"'], ids=["whole", "half"])
@pytest.mark.parametrize("depth", [400, 600, 900, 100_000])
def test_no_depth_overruns_the_stack(words: str, depth: int) -> None:
    """fails when a value that can be read but not mended raises another error than one that cannot be read. How deep is
    too deep depends on the stack of whoever asks."""
    text = "[" * depth + words + "]" * depth
    try:
        value = read_json(text)
    except ValueError as exc:
        assert str(exc) == "nested too deep"
        return
    while isinstance(value, list):
        [value] = value
    assert value in ("a", "\ufffd")

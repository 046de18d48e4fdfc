"""Whatever a file holds, it is read or refused with one ConfigError: never a traceback of anything else."""

from __future__ import annotations

import copy
import json
import tomllib
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relight.config import Role, Settings
from relight.errors import ConfigError
from relight.objectives import Tier
from relight_stacks import costs, promises
from relight_stacks.loading import environments_folder, examples_folder, load_environment
from relight_stacks.rules import contradictions
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from pathlib import Path

FILES = [environments_folder() / "demo.toml", *sorted(examples_folder().glob("*.toml"))]
TEXTS = [path.read_text() for path in FILES]
DOCUMENTS = [tomllib.loads(text) for text in TEXTS]

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# No lone surrogates: TOML is UTF-8.
characters = st.characters(codec="utf-8")
texts = st.text(characters, max_size=40) | st.sampled_from(["", "\0", "a\0b", "{region}", "{", "é" * 300, "x" * 5000])
numbers = st.integers() | st.sampled_from([0, -1, 2**63, 10**30, 10**400]) | st.floats()
scalars = (
    texts
    | numbers
    | st.booleans()
    | st.datetimes().map(lambda moment: moment.replace(fold=0))
    | st.dates()
    | st.times().map(lambda moment: moment.replace(fold=0))
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
KEYS = sorted({key for document in DOCUMENTS for key in document})


def dumped(value: Any) -> str:
    """A value as TOML writes it inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        inner = "".join(
            f"\\U{ord(char):08x}" if ord(char) < 32 or ord(char) == 127 or char in '"\\' else char for char in value
        )
        return f'"{inner}"'
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else str(value).replace("NaN", "nan")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(map(dumped, value))}]"
    return f"{{{', '.join(f'{dumped(key)} = {dumped(item)}' for key, item in value.items())}}}"


def document_text(document: dict[str, Any]) -> str:
    return "".join(f"{dumped(key)} = {dumped(value)}\n" for key, value in document.items())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "mine.toml"


def read(path: Path) -> bool:
    """Read the file, and all that is made of it; True when it was taken."""
    try:
        environment = load_environment(path)
    except ConfigError as exc:
        message = str(exc)
        assert str(path) in message
        assert exc.hint
        return False
    assert list(contradictions(environment)) == []
    for role in Role:
        told = settings_for(environment, role)
        assert Settings.from_env(told.to_env()) == told
    assert json.dumps(promises.to_json(promises.promises(environment)))
    assert json.dumps(costs.to_json(costs.estimate(environment)))
    for tier in Tier:
        promises.promises(environment.with_tier(tier))
    return True


@SETTINGS
@given(st.dictionaries(texts | st.sampled_from(KEYS), values, max_size=8))
def test_an_arbitrary_document(path: Path, document: dict[str, Any]) -> None:
    """Keys and values of any kind, known keys among them."""
    text = document_text(document)
    assert same(tomllib.loads(text), document)
    path.write_text(text)
    assert not read(path), "nothing arbitrary has all that is needed"


def same(one: object, other: object) -> bool:
    """Whether the test's own writer says what it was given; NaN is not itself."""
    return repr(one) == repr(other)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """An example in which some keys are deleted, given other values, or joined by others."""
    document: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        for _depth in range(draw(st.integers(0, 3))):
            inner = [
                item
                for item in (place.values() if isinstance(place, dict) else place)
                if item and isinstance(item, dict | list)
            ]
            if not inner:
                break
            place = draw(st.sampled_from(inner))
        if isinstance(place, list):
            place[draw(st.integers(0, len(place) - 1))] = draw(values)
            continue
        known = list(place) or [""]
        match draw(st.sampled_from(["delete", "retype", "number", "extra", "borrow"])):
            case "delete":
                place.pop(draw(st.sampled_from(known)), None)
            case "retype":
                place[draw(st.sampled_from(known))] = draw(values)
            case "number":
                place[draw(st.sampled_from(known))] = draw(numbers)
            case "extra":
                place[draw(texts)] = draw(values)
            case "borrow":
                other = draw(st.sampled_from(DOCUMENTS))
                key = draw(st.sampled_from(sorted(other)))
                place[key] = copy.deepcopy(other[key])
    return document


@SETTINGS
@given(mutated())
def test_a_mutated_example(path: Path, document: dict[str, Any]) -> None:
    """Deleted, retyped, huge, extra and borrowed keys, in tables of any depth."""
    path.write_text(document_text(document))
    read(path)


@SETTINGS
@given(st.sampled_from(TEXTS), st.data())
def test_a_mangled_file(path: Path, text: str, data: st.DataObject) -> None:
    """What an editor does by accident: lines lost, doubled, cut short, or with something in them."""
    lines = text.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "double", "cut", "insert"])):
            case "drop":
                lines[at] = ""
            case "double":
                lines[at] *= 2
            case "cut":
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
            case "insert":
                lines[at] = data.draw(texts) + lines[at]
    path.write_text("".join(lines))
    read(path)


@SETTINGS
@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"\x00")
@example(b"a = " + b"9" * 5000)
@example(b"a = 0x" + b"f" * 5000)
@example(b"a = " + b"[" * 5000 + b"]" * 5000)
@example(b"a" + b".a" * 2000 + b" = 1")
@example(b"account = " + b"[" * 90 + b"]" * 90)
def test_bytes(path: Path, content: bytes) -> None:
    """No TOML, too many digits, too deep."""
    path.write_bytes(content)
    assert not read(path)


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in FILES])
def test_the_examples_are_taken(path: Path, text: str) -> None:
    """fails when this file's own reading refuses everything."""
    path.write_text(text)
    assert read(path)
    path.write_text(document_text(tomllib.loads(text)))
    assert read(path)


def test_a_number_that_cannot_be_shown_is_refused_on_one_line(path: Path) -> None:
    """A value of thousands of digits, or of thousands of letters, does not fill the screen."""
    for value in ("0x" + "f" * 5000, '"' + "x" * 5000 + '"', "[" + "1, " * 5000 + "]"):
        path.write_text(TEXTS[0].replace("replicas = 2", f"replicas = {value}"))
        with pytest.raises(ConfigError, match=r"agent\.replicas = ") as refused:
            load_environment(path)
        assert len(str(refused.value)) < 500 + len(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nor is one that is a folder."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_environment(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="no regular file"):
        load_environment(tmp_path / "folder.toml")

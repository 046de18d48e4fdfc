"""Prompts with a form for each provider, checked when they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.errors import ConfigError
from relight.providers.prompts import Prompt, Prompts, Template

if TYPE_CHECKING:
    from pathlib import Path

PROVIDERS = ("anthropic", "local")
GOOD = """
[research]
fields = ["topic", "reader"]
default = "Look into {topic} for {reader}. Answer as {{}}."
forms.local = "Topic: {topic}. {reader} reads it. Be short."

[plain]
default = "You are helpful."
"""


def prompts(default: str = "Look into {topic}.", **named: object) -> Prompts:
    """One prompt, `research`, with the field `topic`."""
    template = Template(**{"default": default, "fields": ("topic",), **named})  # type: ignore[arg-type]
    return Prompts({"research": template}, providers=PROVIDERS)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prompts.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_provider_gets_its_form(tmp_path: Path) -> None:
    """A provider with a form of its own gets that, all others the default; a doubled brace is a brace."""
    found = Prompts.load(written(tmp_path, GOOD), providers=PROVIDERS)
    prompt = Prompt(name="research", values={"topic": "json", "reader": "zoe"})
    assert found.render(prompt, provider="local") == "Topic: json. zoe reads it. Be short."
    assert found.render(prompt, provider="anthropic") == "Look into json for zoe. Answer as {}."
    assert found.render(Prompt(name="plain"), provider="local") == "You are helpful."


@given(st.text())
def test_a_value_is_never_a_template(value: str) -> None:
    """fails when a value with braces, as a user may have written it, is looked into or breaks the prompt."""
    assert prompts().render(Prompt(name="research", values={"topic": value}), provider="x") == f"Look into {value}."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("about {tpoic}", "names the unknown field 'tpoic'; its fields are ['topic']"),
        ("about {}", "names the unknown field ''"),
        ("about {0}", "names the unknown field '0'"),
        ("about { topic}", "names the unknown field ' topic'"),
        ("about {topic.__class__}", "names the unknown field 'topic.__class__'"),
        ("about {topic[0]}", "names the unknown field 'topic[0]'"),
        ("about {topic:>10}", "says how to show the field 'topic'; write {topic} alone"),
        ("about {topic:{width}}", "says how to show the field 'topic'"),
        ("about {topic!r}", "says how to show the field 'topic'"),
        ("about {topic!z}", "says how to show the field 'topic'"),
        ("about {topic", "is no template: expected '}' before end of string; write a brace as {{ or }}"),
        ("about topic}", "is no template: Single '}'"),
        ('answer as {"a": 1}', "names the unknown field '\"a\"'"),
    ],
)
@pytest.mark.parametrize("form", ["default", "local"])
def test_a_template_that_does_not_fit_is_refused_at_start(text: str, said: str, form: str) -> None:
    """fails when a template names a field that nobody fills, reaches into a value, or cannot be read, and a call finds
    out: also in the form of a fallback that is never needed."""
    with pytest.raises(ConfigError) as caught:
        prompts(text) if form == "default" else prompts(forms={form: text})
    assert f"the form {form} of prompt research {said}" in str(caught.value)


@pytest.mark.parametrize("field", ["topic.x", "topic[0]", "0", "", "a b", "a-b"])
def test_a_field_is_a_name(field: str) -> None:
    """fails when a declared field lets a template reach into a value, or can never be filled."""
    with pytest.raises(ConfigError, match=r"prompt research has a field '.*', which is no name; use letters"):
        prompts("x", fields=(field,))


def test_a_form_is_for_a_provider_that_there_is() -> None:
    """fails when a form is for a provider of another name, and the default would be used without a word."""
    with pytest.raises(ConfigError) as caught:
        prompts(forms={"openai": "x"})
    assert str(caught.value) == (
        "prompt research has a form for 'openai', which is no provider; choose from anthropic, local"
    )
    with pytest.raises(ConfigError, match="choose from none"):
        Prompts({"p": Template(default="", forms={"a": ""})}, providers=())


@pytest.mark.parametrize("values", [{}, {"topic": "t", "reader": "r"}, {"tpoic": "t"}])
def test_values_that_do_not_fit_are_refused(values: dict[str, str]) -> None:
    """A value that is missing, or is no field's, is named, and nothing is rendered; what the values are is not said."""
    with pytest.raises(ConfigError) as caught:
        prompts().render(Prompt(name="research", values=values), provider="local")
    assert str(caught.value) == f"prompt research was given {sorted(values)}; it needs ['topic']"


def test_a_prompt_that_there_is_not_is_refused() -> None:
    """The error names the prompts that there are."""
    with pytest.raises(ConfigError, match="there is no prompt 'reserch'; choose from research"):
        prompts().render(Prompt(name="reserch"), provider="local")
    with pytest.raises(ConfigError, match="choose from none"):
        Prompts({}, providers=PROVIDERS).render(Prompt(name="x"), provider="local")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[research", "cannot be read: Expected ']'"),
        ("[a]\ndefault = 'x'\n[a]\ndefault = 'y'", "cannot be read: Cannot declare"),
        ("[a]\ndefault = 'x'\ndefault = 'y'", "cannot be read: Cannot overwrite a value"),
        (b"[a]\ndefault = '\xff'", "cannot be read: 'utf-8' codec"),
        ("a = " + "[" * 100_000, "cannot be read: "),
        ("research = 'text'", "research in {path} is no table; write [name] with default"),
        ("[[research]]\ndefault = 'x'", "research in {path} is no table"),
        ("[research]", "prompt research in {path} has no default; write [name]"),
        ("[research]\ndefault = 'x'\nform.local = 'y'", "prompt research in {path} has 'form', which is unknown"),
        ("[research]\ndefault = 5", "prompt research in {path} holds something that is not text"),
        ("[research]\ndefault = 'x'\nfields = 'topic'", "prompt research in {path} holds something that is not text"),
        ("[research]\ndefault = 'x'\nfields = [1]", "prompt research in {path} holds something that is not text"),
        ("[research]\ndefault = 'x'\nforms = 'y'", "prompt research in {path} holds something that is not text"),
        ("[research]\ndefault = 'x'\nforms.local = ['y']", "prompt research in {path} holds something that is not"),
        ("[research]\ndefault = '{topic}'", "the form default of prompt research names the unknown field 'topic'"),
        ("[research]\ndefault = 'x'\nforms.openai = 'y'", "prompt research has a form for 'openai'"),
    ],
)
def test_a_file_that_is_broken_is_refused_at_start(tmp_path: Path, text: str | bytes, said: str) -> None:
    """fails when a file of prompts that cannot be right is loaded: the error says where and what to do."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Prompts.load(path, providers=PROVIDERS)
    assert said.format(path=path) in str(caught.value)
    assert caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error has the path and the system's reason."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            Prompts.load(path, providers=PROVIDERS)
        assert str(path) in str(caught.value)

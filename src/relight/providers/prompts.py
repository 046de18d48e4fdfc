"""Prompts that have a form for each provider, and a default for all others."""

from __future__ import annotations

import string
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt by name, with the values of its fields."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One prompt: `default` for every provider that has no form of its own in `forms`. A field is `{name}`, a brace is
    `{{` or `}}`; each form uses none but `fields`."""

    default: str
    fields: tuple[str, ...] = ()
    forms: Mapping[str, str] = field(default_factory=dict)


class Prompts:
    """All prompts of an agent, checked when made: ConfigError names the prompt, the form, and what is wrong with it."""

    def __init__(self, templates: Mapping[str, Template], *, providers: Iterable[str]) -> None:
        known = set(providers)
        for name, template in templates.items():
            for provider in template.forms:
                if provider not in known:
                    raise ConfigError(
                        f"prompt {name} has a form for {provider!r}, which is no provider",
                        hint=f"choose from {', '.join(sorted(known)) or 'none'}",
                    )
            for field_ in template.fields:
                if not field_.isidentifier():
                    raise ConfigError(
                        f"prompt {name} has a field {field_!r}, which is no name", hint="use letters, digits and '_'"
                    )
            for form, text in {"default": template.default, **template.forms}.items():
                _check(text, fields=template.fields, where=f"the form {form} of prompt {name}")
        self._templates = dict(templates)

    @classmethod
    def load(cls, path: Path, *, providers: Iterable[str]) -> Prompts:
        """Read a TOML file: a table a prompt, with `fields`, `default` and `forms`; ConfigError names the file."""
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as exc:
            raise ConfigError(f"the prompts in {path} cannot be read: {exc}", hint="correct the file") from exc
        return cls({name: _template(name, table, path) for name, table in tables.items()}, providers=providers)

    def render(self, prompt: Prompt, *, provider: str) -> str:
        """The prompt's text in the provider's form. ConfigError for an unknown prompt, or values that do not fit."""
        template = self._templates.get(prompt.name)
        if template is None:
            raise ConfigError(
                f"there is no prompt {prompt.name!r}",
                hint=f"choose from {', '.join(sorted(self._templates)) or 'none'}",
            )
        if {*prompt.values} != {*template.fields}:
            raise ConfigError(
                f"prompt {prompt.name} was given {sorted(prompt.values)}", hint=f"it needs {sorted(template.fields)}"
            )
        return template.forms.get(provider, template.default).format_map(prompt.values)


def _template(name: str, table: object, path: Path) -> Template:
    hint = 'write [name] with default = "…", and optionally fields = ["…"] and a table forms'
    if not isinstance(table, dict):
        raise ConfigError(f"{name} in {path} is no table", hint=hint)
    if unknown := {*table} - {"default", "fields", "forms"}:
        raise ConfigError(f"prompt {name} in {path} has {min(unknown)!r}, which is unknown", hint=hint)
    if "default" not in table:
        raise ConfigError(f"prompt {name} in {path} has no default", hint=hint)
    fields, forms = table.get("fields", []), table.get("forms", {})
    texts = [table["default"], *(forms.values() if isinstance(forms, dict) else [None])]
    if not isinstance(fields, list) or not all(isinstance(item, str) for item in [*fields, *texts]):
        raise ConfigError(f"prompt {name} in {path} holds something that is not text", hint=hint)
    return Template(default=table["default"], fields=tuple(fields), forms=forms)


def _check(text: str, *, fields: tuple[str, ...], where: str) -> None:
    try:
        used = [part[1:] for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as exc:
        raise ConfigError(f"{where} is no template: {exc}", hint="write a brace as {{ or }}") from exc
    for name, layout, conversion in used:
        # `{a.b}` and `{a[0]}` would reach into a value, and `{}` names nothing: neither is a declared field.
        if name not in fields:
            raise ConfigError(f"{where} names the unknown field {name!r}", hint=f"its fields are {sorted(fields)}")
        if layout or conversion:
            raise ConfigError(f"{where} says how to show the field {name!r}", hint=f"write {{{name}}} alone")

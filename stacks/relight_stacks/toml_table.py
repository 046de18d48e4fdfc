"""One table of a TOML document, read key by key. Pure: nothing here starts node.

Every refusal is a ConfigError that names the file, the key, the value got and what is allowed.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from relight.errors import ConfigError
from relight.providers.spec import Api, ProviderLimits, ProviderSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from enum import StrEnum
    from pathlib import Path

_Choice = TypeVar("_Choice", bound="StrEnum")
_Made = TypeVar("_Made", ProviderSpec, ProviderLimits)

# What is longer is cut when it is shown: an error is one line.
_SHOWN = 120
# Beyond it a number cannot be meant, and need not fit a float.
_LARGEST = 1e15


def read_document(path: Path) -> Table:
    """The whole file as a table; ConfigError where it cannot be read or is not TOML."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path} is no regular file", hint="name a TOML file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}", hint="name a file that you may read") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", hint="write it in UTF-8") from exc
    try:
        document = tomllib.loads(text)
    except ValueError as exc:  # TOMLDecodeError is one, and so is a number of thousands of digits
        raise ConfigError(f"{path} is not TOML: {exc}", hint="correct the line that it names") from exc
    except RecursionError:
        raise ConfigError(
            f"{path} is nested too deeply", hint="an environment has tables in tables, no deeper"
        ) from None
    return Table(path, "", document)


class Table:
    """Hands out each key once, and refuses what nobody asked for. With `secretive`, no unknown key's value is shown:
    it may be a secret that somebody put into the wrong place."""

    def __init__(self, path: Path, name: str, values: dict[str, Any], *, secretive: bool = False) -> None:
        self._path = path
        self._name = name
        self._values = values
        self._secretive = secretive
        self._asked: list[str] = []

    def error(self, key: str, value: object, allowed: str) -> ConfigError:
        """A refusal of what `key` says."""
        return ConfigError(f"{self._path}: {self._full(key)} = {_shown(value)}", hint=f"allowed: {allowed}")

    def has(self, key: str) -> bool:
        """Whether the file says anything of `key`, which is a key of this table."""
        self._asked.append(key)
        return key in self._values

    def table(self, key: str, *, optional: bool = False, secretive: bool = False) -> Table:
        """The table called `key`; an empty one where it is optional and not there."""
        value = self._take(key, "a table", {} if optional else MISSING)
        if not isinstance(value, dict):
            raise self.error(key, "a text" if secretive else value, "a table")
        return Table(self._path, self._full(key), value, secretive=secretive)

    def tables(self, key: str) -> list[Table]:
        """The list of tables called `key`."""
        value = self._take(key, "a list of tables", [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, value, f"tables that begin with [[{self._full(key)}]]")
        return [Table(self._path, f"{self._full(key)}[{number}]", item) for number, item in enumerate(value)]

    def text(self, key: str, pattern: re.Pattern[str], allowed: str, default: Any = MISSING) -> str:
        """A text that matches `pattern`."""
        value = self._take(key, allowed, default)
        if value is not default and not _fits(value, pattern):
            raise self.error(key, value, allowed)
        return cast("str", value)

    def texts(
        self, key: str, pattern: re.Pattern[str], allowed: str, default: tuple[str, ...] | Any = MISSING
    ) -> tuple[str, ...]:
        """A list of texts that match `pattern`, at least one."""
        value = self._take(key, allowed, default)
        if value is default:
            return cast("tuple[str, ...]", value)
        if not isinstance(value, list) or not value:
            raise self.error(key, value, f"a list of {allowed}, at least one")
        if not all(_fits(item, pattern) for item in value):
            raise self.error(key, value, allowed)
        if len(set(value)) != len(value) and key != "command":
            raise self.error(key, value, f"{allowed}, each once")
        return tuple(value)

    def choice(self, key: str, kind: type[_Choice], default: Any = MISSING) -> _Choice:
        """One of the values of `kind`."""
        allowed = f"one of {', '.join(kind)}"
        value = self._take(key, allowed, default)
        try:
            return kind(value)
        except ValueError:
            raise self.error(key, value, allowed) from None

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(key, "another value" if self._secretive else value, "true or false")
        return value

    def integer(self, key: str, *, least: int, most: int, default: Any = MISSING) -> int:
        """A whole number between two."""
        allowed = f"a whole number from {least} to {most}"
        return int(self._number(key, allowed, default, lambda value: isinstance(value, int) and least <= value <= most))

    def integers(self, key: str, *, least: int, most: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers between two, each once."""
        allowed = f"whole numbers from {least} to {most}, each once"
        value = self._take(key, allowed, default)
        if value is default:
            return value
        if not isinstance(value, list) or not all(type(item) is int and least <= item <= most for item in value):
            raise self.error(key, value, allowed)
        if len(set(value)) != len(value):
            raise self.error(key, value, allowed)
        return tuple(value)

    def one_of(self, key: str, offered: Sequence[int], default: Any = MISSING) -> int:
        """A whole number of those that are offered."""
        allowed = f"one of {', '.join(map(str, offered))}"
        return int(self._number(key, allowed, default, lambda value: isinstance(value, int) and value in offered))

    def seconds(self, key: str, *, least: float, most: float, default: Any) -> float:
        """A number of seconds between two."""
        allowed = f"a number of seconds from {least:g} to {most:g}"
        return float(self._number(key, allowed, default, lambda value: least <= value <= most))

    def fraction(self, key: str, *, default: Any) -> float:
        """A number from 0 to 1."""
        return float(self._number(key, "a number from 0 to 1", default, lambda value: 0 <= value <= 1))

    def _number(self, key: str, allowed: str, default: Any, good: Callable[[float], bool]) -> float:
        value = self._take(key, allowed, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not good(value):
            raise self.error(key, value, allowed)
        return value

    def made(self, kind: type[_Made]) -> _Made:
        """The value whose fields this table holds; what each may be, the kind itself says."""
        hints = get_type_hints(kind)
        values = {item.name: self._of(hints[item.name], item.name, item.default) for item in fields(kind)}
        # Nothing that is unknown is shown: it may be an API key.
        self._secretive = True
        self.done()
        try:
            return kind(**values)
        except ConfigError as exc:
            raise ConfigError(f"{self._path}: {self._name}: {exc.problem}", hint=exc.hint) from None
        except ValueError:  # of an address that cannot be split
            raise ConfigError(
                f"{self._path}: {self._name}.base_url is no address", hint="write http://host/v1"
            ) from None

    def _of(self, kind: type, key: str, default: Any) -> Any:
        if kind is Api:
            return self.choice(key, Api, default=default)
        if kind is str:
            return self.text(key, re.compile(r"\S(.*\S)?"), "a text", default=default)
        if kind is bool:
            return self.flag(key, default=default)
        allowed = "a whole number" if kind is int else "a number"
        return kind(
            self._number(
                key,
                allowed,
                default,
                lambda value: -_LARGEST < value < _LARGEST and (kind is float or isinstance(value, int)),
            )
        )

    def done(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key, value in self._values.items():
            if key not in self._asked:
                known = ", ".join(sorted(set(self._asked)))
                what = "" if self._secretive else f" = {_shown(value)}"
                raise ConfigError(
                    f"{self._path}: {self._full(key)}{what} is not a key of an environment",
                    hint=f"allowed here: {known}",
                )

    def _take(self, key: str, allowed: str, default: Any) -> Any:
        self._asked.append(key)
        if key in self._values:
            return self._values[key]
        if default is MISSING:
            raise ConfigError(f"{self._path}: {self._full(key)} is missing", hint=f"allowed: {allowed}")
        return default

    def _full(self, key: str) -> str:
        name = key if key.isprintable() and len(key) <= _SHOWN else f"{ascii(key)[:_SHOWN]}…"
        return f"{self._name}.{name}" if self._name else name


def _fits(value: object, pattern: re.Pattern[str]) -> bool:
    # No name, address or variable may hold a NUL.
    return isinstance(value, str) and "\0" not in value and pattern.fullmatch(value) is not None


def _shown(value: object) -> str:
    """A value on one line, whatever it is."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list of lists of lists
        return "a number too long to show" if isinstance(value, int) else "a list too deep to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

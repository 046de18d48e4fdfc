"""A gateway's own configuration, for those who have no deployment: a TOML file, and keys from the environment."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from relight.errors import ConfigError
from relight.providers.spec import ProviderLimits, ProviderSpec, check_specs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_Made = TypeVar("_Made", ProviderSpec, ProviderLimits)

_KEY_ENV = "key_env"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Which providers there are, in order of preference, with their keys by name."""

    providers: tuple[ProviderSpec, ...]
    limits: ProviderLimits
    keys: Mapping[str, str] = field(repr=False)


def load_config(path: Path, env: Mapping[str, str]) -> GatewayConfig:
    """Read `[[providers]]`, each with the fields of a ProviderSpec and `key_env`, and `[limits]`.

    `key_env` is the name of the variable that holds the key. ConfigError names the file and the field, and shows no
    value that could be a key.
    """
    try:
        root = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        # What is wrong with the file is told by the exception's place alone: its text may repeat a line.
        why = exc.strerror if isinstance(exc, OSError) else "it is no TOML"
        raise ConfigError(f"{path} cannot be read: {why}", hint="give a TOML file with [[providers]]") from None
    _only(root, {"providers", "limits"}, where=str(path))
    rows = root.get("providers", [])
    if not isinstance(rows, list):
        raise ConfigError(f"providers in {path} is no list of tables", hint="write [[providers]] above each")
    specs, keys = [], {}
    for number, row in enumerate(rows):
        where = f"{path}: providers[{number}]"
        values = dict(_table(row, where))
        name = values.pop(_KEY_ENV, None)
        spec = _made(ProviderSpec, values, where, more={_KEY_ENV})
        specs.append(spec)
        if name is not None:
            keys[spec.name] = _key(name, env, where)
    check_specs(specs)
    limits = _made(ProviderLimits, _table(root.get("limits", {}), f"{path}: limits"), f"{path}: limits")
    return GatewayConfig(providers=tuple(specs), limits=limits, keys=keys)


def secret_in(name: str, env: Mapping[str, str], *, where: str) -> str:
    """What the environment variable `name` holds; ConfigError when it is empty."""
    if not name.isidentifier():  # not shown: it may be what should be in the variable
        raise ConfigError(f"{where} is not the name of an environment variable", hint="give the variable's name alone")
    if found := env.get(name, "").strip():
        return found
    raise ConfigError(f"{where}: the environment variable {name} is empty", hint="put the secret into it")


def _key(name: object, env: Mapping[str, str], where: str) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{where}.{_KEY_ENV} is not a text", hint="give the name of an environment variable")
    return secret_in(name, env, where=f"{where}.{_KEY_ENV}")


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a table", hint="write it as [[providers]] or [limits]")
    return value


def _only(values: Mapping[str, Any], known: set[str], *, where: str) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where} has the unknown field {unknown[0]}", hint=f"choose from {', '.join(sorted(known))}")


def _made(kind: type[_Made], values: Mapping[str, Any], where: str, *, more: set[str] | None = None) -> _Made:
    hints = get_type_hints(kind)
    _only(values, {item.name for item in fields(kind)} | (more or set()), where=where)
    missing = [name for name in ("name", "api", "model") if kind is ProviderSpec and name not in values]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}", hint="give each provider a name, an api and a model")
    made = {name: _value(value, hints[name], f"{where}.{name}") for name, value in values.items()}
    try:
        return kind(**made)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc.problem}", hint=exc.hint) from None
    except ValueError:  # of an address that cannot be split
        raise ConfigError(f"{where}.base_url is no address", hint="write http://host/v1") from None


def _value(value: object, kind: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (str, int, float, bool):
        if type(value) is not kind:
            raise ConfigError(f"{where} is not of type {kind.__name__}", hint="correct it")
        return value
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{where} is not one of {', '.join(kind)}", hint="correct it") from None

"""Reads environments from their TOML files. Pure: nothing here starts node.

Every refusal is a ConfigError that names the file, the key, the value got and what is allowed.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from relight.config import Acknowledge, ConfirmBy, MemoryStore, OnLeaseLost, OnStandbyAway, Role
from relight.errors import ConfigError
from relight.memory.store import CollectionSpec, Distance, HnswIndex
from relight.objectives import Tier
from relight.providers.spec import Api, ProviderLimits, ProviderSpec, check_specs
from relight_stacks.environment import (
    DEFAULTS,
    FARGATE_SIZES,
    LONGEST_NAME,
    Agent,
    Environment,
    Memory,
    Network,
    Regions,
    Vector,
)
from relight_stacks.tiers import StateKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# ARNs are computed in the partition `aws`, so the regions of the others are not taken.
_REGION = re.compile(r"(?!cn-|us-gov-|us-iso)[a-z]{2}(-[a-z]+)+-[0-9]")
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")


_TEN_YEARS_S = 315_360_000.0


def environments_folder() -> Path:
    """The folder of the environments that ship with the project, or with its wheel."""
    return Path(str(resources.files("relight_stacks"))) / "environments"


def load_environments(folder: Path | None = None) -> list[Environment]:
    """Every environment of `folder`, sorted by name.

    Each makes the zone of its domain and finds it by name, so that two of one account cannot have the same.
    """
    found = [load_environment(path) for path in sorted((folder or environments_folder()).glob("*.toml"))]
    owners: dict[tuple[str, str], str] = {}
    for environment in found:
        owner = owners.setdefault((environment.account, environment.domain), environment.name)
        if owner != environment.name:
            raise ConfigError(
                f"{environment.name}: domain = {environment.domain!r} is the domain of {owner} in the same account",
                hint=f"use one of its own, such as {environment.name}.{environment.domain}",
            )
    return found


def load_named(name: str, folder: Path | None = None) -> Environment:
    """The environment called `name`; the error lists those that exist."""
    path = (folder or environments_folder()) / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in path.parent.glob("*.toml"))) or "none"
        raise ConfigError(f"no environment {name!r} in {path.parent}", hint=f"use one of those that exist: {known}")
    return load_environment(path)


def load_environment(path: Path) -> Environment:
    """Read and validate one file; its stem is the environment's name."""
    name = path.stem
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{path}: the name {name!r} of the environment is not allowed",
            hint=f"use at most {LONGEST_NAME} lower-case letters, digits and single hyphens, a letter first",
        )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", hint="correct the line that it names") from exc
    root = _Table(path, "", document)
    account = root.text("account", re.compile(r"[0-9]{12}"), "12 digits in quotes")
    regions = _regions(root.table("regions"))
    networks = root.table("network", optional=True)
    held: dict[str, Any] = {
        name: root.seconds(name, least=0.0, most=_TEN_YEARS_S, default=DEFAULTS[name])
        for name in ("hold_timers_after_s", "hold_sends_after_s", "hold_credentials_after_s")
    }
    environment = Environment(
        name=name,
        account=account,
        tier=root.choice("tier", Tier),
        domain=root.text("domain", _HOST, "a domain name in lower case, such as example.com"),
        regions=regions,
        agent=_agent(root.table("agent"), regions),
        vector=_vector(root.table("vector"), regions),
        networks={role: _network(networks.table(role.value, optional=True)) for role in Role},
        given=_given(root),
        memory=_memory(root.table("memory", optional=True)),
        acknowledge=root.choice("acknowledge", Acknowledge, default=DEFAULTS["acknowledge"]),
        on_lease_lost=root.choice("on_lease_lost", OnLeaseLost, default=DEFAULTS["on_lease_lost"]),
        **held,
        confirm_timeout_s=root.seconds(
            "confirm_timeout_s", least=0.1, most=60.0, default=DEFAULTS["confirm_timeout_s"]
        ),
        confirm_by=root.choice("confirm_by", ConfirmBy, default=DEFAULTS["confirm_by"]),
        confirm_replicas=root.integer("confirm_replicas", least=1, most=10, default=DEFAULTS["confirm_replicas"]),
        confirm_replicas_relit=root.integer("confirm_replicas_relit", least=0, most=10, default=0),
        on_standby_away=root.choice("on_standby_away", OnStandbyAway, default=DEFAULTS["on_standby_away"]),
        providers=_providers(root),
        provider_limits=root.table("provider_limits", optional=True).made(ProviderLimits),
        provider_check_minutes=root.integer("provider_check_minutes", least=5, most=720, default=15),
    )
    networks.done()
    root.done()
    return environment


def _regions(table: _Table) -> Regions:
    allowed = "the name of an AWS region, such as us-west-2, outside China and GovCloud"
    regions = Regions(primary=table.text("primary", _REGION, allowed), standby=table.text("standby", _REGION, allowed))
    if regions.primary == regions.standby:
        raise table.error("standby", regions.standby, "a region other than regions.primary")
    table.done()
    return regions


def _agent(table: _Table, regions: Regions) -> Agent:
    cpu, memory = _size(table)
    agent = Agent(
        image=_image(table, regions),
        replicas=table.integer("replicas", least=1, most=100),
        cpu=cpu,
        memory=memory,
        command=table.texts("command", re.compile(r".+"), "a list of texts", default=()),
    )
    table.done()
    return agent


def _vector(table: _Table, regions: Regions) -> Vector:
    cpu, memory = _size(table)
    vector = Vector(image=_image(table, regions), cpu=cpu, memory=memory)
    table.done()
    return vector


def _memory(table: _Table) -> Memory:
    default = Memory()
    collections = [_collection(item) for item in table.tables("collections")]
    names = [item.name for item in collections]
    if len(set(names)) != len(names):
        raise table.error("collections", names, "collections of different names")
    memory = Memory(
        store=table.choice("store", MemoryStore, default=default.store),
        collections=tuple(collections) or default.collections,
        recall_floor=table.fraction("recall_floor", default=default.recall_floor),
        keep_hourly=table.integer("keep_hourly", least=1, most=720, default=default.keep_hourly),
        keep_daily=table.integer("keep_daily", least=1, most=366, default=default.keep_daily),
        # The vaults end a point after 400 days, whatever holds it.
        keep_monthly=table.integer("keep_monthly", least=0, most=12, default=default.keep_monthly),
        rehearsal_check=table.text(
            "rehearsal_check", re.compile(r"\S.*"), "a command", default=default.rehearsal_check
        ),
    )
    table.done()
    return memory


def _collection(table: _Table) -> CollectionSpec:
    name = table.text("name", re.compile(r"[^\0]{1,255}"), "1 to 255 characters without NUL")
    index = table.text("index", re.compile("hnsw|exact"), "hnsw or exact", default="hnsw")
    spec = CollectionSpec(
        name=name,
        dimension=table.integer("dimension", least=1, most=16_000),
        embedding_model=table.text("embedding_model", re.compile(r"\S.*"), "the name of a model"),
        distance=table.choice("distance", Distance, default=Distance.COSINE),
        prefix=table.text("prefix", re.compile(r".*"), "the text that is put before what is embedded", default=""),
        index=HnswIndex() if index == "hnsw" else None,
        journalled=table.flag("journalled", default=True),
    )
    table.done()
    return spec


def _given(root: _Table) -> dict[str, Any]:
    """What the file says of the tier's shape."""
    found: dict[str, Any] = {}
    state = root.table("state", optional=True)
    if (kind := state.choice("kind", StateKind, default=None)) is not None:
        found["state"] = kind
    state.done()
    return found


def _providers(root: _Table) -> tuple[ProviderSpec, ...]:
    found = []
    for table in root.tables("providers"):
        spec = table.made(ProviderSpec)
        if "{" in spec.base_url.replace("{region}", ""):
            raise table.error("base_url", spec.base_url, "an address with no placeholder but {region}")
        found.append(spec)
    if found:
        try:
            check_specs(found)
        except ConfigError as exc:
            raise root.error("providers", [spec.name for spec in found], f"{exc.problem}: {exc.hint}") from None
    return tuple(found)


def _image(table: _Table, regions: Regions) -> str:
    image = table.text("image", re.compile(r"\S+"), "the address of a container image")
    if any(region in image for region in (regions.primary, regions.standby)):
        raise table.error("image", image, "an image that each region has of its own: write {region} for the region")
    if "{" in image.replace("{region}", ""):
        raise table.error("image", image, "an image with no placeholder but {region}")
    return image


def _size(table: _Table) -> tuple[int, int]:
    cpu = table.integer("cpu", least=min(FARGATE_SIZES), most=max(FARGATE_SIZES))
    if cpu not in FARGATE_SIZES:
        raise table.error("cpu", cpu, f"one of {', '.join(map(str, FARGATE_SIZES))}")
    least, most, step = FARGATE_SIZES[cpu]
    memory = table.integer("memory", least=least, most=most)
    if memory % step:
        raise table.error("memory", memory, f"with cpu = {cpu}, {least} to {most} in steps of {step}")
    return cpu, memory


def _network(table: _Table) -> Network:
    subnets = re.compile(r"subnet-[0-9a-f]{8,17}")
    default = Network()
    vpc_id = table.text("vpc_id", re.compile(r"vpc-[0-9a-f]{8,17}"), "an id such as vpc-0123456789abcdef0", default="")
    needed: Any = MISSING if vpc_id else ()
    network = Network(
        cidr=table.text("cidr", re.compile(r"[0-9.]+/[0-9]+"), "a range such as 10.0.0.0/16", default=default.cidr),
        zones=table.texts("zones", re.compile(r"[a-z]"), "letters of availability zones", default=default.zones),
        nat=table.flag("nat", default=default.nat),
        vpc_id=vpc_id,
        private_subnet_ids=table.texts("private_subnet_ids", subnets, "ids such as subnet-0123456789abcdef0", needed),
        public_subnet_ids=table.texts("public_subnet_ids", subnets, "ids such as subnet-0123456789abcdef0", needed),
        route_table_ids=table.texts(
            "route_table_ids", re.compile(r"rtb-[0-9a-f]{8,17}"), "ids such as rtb-0123456789abcdef0", needed
        ),
        certificate_arn=table.text(
            "certificate_arn", re.compile(r"arn:aws:acm:\S+"), "the ARN of a certificate", default=""
        ),
    )
    table.done()
    return network


_Choice = TypeVar("_Choice", bound="StrEnum")
_Made = TypeVar("_Made", ProviderSpec, ProviderLimits)


class _Table:
    """One table of the document: hands out each key once, and refuses what nobody asked for."""

    def __init__(self, path: Path, name: str, values: dict[str, Any]) -> None:
        self._path = path
        self._name = name
        self._values = values
        self._asked: list[str] = []

    def error(self, key: str, value: object, allowed: str) -> ConfigError:
        return ConfigError(f"{self._path}: {self._full(key)} = {_shown(value)}", hint=f"allowed: {allowed}")

    def table(self, key: str, *, optional: bool = False) -> _Table:
        value = self._take(key, "a table", {} if optional else MISSING)
        if not isinstance(value, dict):
            raise self.error(key, value, "a table")
        return _Table(self._path, self._full(key), value)

    def tables(self, key: str) -> list[_Table]:
        value = self._take(key, "a list of tables", [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, value, f"tables that begin with [[{self._full(key)}]]")
        return [_Table(self._path, f"{self._full(key)}[{number}]", item) for number, item in enumerate(value)]

    def text(self, key: str, pattern: re.Pattern[str], allowed: str, default: Any = MISSING) -> str:
        value = self._take(key, allowed, default)
        if value is default:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.error(key, value, allowed)
        return value

    def texts(
        self, key: str, pattern: re.Pattern[str], allowed: str, default: tuple[str, ...] | Any = MISSING
    ) -> tuple[str, ...]:
        value = self._take(key, allowed, default)
        if value is default:
            return default  # type: ignore[no-any-return]
        if not isinstance(value, list) or not value:
            raise self.error(key, value, f"a list of {allowed}, at least one")
        if not all(isinstance(item, str) and pattern.fullmatch(item) for item in value):
            raise self.error(key, value, allowed)
        if len(set(value)) != len(value) and key != "command":
            raise self.error(key, value, f"{allowed}, each once")
        return tuple(value)

    def choice(self, key: str, kind: type[_Choice], default: Any = MISSING) -> _Choice:
        allowed = f"one of {', '.join(kind)}"
        value = self._take(key, allowed, default)
        if value is None:
            return None  # type: ignore[return-value]
        try:
            return kind(value)
        except ValueError:
            raise self.error(key, value, allowed) from None

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._take(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def integer(self, key: str, *, least: int, most: int, default: Any = MISSING) -> int:
        allowed = f"a whole number from {least} to {most}"
        return int(self._number(key, allowed, default, lambda value: isinstance(value, int) and least <= value <= most))

    def seconds(self, key: str, *, least: float, most: float, default: Any) -> float:
        allowed = f"a number of seconds from {least:g} to {most:g}"
        return float(self._number(key, allowed, default, lambda value: least <= value <= most))

    def fraction(self, key: str, *, default: Any) -> float:
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
        self.done(shown=False)
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
        return kind(self._number(key, allowed, default, lambda value: kind is float or isinstance(value, int)))

    def done(self, *, shown: bool = True) -> None:
        """Refuse the keys that nobody asked for."""
        for key, value in self._values.items():
            if key not in self._asked:
                known = ", ".join(sorted(self._asked))
                what = f" = {_shown(value)}" if shown else ""
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
        return f"{self._name}.{key}" if self._name else key


def _shown(value: object) -> str:
    return "a table" if isinstance(value, dict) else repr(value)

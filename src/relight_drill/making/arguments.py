"""What a resource is told, and where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from relight_drill.processes import DrillError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from relight_drill.emulator import Emulator


def single(value: Any, default: Any = None) -> Any:
    """A nested block, which the JSON writes as an object or as a list of one."""
    if isinstance(value, list):
        return value[0] if value else default
    return default if value is None else value


class Arguments:
    """The arguments of a resource or of a block in it; remembers which were used, so that none is overlooked."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = values
        self._used: set[str] = set()
        self._blocks: list[Arguments] = []

    def take(self, name: str, default: Any = None) -> Any:
        """The argument's value."""
        self._used.add(name)
        value = self._values.get(name)
        return default if value is None else value

    @property
    def plain(self) -> dict[str, Any]:
        """What is neither a list nor a block, for a name that is made of it."""
        return {name: value for name, value in self._values.items() if not isinstance(value, list | dict)}

    def need(self, name: str) -> Any:
        """The value of an argument that must be there."""
        if self._values.get(name) is None:
            raise DrillError(f"{self.where} has no argument {name!r}", hint="the provider requires it")
        return self.take(name)

    def blocks(self, name: str) -> list[Arguments]:
        """The nested blocks of a name."""
        value = self.take(name, [])
        values = value if isinstance(value, list) else [value]
        made = [Arguments(item, f"{self.where}.{name}") for item in values]
        self._blocks.extend(made)
        return made

    def block(self, name: str) -> Arguments | None:
        """The only nested block of a name."""
        made = self.blocks(name)
        if len(made) > 1:
            raise DrillError(f"{self.where}.{name} is there {len(made)} times", hint="the provider takes one")
        return made[0] if made else None

    def not_emulated(self, *names: str) -> None:
        """Arguments that mean something on AWS and nothing here; tests on the JSON hold them."""
        self._used.update(names)

    def check(self) -> None:
        """Raise DrillError that names what was neither used nor declared as not emulated."""
        for name in self._values:
            if name not in self._used:
                raise DrillError(
                    f"the drill does not know the argument {self.where}.{name}",
                    hint="use it in relight_drill/making, or list it there as not emulated",
                )
        for block in self._blocks:
            block.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a resource is made."""

    emulator: Emulator
    region: str
    folder: Path
    environment: Callable[[str, str], Mapping[str, str]]
    uploads: threading.Lock

    def client(self, service: str) -> Any:
        return self.emulator.client(service, self.region)

    def arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.region}:{self.emulator.account}:{resource}"


Make: TypeAlias = "Callable[[Place, Arguments], dict[str, Any]]"
"""Makes a resource, or reads what is there, and gives its attributes."""


def given(**values: Any) -> dict[str, Any]:
    """The keyword arguments that have a value."""
    return {name: value for name, value in values.items() if value is not None}

"""The stacks of `demo` and of every example, synthesized once for a whole run of the tests and read as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
# Every environment that is synthesized, and its stacks.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "demo": ("vault", "primary", "standby", "dns", "rehearsal"),
    "customer-facing": ("vault", "primary", "standby", "dns", "rehearsal"),
    "internal": ("vault", "primary", "standby", "dns", "rehearsal"),
    "batch": ("vault", "primary", "standby", "dns", "rehearsal"),
    "sandbox": ("vault", "primary", "dns"),
}
PARTS = ENVIRONMENTS["demo"]
BUNDLE_BYTES = b"not a bundle, and nothing here reads it"


@dataclass(frozen=True)
class Synthesis:
    """The stacks of one environment in the output of a synthesis."""

    folder: Path
    environment: str = "demo"

    @property
    def parts(self) -> tuple[str, ...]:
        """What the environment's stacks are for."""
        return ENVIRONMENTS[self.environment]

    def text(self, part: str) -> str:
        """One stack's JSON as it was written."""
        return (self.folder / "stacks" / f"{self.environment}-{part}" / "cdk.tf.json").read_text()

    @cached_property
    def stacks(self) -> dict[str, dict[str, Any]]:
        """Every stack by its part."""
        return {part: json.loads(self.text(part)) for part in self.parts}

    def resources(self, type_: str, *, part: str | None = None) -> dict[str, dict[str, Any]]:
        """The resources of a type by `<part>/<path inside the stack>`."""
        return {
            f"{name}/{address}": resource
            for name, found, address, resource in self.every()
            if found == type_ and part in (None, name)
        }

    def one(self, type_: str, path: str) -> dict[str, Any]:
        """The one resource of a type at `<part>/<path inside the stack>`."""
        return self.resources(type_)[path]

    def every(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Each resource as part, type, path inside the stack, and body."""
        for part, stack in self.stacks.items():
            for type_, resources in stack["resource"].items():
                for resource in resources.values():
                    path = resource["//"]["metadata"]["path"].split("/", 1)[1]
                    yield part, type_, path, resource

    def address_of(self, type_: str, path: str) -> str:
        """How other resources of the same stack refer to one."""
        unique = self.one(type_, path)["//"]["metadata"]["uniqueId"]
        return f"{type_}.{unique}"


def synthesize(folder: Path, bundle: Path, *arguments: str) -> Path:
    """Run the command that `cdktf synth` runs."""
    command = [sys.executable, "-P", "-m", "relight_stacks.app", "--output", str(folder), "--bundle", str(bundle)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a synthesis has nothing to complain about"
    return folder


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the zip, so that a synthesis needs no network."""
    path = tmp_path_factory.mktemp("bundle") / "relight.zip"
    path.write_bytes(BUNDLE_BYTES)
    return path


@pytest.fixture(scope="session")
def syntheses(tmp_path_factory: pytest.TempPathFactory, bundle_file: Path) -> Mapping[str, Synthesis]:
    """Each of `ENVIRONMENTS` by its name, from one process."""
    folder = synthesize(tmp_path_factory.mktemp("synth"), bundle_file, "--environment", "demo", "--examples")
    return {name: Synthesis(folder, name) for name in ENVIRONMENTS}


@pytest.fixture(scope="session")
def synthesis(syntheses: Mapping[str, Synthesis]) -> Synthesis:
    """The stacks of `demo`."""
    return syntheses["demo"]

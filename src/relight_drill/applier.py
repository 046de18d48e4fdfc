"""Applies synthesized Terraform JSON to the emulator, so that a drill runs what `cdktf deploy` would deploy.

It knows the resource types that the stacks use (`relight_drill.making`) and one form of expression,
`${type.name.attribute}`, which may be within `${tolist(...).0.member}`. Every argument of a resource is either used or
named as not emulated here; any other one is an error, and so is any other type. Stacks are applied in the order of the
manifest, a stack's resources in the order of their references, side by side where they can.
"""

from __future__ import annotations

import asyncio
import graphlib
import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from relight_drill.deployment import Deployment, Resource
from relight_drill.making import access, compute, names, signals, storage, unplayed
from relight_drill.making.arguments import Arguments, Place
from relight_drill.processes import DrillError, first_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from relight_drill.emulator import Emulator
    from relight_drill.making.arguments import Make

EXPRESSION = re.compile(r"\$\$\{|\$\{([^}]*)\}")
REFERENCE = re.compile(r"((?:(?:data|ephemeral)\.)?[a-z][a-z0-9_]*\.[A-Za-z0-9_-]+)\.([a-z][a-z0-9_]*)")
# What cdktf makes of one member of an attribute that is a set of blocks.
MEMBER = re.compile(r"tolist\((.+)\)\.([0-9]+)\.([a-z][a-z0-9_]*)")
META = ("//", "provider", "depends_on", "lifecycle")
AT_ONCE = 8

# What the sections of a stack hold: each type and who makes or reads it, and what its addresses begin with.
RESOURCES: Mapping[str, Make] = {
    **storage.MAKERS,
    **access.MAKERS,
    **signals.MAKERS,
    **compute.MAKERS,
    **names.MAKERS,
    **unplayed.MAKERS,
}
KNOWN: Mapping[str, tuple[str, Mapping[str, Make]]] = {
    "resource": ("", RESOURCES),
    "data": ("data.", names.READERS),
    "ephemeral": ("ephemeral.", access.EPHEMERAL),
}
SECTIONS = ("//", "terraform", "provider", *KNOWN)


@dataclass(slots=True, kw_only=True)
class _Node:
    """A resource, data source or ephemeral value of a stack, as written."""

    address: str
    make: Make
    name: str
    raw: Mapping[str, Any]
    region: str
    depends_on: frozenset[str]


@dataclass(slots=True, kw_only=True)
class _Stack:
    name: str
    folder: Path
    nodes: dict[str, _Node] = field(default_factory=dict)


async def apply(
    emulator: Emulator,
    out: Path,
    *,
    stacks: Sequence[str] | None = None,
    environment: Callable[[str, str], Mapping[str, str]] = lambda _region, _function: {},
) -> Deployment:
    """Make what the synthesized stacks in `out` describe (all of them, or those named).

    `environment(region, function)` is added to each function's own variables. Raises DrillError that names the stack,
    the resource and the argument or the emulator's refusal; what was made until then stays.
    """
    manifest = json.loads((out / "manifest.json").read_text())["stacks"]
    names = list(manifest) if stacks is None else list(stacks)
    if unknown := sorted(set(names) - set(manifest)):
        raise DrillError(f"there are no stacks {', '.join(unknown)} in {out}", hint=f"there are {', '.join(manifest)}")
    loaded = {name: _load(out / manifest[name]["synthesizedStackPath"], name, emulator.account) for name in names}
    made: list[Resource] = []
    slots, uploads = asyncio.Semaphore(AT_ONCE), threading.Lock()
    order = graphlib.TopologicalSorter({name: set(manifest[name]["dependencies"]) & set(names) for name in names})
    order.prepare()
    while order.is_active():
        ready = order.get_ready()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_apply_stack(emulator, loaded[name], environment, uploads, slots))
                    for name in ready
                ]
        except* DrillError as failures:
            raise first_failure(failures) from None
        for task in tasks:
            made.extend(task.result())
        order.done(*ready)
    return Deployment(tuple(made))


def _load(path: Path, name: str, account: str) -> _Stack:
    """Read one stack; everything it names must be known before anything is made."""
    document = json.loads(path.read_text())
    if unknown := sorted(set(document) - set(SECTIONS)):
        raise DrillError(f"{name}: the drill does not know the sections {', '.join(unknown)}", hint="")
    regions: dict[str, str] = {}
    for provider, blocks in document.get("provider", {}).items():
        for block in blocks:
            if account not in block.get("allowed_account_ids", [account]):
                raise DrillError(f"{name}: its accounts are {block['allowed_account_ids']}, not {account}", hint="")
            regions[f"{provider}.{block['alias']}" if "alias" in block else provider] = block["region"]
    stack = _Stack(name=name, folder=path.parent)
    for section, (prefix, known) in KNOWN.items():
        for kind, items in document.get(section, {}).items():
            if kind not in known:
                raise DrillError(
                    f"{name}: the drill does not know the {section} type {kind}",
                    hint="teach relight_drill/making to make it, or list it there as unplayed",
                )
            for key, raw in items.items():
                address = f"{prefix}{kind}.{key}"
                stack.nodes[address] = _Node(
                    address=address,
                    make=known[kind],
                    name=key,
                    raw={argument: value for argument, value in raw.items() if argument not in META},
                    region=regions[raw.get("provider", "aws")],
                    depends_on=frozenset(raw.get("depends_on", ())) | frozenset(_references(raw, f"{name}: {address}")),
                )
    for node in stack.nodes.values():
        if missing := sorted(node.depends_on - stack.nodes.keys()):
            raise DrillError(f"{name}: {node.address} refers to {', '.join(missing)}, which is not there", hint="")
    return stack


def _references(value: Any, where: str) -> Iterable[str]:
    """The addresses that a value refers to; any other expression is an error."""
    if isinstance(value, str):
        for match in EXPRESSION.finditer(value):
            if match.group(1) is not None:
                yield _parse(match.group(1), where)[0]
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "//":
                yield from _references(item, where)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item, where)


def _parse(expression: str, where: str) -> tuple[str, str]:
    """The address and the attribute that an expression refers to."""
    member = MEMBER.fullmatch(expression)
    match = REFERENCE.fullmatch(member.group(1) if member else expression)
    if match is None:
        raise DrillError(
            f"{where} has the expression ${{{expression}}}", hint="only ${type.name.attribute} can be applied"
        )
    return match.group(1), match.group(2)


async def _apply_stack(
    emulator: Emulator,
    stack: _Stack,
    environment: Callable[[str, str], Mapping[str, str]],
    uploads: threading.Lock,
    slots: asyncio.Semaphore,
) -> list[Resource]:
    graph = graphlib.TopologicalSorter({node.address: node.depends_on for node in stack.nodes.values()})
    try:
        order = list(graph.static_order())
    except graphlib.CycleError as exc:
        raise DrillError(f"{stack.name}: resources refer to each other in a circle: {exc.args[1]}", hint="") from exc
    made: dict[str, Resource] = {}
    tasks: dict[str, asyncio.Task[None]] = {}

    async def make(node: _Node) -> None:
        for address in node.depends_on:
            await asyncio.shield(tasks[address])
        place = Place(
            emulator=emulator, region=node.region, folder=stack.folder, environment=environment, uploads=uploads
        )
        where = f"{stack.name}: {node.address}"
        resolved = _resolve(node.raw, {address: made[address].attributes for address in node.depends_on}, where)
        async with slots:
            attributes = await asyncio.to_thread(_make, place, node, resolved, where)
        made[node.address] = Resource(
            stack=stack.name,
            region=node.region,
            type=node.address.rpartition(".")[0],
            name=node.name,
            arguments=resolved,
            attributes=attributes,
        )

    async with asyncio.TaskGroup() as group:
        for address in order:
            tasks[address] = group.create_task(make(stack.nodes[address]), name=address)
    return [made[address] for address in order]


def _make(place: Place, node: _Node, resolved: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = Arguments(resolved, where)
    try:
        attributes = node.make(place, arguments)
    except (ClientError, BotoCoreError) as exc:
        raise DrillError(f"{where} was refused by the emulator: {exc}", hint="") from exc
    arguments.check()
    return attributes


def _resolve(value: Any, known: Mapping[str, Mapping[str, Any]], where: str) -> Any:
    """A value with its references replaced; one that is nothing but a reference keeps the attribute's type."""
    if isinstance(value, dict):
        return {key: _resolve(item, known, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, known, where) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(expression: str) -> Any:
        address, attribute = _parse(expression, where)
        if attribute not in known[address]:
            raise DrillError(
                f"{where} uses ${{{expression}}}, an attribute that the drill does not know",
                hint=f"known of {address}: {', '.join(sorted(known[address]))}",
            )
        value = known[address][attribute]
        if member := MEMBER.fullmatch(expression):
            return value[int(member.group(2))][member.group(3)]
        return value

    whole = EXPRESSION.fullmatch(value)
    if whole is not None and whole.group(1) is not None:
        return look_up(whole.group(1))
    return EXPRESSION.sub(lambda m: "${" if m.group(1) is None else str(look_up(m.group(1))), value)

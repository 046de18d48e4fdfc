"""What people read about the constructs, written from the sources. Pure: nothing here starts node.

The sources are read, not imported: a page about constructs needs none of what they are made of.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relight_constructs.pages import with_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCES = Path(__file__).parent
BEGIN = "<!-- constructs:begin, written by `python -P -m relight_constructs.construct_docs docs/constructs.md` -->"
END = "<!-- constructs:end -->"

# What a stack begins with comes first.
_FIRST = ("vault", "recovery", "key", "network", "balancer", "services", "queue", "state", "failover")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prop:
    """One thing that a construct is told."""

    name: str
    type: str
    default: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """A construct, or a value that one is told, as its source describes it.

    `gives` are its public attributes and methods, with what they say.
    """

    name: str
    module: str
    says: str
    props: str
    props_say: str
    told: tuple[Prop, ...]
    gives: tuple[tuple[str, str], ...]


def constructs(sources: Path = SOURCES) -> list[Documented]:
    """Every public construct of the library, by module, the most important first."""
    classes = _read(sources)
    order = {module: number for number, module in enumerate(_FIRST)}
    found = [
        _documented(name, classes) for name in classes if not name.startswith("_") and _is_construct(name, classes)
    ]
    return sorted(found, key=lambda one: (order.get(one.module, len(order)), one.module))


def values(sources: Path = SOURCES) -> list[Documented]:
    """What the constructs are told that is of the library and no construct itself, and what that is made of."""
    classes = _read(sources)
    named = {word for one in constructs(sources) for prop in one.told for word in _words(prop.type)}
    found: dict[str, Documented] = {}
    while lacking := sorted(name for name in named - found.keys() if name in classes):
        for name in lacking:
            named.discard(name)
            if not _is_construct(name, classes):
                found[name] = _documented(name, classes)
                named |= {word for prop in found[name].told for word in _words(prop.type)}
    return [found[name] for name in sorted(found)]


def reference(sources: Path = SOURCES) -> str:
    """A section for each construct, and one for each value that they are told."""
    parts = ["## The constructs", "", *map(_section, constructs(sources))]
    return "\n".join([*parts, "## What they are told", "", *map(_section, values(sources))])


def with_reference(text: str, sources: Path = SOURCES) -> str:
    """The page with its reference; ValueError where the marks are missing."""
    return with_part(text, reference(sources), begin=BEGIN, end=END)


def _section(one: Documented) -> str:
    lines = [f"### {one.name}", "", f"`relight_constructs.{one.module}`. {one.says}", ""]
    if one.props:
        lines += [f"`{one.props}`: {one.props_say}", ""]
    if one.told:
        lines += ["| told | type | default |", "| --- | --- | --- |"]
        lines += [f"| `{prop.name}` | {_code(prop.type)} | {_code(prop.default)} |" for prop in one.told]
        lines.append("")
    if one.gives:
        lines += [*(f"- `{name}`{': ' if says else ''}{says}" for name, says in one.gives), ""]
    return "\n".join(lines)


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def _read(sources: Path) -> dict[str, tuple[str, ast.ClassDef]]:
    """Every class by its name, with its module."""
    return {
        item.name: (path.stem, item)
        for path in sorted(sources.glob("*.py"))
        for item in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(item, ast.ClassDef)
    }


def _words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]+", text))


def _is_construct(name: str, classes: Mapping[str, tuple[str, ast.ClassDef]]) -> bool:
    bases = {ast.unparse(base) for item in _lineage(classes[name][1], classes) for base in item.bases}
    return "Construct" in bases


def _lineage(item: ast.ClassDef, classes: Mapping[str, tuple[str, ast.ClassDef]]) -> list[ast.ClassDef]:
    """The class, and those of ours that it is made from."""
    line = [item]
    for base in (ast.unparse(base) for base in item.bases):
        if base in classes:
            line += _lineage(classes[base][1], classes)
    return line


def _documented(name: str, classes: Mapping[str, tuple[str, ast.ClassDef]]) -> Documented:
    module, item = classes[name]
    line = _lineage(item, classes)
    init = next((made for one in line for made in _functions(one) if made.name == "__init__"), None)
    told, props = _arguments(init), ""
    if init is None:  # a dataclass, an enumeration or a protocol
        told = [prop for one in reversed(line) for prop in _fields(one)]
    elif len(told) == 1 and told[0].name == "props":
        props = told[0].type
        told = [prop for one in reversed(_lineage(classes[props][1], classes)) for prop in _fields(one)]
    types = {prop.name: prop.type for prop in told}
    return Documented(
        name=item.name,
        module=module,
        says=_said(item),
        props=props,
        props_say=_said(classes[props][1]) if props else "",
        told=tuple(told),
        gives=tuple(_given(line, types, classes)),
    )


def _functions(item: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    return (made for made in item.body if isinstance(made, ast.FunctionDef))


def _arguments(init: ast.FunctionDef | None) -> list[Prop]:
    """What a construct is told beside its scope and its id."""
    if init is None:
        return []
    plain = [argument for argument in init.args.args if argument.arg not in ("self", "scope", "id_")]
    defaults = dict(zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True))
    told = [Prop(name=argument.arg, type=_text(argument.annotation), default="") for argument in plain]
    return told + [
        Prop(name=argument.arg, type=_text(argument.annotation), default=_text(default))
        for argument, default in defaults.items()
    ]


def _fields(item: ast.ClassDef) -> list[Prop]:
    return [
        Prop(name=ast.unparse(made.target), type=_text(made.annotation), default=_default(made.value))
        for made in item.body
        if isinstance(made, ast.AnnAssign)
    ]


def _default(value: ast.expr | None) -> str:
    """A default as a reader would write it: a field's own factory makes an empty one."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        factory = next((word.value for word in value.keywords if word.arg == "default_factory"), None)
        return f"{_text(factory)}()" if factory is not None else ""
    return _text(value)


def _given(
    line: list[ast.ClassDef], types: Mapping[str, str], classes: Mapping[str, tuple[str, ast.ClassDef]]
) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for item in line:
        for name, says in (*_members(item), *_attributes(item, types, classes), *_methods(item)):
            if name not in seen and not name.startswith("_"):
                seen.add(name)
                yield name, says


def _members(item: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Those of an enumeration, with their values and what is said below them."""
    if "StrEnum" not in {ast.unparse(base) for base in item.bases}:
        return
    for made, below in zip(item.body, [*item.body[1:], None], strict=True):
        if isinstance(made, ast.Assign):
            says = _code(ast.literal_eval(made.value))
            if isinstance(below, ast.Expr):
                says += ". " + " ".join(ast.literal_eval(below.value).split())
            yield ast.unparse(made.targets[0]), says


def _attributes(
    item: ast.ClassDef, types: Mapping[str, str], classes: Mapping[str, tuple[str, ast.ClassDef]]
) -> Iterator[tuple[str, str]]:
    """What the constructor leaves on the construct, with its type where the source shows it."""
    for init in (made for made in _functions(item) if made.name == "__init__"):
        for statement in ast.walk(init):
            for target in _targets(statement):
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    yield target.attr, _code(_type_of(statement, types, classes))


def _type_of(statement: ast.AST, types: Mapping[str, str], classes: Mapping[str, tuple[str, ast.ClassDef]]) -> str:
    if isinstance(statement, ast.AnnAssign):
        return _text(statement.annotation)
    value = _text(statement.value) if isinstance(statement, ast.Assign) else ""
    if value.startswith("props."):
        return types.get(value.removeprefix("props."), "")
    called = value.partition("(")[0]
    return called if called in classes else ""


def _targets(statement: ast.AST) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    return [statement.target] if isinstance(statement, ast.AnnAssign) else []


def _methods(item: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for made in _functions(item):
        if made.name.startswith("_"):
            continue
        decorated = {ast.unparse(decorator) for decorator in made.decorator_list}
        told = ", ".join(prop.name for prop in _arguments(made))
        yield made.name if decorated & {"property", "cached_property"} else f"{made.name}({told})", _said(made)


def _said(item: ast.ClassDef | ast.FunctionDef) -> str:
    return " ".join((ast.get_docstring(item) or "").split())


def _text(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)


def main(page: Path) -> None:
    """Write the reference into the page."""
    page.write_text(with_reference(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]))

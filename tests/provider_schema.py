"""What provider aws 6.25.0 takes, read from the source of its Python bindings, and what a synthesized body gets wrong.

The bindings were generated from the provider's own schema. Here they are read and not run: importing them starts node,
which would then check values as it made them, and it is its output that is to be checked. Terraform's name of an
argument is in its documentation's link, `#name`; what is computed only is a property that no argument has.

A binding does not tell two things. Whether an argument of objects is a list or a set, which JSON does not tell either.
And, where such an argument is no block, whether Terraform reads a missing key as null: for the provider's older
arguments it does not ("attributes ... are required"), so each key has to be there.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = "6.25.0"

# What Terraform itself takes in every resource, beside the provider's arguments; "//" is cdktf's comment.
META = ("//", "connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioner")
LIFECYCLE = ("create_before_destroy", "ignore_changes", "prevent_destroy", "replace_triggered_by")

# Arguments that hold JSON as text.
DOCUMENTS = (
    "access_policy",
    "assume_role_policy",
    "container_definitions",
    "dashboard_body",
    "definition",
    "delivery_policy",
    "event_pattern",
    "filter_policy",
    "input",
    "policy",
    "redrive_policy",
)

EXPRESSION = re.compile(r"\$\{[^{}]*\}")
_DEFINED = re.compile(r"^class (\w+)\(?", re.MULTILINE)
_PROPERTY = re.compile(r'@builtins\.property\n    @jsii\.member\(jsii_name="\w+"\)\n    def (\w+)\(self\)')
_ANCHOR = re.compile(r"\{@link \S+?#(\w+) \S+?#\1\}")
_URL = re.compile(r"registry\.terraform\.io/providers/hashicorp/aws/([0-9.]+)/docs")


class Scalar(StrEnum):
    """A value that is neither a list nor an object."""

    TEXT = "a string"
    NUMBER = "a number"
    TRUTH = "true or false"
    ANYTHING = "anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """A list or a set, or with `keyed` a map with keys of the writer's choosing, of `of`."""

    of: Shape
    keyed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """An object with the arguments of a struct of the same module."""

    module: str
    struct: str


Shape = Scalar | Many | Nested


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument; `block` where the provider has a block rather than an attribute."""

    name: str
    required: bool
    block: bool
    shape: Shape


@dataclass(frozen=True)
class Module:
    """The bindings of one type: `s3_bucket`, or `data_aws_route53_zone`."""

    name: str
    source: str = field(repr=False)

    @cached_property
    def _classes(self) -> dict[str, str]:
        found = list(_DEFINED.finditer(self.source))
        ends = [match.start() for match in found[1:]] + [len(self.source)]
        return {match[1]: self.source[match.start() : end] for match, end in zip(found, ends, strict=True)}

    @cached_property
    def version(self) -> str:
        """The provider's, as the documentation's links have it."""
        found = _URL.search(self.source)
        assert found, f"{self.name} does not say what it was generated from"
        return found[1]

    @cached_property
    def type(self) -> str:
        """Terraform's name of the type, as the module's own documentation begins with it."""
        found = re.search(r"^# `(?:data_)?(\w+)`", self.source, re.MULTILINE)
        return found[1] if found else ""

    @cached_property
    def resource(self) -> str:
        """The class of the resource itself: the first."""
        return next(name for name in self._classes if not name.startswith("_"))

    @cached_property
    def outputs(self) -> frozenset[str]:
        """What may be referred to: every argument's value, and what is computed."""
        names = set(_PROPERTY.findall(self._classes[self.resource]))
        python_names = {name for name in names if not name.endswith("_input")}
        renamed = self._renamed(self.resource)
        return frozenset(renamed.get(name, name) for name in python_names) | {"id"}

    @cache  # noqa: B019 - a module lives as long as the tests
    def arguments(self, class_: str) -> dict[str, Argument]:
        """The arguments of the resource, or of one of its structs, by Terraform's names."""
        made = self._constructor(class_)
        described = _described(ast.get_docstring(made, clean=False) or "")
        found = {}
        for argument, default in zip(made.args.kwonlyargs, made.args.kw_defaults, strict=True):
            about = described.get(argument.arg, "")
            anchor = _ANCHOR.search(about)
            if anchor is None:
                continue  # Terraform's own
            assert argument.annotation is not None
            name = anchor[1]
            found[name] = Argument(
                name=name,
                required=default is None,
                block=about.lstrip().startswith(f"{name} block."),
                shape=self._shape(argument.annotation),
            )
        return found

    def _renamed(self, class_: str) -> dict[str, str]:
        described = _described(ast.get_docstring(self._constructor(class_), clean=False) or "")
        anchors = {name: _ANCHOR.search(about) for name, about in described.items()}
        return {name: anchor[1] for name, anchor in anchors.items() if anchor}

    def _constructor(self, class_: str) -> ast.FunctionDef:
        text = self._classes[class_]
        start = text.index("    def __init__(")
        # Up to the end of its docstring; what comes after is jsii's.
        opening = text.index("'''", start)
        closing = text.index("'''", opening + 3) + 3
        head = "\n".join(line[4:] for line in text[start:closing].split("\n"))
        (made,) = ast.parse(head).body
        assert isinstance(made, ast.FunctionDef)
        return made

    def _shape(self, hint: ast.expr) -> Shape:
        if isinstance(hint, ast.Constant):
            return Nested(module=self.name, struct=str(hint.value))
        if isinstance(hint, ast.Attribute):
            scalars = {"str": Scalar.TEXT, "Number": Scalar.NUMBER, "bool": Scalar.TRUTH, "Any": Scalar.ANYTHING}
            return scalars[hint.attr]
        assert isinstance(hint, ast.Subscript)
        assert isinstance(hint.value, ast.Attribute)
        inner = list(hint.slice.elts) if isinstance(hint.slice, ast.Tuple) else [hint.slice]
        match hint.value.attr:
            case "Optional":
                return self._shape(inner[0])
            case "Sequence":
                return Many(of=self._shape(inner[0]))
            case "Mapping":
                return Many(of=self._shape(inner[1]), keyed=True)
            case "Union":
                # A token stands for anything, and a dict for its struct.
                (one,) = [part for part in inner if not _stands_in(part)]
                return self._shape(one)
        raise AssertionError(f"{self.name} has a type that is not known here: {ast.unparse(hint)}")


def _stands_in(part: ast.expr) -> bool:
    return (isinstance(part, ast.Attribute) and part.attr == "IResolvable") or (
        isinstance(part, ast.Subscript) and isinstance(part.value, ast.Attribute) and part.value.attr == "Dict"
    )


def _described(docstring: str) -> dict[str, str]:
    """What the docstring says of each parameter."""
    parts = re.split(r"^\s*:param (\w+): ?", docstring, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def _modules() -> dict[str, Path]:
    """Where the bindings of each type are, by the name without underscores: `route53recoverycontrolconfig` has one
    more in its module's name than in Terraform's."""
    spec = PathFinder.find_spec("cdktf_cdktf_provider_aws")
    assert spec is not None, "the bindings are not installed"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return {path.name.replace("_", ""): path for folder in folders for path in folder.iterdir() if path.is_dir()}


@cache
def _module(name: str) -> Module | None:
    path = _modules().get(name.replace("_", ""))
    return None if path is None else Module(name, (path / "__init__.py").read_text())


def bindings_of(type_: str, *, data: bool = False) -> Module | None:
    """The bindings of a resource type, or of a data source; None where the provider has no such type."""
    found = _module(f"data_{type_}" if data else type_.removeprefix("aws_"))
    return found if found is not None and found.type == type_ else None


def problems_of(type_: str, body: Mapping[str, Any], *, data: bool = False) -> list[str]:
    """What Terraform would refuse of a resource's body before it asks anybody, one sentence for each."""
    module = bindings_of(type_, data=data)
    if module is None:
        return [f"the provider has no {'data source' if data else 'resource'} {type_}"]
    if module.version != VERSION:
        return [f"the bindings are of provider {module.version}, expected {VERSION}"]
    own = {name: value for name, value in body.items() if name not in META}
    found = list(_object(module, module.resource, own, "", every_key=False))
    found += [f"lifecycle.{name} is no argument" for name in body.get("lifecycle", {}) if name not in LIFECYCLE]
    # Where Terraform ignores a change, what it ignores must be an argument.
    ignored = body.get("lifecycle", {}).get("ignore_changes", [])
    known = module.arguments(module.resource)
    found += [f"lifecycle.ignore_changes names {name}, which is no argument" for name in ignored if name not in known]
    return found


def _object(module: Module, class_: str, body: Mapping[str, Any], at: str, *, every_key: bool) -> Iterator[str]:
    known = module.arguments(class_)
    for name, value in body.items():
        place = f"{at}{name}"
        if name not in known:
            computed = not at and name in module.outputs
            yield f"{place} is {'computed, and cannot be set' if computed else 'no argument'}"
        elif value is not None:
            argument = known[name]
            yield from _value(argument.shape, value, place, block=argument.block)
            if name in DOCUMENTS and isinstance(value, str):
                yield from _document(value, place)
    for argument in known.values():
        if argument.required and body.get(argument.name) is None:
            yield f"{at}{argument.name} is required"
        elif every_key and argument.name not in body:
            whole = at.rstrip(".")
            yield f"{at}{argument.name} is not there; Terraform wants every key of {whole}, null where it is not used"


def _value(shape: Shape, value: Any, at: str, *, block: bool) -> Iterator[str]:
    if isinstance(value, str) and EXPRESSION.fullmatch(value) and not isinstance(shape, Nested):
        return  # what it stands for is asserted of the reference
    match shape:
        case Scalar.ANYTHING:
            return
        case Scalar():
            fits = {
                Scalar.TEXT: isinstance(value, str),
                Scalar.NUMBER: isinstance(value, int | float) and not isinstance(value, bool),
                Scalar.TRUTH: isinstance(value, bool),
            }[shape]
            if not fits:
                yield f"{at} is to be {shape}, got {value!r}"
        case Many(keyed=True):
            if not isinstance(value, dict):
                yield f"{at} is to be a map, got {value!r}"
                return
            for key, item in value.items():
                yield from _value(shape.of, item, f"{at}.{key}", block=False)
        case Many():
            if not isinstance(value, list):
                yield f"{at} is to be a list{' of blocks' if block else ''}, got {value!r}"
                return
            for number, item in enumerate(value):
                yield from _value(shape.of, item, f"{at}[{number}]", block=block)
        case Nested():
            if not isinstance(value, dict):
                yield f"{at} is to be an object, got {value!r}"
                return
            nested = _module(shape.module)
            assert nested is not None
            yield from _object(nested, shape.struct, value, f"{at}.", every_key=not block)


def _document(text: str, at: str) -> Iterator[str]:
    try:
        json.loads(text)
    except ValueError as exc:
        yield f"{at} is no JSON: {exc}"


def provider_problems(body: Mapping[str, Any]) -> list[str]:
    """The same of the provider's own block."""
    module = _module("provider")
    assert module is not None
    return list(_object(module, "AwsProvider", body, "", every_key=False))

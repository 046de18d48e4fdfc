"""What the bodies of a synthesized stack refer to, and which of it Terraform would not find."""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from provider_schema import EXPRESSION, bindings_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# ACM proves a name by a record that only it can tell: the one expression that is more than a name.
PROOF = re.compile(r"tolist\((aws_acm_certificate\.[\w-]+\.domain_validation_options)\)\.0\.resource_record_[a-z]+")
KINDS = ("resource", "data", "ephemeral")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """`${kind.type.name.attribute}`, where a resource's kind is not written."""

    text: str
    kind: str
    type: str
    name: str
    attribute: str

    @property
    def address(self) -> str:
        """Of what it refers to."""
        return f"{'' if self.kind == 'resource' else f'{self.kind}.'}{self.type}.{self.name}"


def bodies(stack: Mapping[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Everything of a stack that has a body: address, kind, type, body."""
    for kind in KINDS:
        for type_, named in stack.get(kind, {}).items():
            for name, body in named.items():
                yield f"{'' if kind == 'resource' else f'{kind}.'}{type_}.{name}", kind, type_, body


def path_of(body: Mapping[str, Any], address: str) -> str:
    """Where a body is in its stack's tree, for people; what has no place there has its address."""
    path: str = body.get("//", {}).get("metadata", {}).get("path", f"/{address}")
    return path.split("/", 1)[1]


def strings(value: Any) -> Iterator[str]:
    """Every string below a value, but cdktf's comments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "//":
                yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def references(value: Any) -> Iterator[Reference | str]:
    """Every reference below a value; an expression of another form as its text."""
    for text in strings(value):
        for expression in EXPRESSION.findall(text):
            yield _read(expression)


def _read(expression: str) -> Reference | str:
    parts = PROOF.sub(r"\1", expression[2:-1]).split(".")
    kind = parts.pop(0) if parts[0] in KINDS else "resource"
    if len(parts) != 3 or not all(re.fullmatch(r"[\w-]+", part) for part in parts):
        return expression
    return Reference(text=expression, kind=kind, type=parts[0], name=parts[1], attribute=parts[2])


def reference_problems(stack: Mapping[str, Any]) -> list[str]:
    """What refers to something that is not there, or that has no such attribute, and what goes round in a circle."""
    there = {address: (kind, type_) for address, kind, type_, _ in bodies(stack)}
    needs: dict[str, set[str]] = {}
    found = []
    for address, _, _, body in bodies(stack):
        needed = needs.setdefault(address, set(body.get("depends_on", ())))
        found += [f"{address} depends on {other}, which is not there" for other in needed if other not in there]
        for reference in references(body):
            if isinstance(reference, str):
                found.append(f"{address} has {reference}, which is no plain reference")
                continue
            needed.add(reference.address)
            if reference.address not in there:
                found.append(f"{address} refers to {reference.address}, which is not there")
                continue
            # An ephemeral resource has what the data source of the same type has: the bindings know none.
            module = bindings_of(reference.type, data=reference.kind != "resource")
            if module is None or reference.attribute not in module.outputs:
                found.append(f"{address} refers to {reference.text}, and {reference.type} has no such attribute")
        found += _provider_problems(stack, address, body)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as exc:
        found.append(f"these need each other: {' -> '.join(exc.args[1])}")
    return found


def _provider_problems(stack: Mapping[str, Any], address: str, body: Mapping[str, Any]) -> list[str]:
    aliases = {f"aws.{provider['alias']}" for provider in stack["provider"]["aws"] if "alias" in provider}
    wanted = body.get("provider", "aws")
    return [] if wanted in {"aws", *aliases} else [f"{address} wants the provider {wanted}, which is not there"]

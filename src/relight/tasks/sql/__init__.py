"""Migrations (`NNNN_name.sql`, applied in order) and named statements (`ledger.sql`)."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements(package: str, resource: str) -> dict[str, str]:
    """The statements of a file in which `-- name: x` starts each block."""
    text = files(package).joinpath(resource).read_text("utf-8")
    parts = _NAME.split(text)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (version, name, SQL), in order."""
    found = [item for item in files(__package__).iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", item.name)]
    return sorted((int(item.name[:4]), item.name[5:-4], item.read_text("utf-8")) for item in found)

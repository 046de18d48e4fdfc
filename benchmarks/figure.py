"""One number of ours beside one of a peer's, measured in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`ratio` is ours over the peer's: under one means less than the peer, of whatever `unit` counts."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer

    def to_json(self) -> dict[str, Any]:
        """The figure as `--json` writes it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": round(self.ours, 4),
            "peer": round(self.peer, 4),
            "peer_name": self.peer_name,
            "ratio": round(self.ratio, 4),
        }


def table_line(figure: Figure) -> str:
    """The figure for people: name, ours, peer, ratio."""
    ours = f"{figure.ours:.2f} {figure.unit}"
    peer = f"{figure.peer:.2f} {figure.unit} ({figure.peer_name})"
    return f"{figure.name:<24} ours {ours:<14} peer {peer:<52} ratio {figure.ratio:.2f}"

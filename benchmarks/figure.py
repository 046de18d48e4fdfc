"""One number of ours beside one of a peer's, measured in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`ratio` is ours over the peer's: under one means less than the peer, of whatever `unit` counts.

    Where we have set ourselves an aim, `at_least` or `at_most` is what the ratio should be.
    """

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer

    @property
    def aim(self) -> str:
        """The aim in words, empty when there is none."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def missed(self) -> bool:
        """Whether there is an aim, and the ratio is not there."""
        low, high = self.at_least, self.at_most
        return (low is not None and self.ratio < low) or (high is not None and self.ratio > high)

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
    aim = f"  aim {figure.aim}: {'MISSED' if figure.missed else 'met'}" if figure.aim else ""
    return f"{figure.name:<24} ours {ours:<14} peer {peer:<52} ratio {figure.ratio:.2f}{aim}"

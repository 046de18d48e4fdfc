"""What a drill measured: the contract of `--json`, documented in docs/drill-json.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from relight import __version__
from relight.objectives import OBJECTIVES, Objectives, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Tasks, memories and effects, counted."""

    tasks: int = 0
    memories: int = 0
    effects: int = 0

    def to_json(self) -> dict[str, int]:
        """The counts by name."""
        return {"tasks": self.tasks, "memories": self.memories, "effects": self.effects}

    @property
    def total(self) -> int:
        """All of them."""
        return self.tasks + self.memories + self.effects


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened, in seconds after the fault (before it: negative)."""

    at_s: float
    event: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One more thing that a scenario measured: `name` is for programs, and ends in `_s` for seconds; `words` are for
    people; `wanted` is what it should be, where there is such a thing."""

    name: str
    words: str
    value: float | None
    wanted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scenario, measured.

    `rto_s` is None when the agent did not come back. `phases` add up to it, `scale` left out, because it runs beside
    `hydrate`. `ours_s` is what our code decides of it: from the decision to recover to the open gate; of a provider's
    outage, whatever exceeds one silence and the next provider's own time; the rest is floor. `own_objectives` are the
    scenario's, where they are not the tier's.
    """

    name: str
    tier: Tier
    rto_s: float | None
    rpo_s: float
    acknowledged: Tally
    lost: Tally
    duplicated_effects: int
    divergence: dict[str, list[str]] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    ours_s: float = 0.0
    timeline: Sequence[Moment] = ()
    problems: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    own_objectives: Objectives | None = None

    @property
    def objectives(self) -> Objectives:
        """What it is held to."""
        return self.own_objectives or OBJECTIVES[self.tier]

    @property
    def met(self) -> bool:
        """Every objective was met, nothing was lost or duplicated, and nothing else was wrong."""
        objectives = self.objectives
        return (
            self.rto_s is not None
            and self.rto_s <= objectives.rto_s
            and self.rpo_s <= objectives.rpo_s
            and self.lost.total == 0
            and self.duplicated_effects == 0
            and not self.problems
        )

    @property
    def floor_s(self) -> float:
        """What is not ours: noticing by probes, or by one silence as long as the settings allow; clients following a
        name; a provider's own time."""
        return round(max(0.0, (self.rto_s or 0.0) - self.ours_s), 3)

    def to_json(self) -> dict[str, Any]:
        """The scenario's object."""
        objectives = self.objectives
        return {
            "name": self.name,
            "tier": self.tier.value,
            "met": self.met,
            "rto_s": None if self.rto_s is None else round(self.rto_s, 3),
            "rpo_s": round(self.rpo_s, 3),
            "objectives": {"rto_s": objectives.rto_s, "rpo_s": objectives.rpo_s},
            "acknowledged": self.acknowledged.to_json(),
            "lost": self.lost.to_json(),
            "duplicated_effects": self.duplicated_effects,
            "divergence": self.divergence,
            "phases": {f"{name}_s": round(value, 3) for name, value in self.phases.items()},
            "floor_s": self.floor_s,
            "ours_s": round(self.ours_s, 3),
            "figures": {item.name: None if item.value is None else round(item.value, 3) for item in self.figures},
            "problems": list(self.problems),
            "timeline": [
                {"at_s": round(item.at_s, 3), "event": item.event, **({"detail": item.detail} if item.detail else {})}
                for item in self.timeline
            ],
        }


def drill_json(outcomes: Sequence[Outcome], *, seed: int) -> dict[str, Any]:
    """The whole drill's object."""
    return {"relight": __version__, "seed": seed, "scenarios": [outcome.to_json() for outcome in outcomes]}

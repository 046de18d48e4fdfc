"""What a recovery scales: the agents, whatever runs them, and the servers that a cold standby lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from relight.clock import looks
from relight.errors import AgainLaterError, RelightError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.clock import Clock

# How long one call waits for what it asked for, and how often it looks.
WAIT_S = 20.0
LOOK_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How many are asked for, and how many of them `serve`: run, and pass what their platform checks of them.

    `said` is what the platform gives as the reason that more do not; empty where it gives none.
    """

    asked: int
    serve: int
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """How many were asked for before. `warning` says what could not be done and does not keep them from starting."""

    before: int
    warning: str = ""


class Capacity(Protocol):
    """Something that runs in a number that can be raised, by the control plane of its own region alone.

    NotFoundError where there is no such thing, DeniedError, UnavailableError.
    """

    def look(self) -> Found:
        """How many there are now; changes nothing."""
        ...

    def raise_to(self, least: int) -> Raised:
        """Ask for at least `least` from now on: never for fewer than are asked for, and whatever scales by itself has
        `least` as its minimum, so that it does not take them away again. May be asked again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the region must have of one capacity: `least` are asked for, and `enough` must serve to go on."""

    name: str
    capacity: Capacity
    least: int
    enough: int = 1


def scale(needs: Sequence[Need], *, clock: Clock) -> dict[str, Any]:
    """Ask for what the region needs, and wait a while for enough of each; AgainLaterError when more time is needed.

    All are asked before anything is waited for, and one that cannot be asked does not keep the others from it: its
    error is raised afterwards. What serves while others start is enough: a pilot light is not waited for twice.
    """
    done: dict[str, dict[str, Any]] = {}
    failed: list[RelightError] = []
    for need in needs:
        try:
            done[need.name] = _ask(need)
        except RelightError as exc:
            failed.append(exc)
    if failed:
        raise failed[0]
    for _ in looks(clock, every_s=LOOK_EVERY_S, within_s=WAIT_S):
        found = {need.name: need.capacity.look() for need in needs}
        for name, item in found.items():
            done[name]["serve"] = item.serve
        lacking = [need for need in needs if found[need.name].serve < need.enough]
        if not lacking:
            return done
    raise AgainLaterError(
        "; ".join(_lacks(need, found[need.name]) for need in lacking),
        hint="they were asked for: run the state again, which waits on",
        wait_s=LOOK_EVERY_S,
    )


def _ask(need: Need) -> dict[str, Any]:
    raised = need.capacity.raise_to(need.least)
    done = {"before": raised.before, "desired": max(raised.before, need.least)}
    return done | ({"warning": raised.warning} if raised.warning else {})


def _lacks(need: Need, found: Found) -> str:
    said = f": {found.said}" if found.said else ""
    return f"{need.name}: {found.serve} of {found.asked} serve, and {need.enough} must{said}"

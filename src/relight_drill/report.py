"""The report: a table a scenario, for a terminal, a pipe or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from rich.console import RenderableType

    from relight_drill.result import Figure, Outcome

# What each phase is, in words for somebody who reads the table for the first time.
EXPLAINED = {
    "detect": "fault to decision: probes in a row, lease run out",
    "assess": "see what there is to recover from",
    "fence": "take the next epoch, wait the old lease out",
    "promote": "make the replica the primary",
    "scale": "ask for more agents, beside hydrate",
    "hydrate": "newest eligible point if empty, then the journal",
    "verify": "prove that memory is whole",
    "replay": "rebuild the queue from the ledger",
    "gate": "let traffic in",
    "dns": "open gate to callers served: checkers, TTL",
    "notice": "fault to the new store's event",
    "serve": "hydrated to seen to be whole",
    "leave": "one silence that must be waited for; a refusal takes no time",
    "vain": "until the last call was given up: sent there before the breaker was open",
    "switch": "given up to the next provider's having the request",
    "answer": "the next provider's own time to a whole answer",
}
FLOOR = ("detect", "dns", "notice", "serve", "leave", "answer")


def render(outcomes: Sequence[Outcome], *, seed: int) -> RenderableType:
    """Every scenario: a heading, what was measured, and where the time went."""
    return Group(
        *[part for outcome in outcomes for part in (_heading(outcome, seed), _measured(outcome), _time(outcome))]
    )


def write(outcomes: Sequence[Outcome], *, seed: int, file: TextIO, width: int | None = None) -> None:
    """Print the report to `file`, with colours only on a terminal."""
    Console(file=file, width=width, highlight=False).print(render(outcomes, seed=seed))


def _heading(outcome: Outcome, seed: int) -> Text:
    verdict = Text("objectives met", "bold green") if outcome.met else Text("OBJECTIVES MISSED", "bold red")
    return Text.assemble((f"\n{outcome.name}", "bold"), f"  tier {outcome.tier}, seed {seed}: ", verdict)


def _measured(outcome: Outcome) -> RenderableType:
    objectives = outcome.objectives
    table = Table()
    table.add_column("")
    for name in ("measured", "objective"):
        table.add_column(name, justify="right")
    rto = "never" if outcome.rto_s is None else f"{outcome.rto_s:.1f} s"
    table.add_row("recovery time (RTO)", rto, f"{objectives.rto_s:,.0f} s")
    table.add_row("achieved recovery point (RPO)", f"{outcome.rpo_s:.1f} s", f"{objectives.rpo_s:,.0f} s")
    for name in ("tasks", "memories", "effects"):
        told, lost = getattr(outcome.acknowledged, name), getattr(outcome.lost, name)
        table.add_row(f"{name} acknowledged / lost", f"{told} / {lost}", "0 lost")
    table.add_row("effects duplicated", str(outcome.duplicated_effects), "0")
    diverged = ", ".join(f"{len(ids)} {name}" for name, ids in outcome.divergence.items() if ids) or "nothing"
    table.add_row("divergence (never acknowledged)", diverged, "")
    for figure in outcome.figures:
        table.add_row(figure.words, _figure(figure), figure.wanted)
    # Beside the table and not in it, so that a long one can be read and copied.
    return Group(table, *(Text(f"problem: {problem}", "red") for problem in outcome.problems))


def _time(outcome: Outcome) -> RenderableType:
    if not outcome.phases:
        return Text()
    table = Table()
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("whose")
    table.add_column("what it is")
    for name, seconds in outcome.phases.items():
        table.add_row(name, f"{seconds:.1f}", "floor" if name in FLOOR else "ours", EXPLAINED[name])
    table.add_section()
    table.add_row("floor", f"{outcome.floor_s:.1f}", "", "decided by intervals, thresholds, TTLs, providers")
    table.add_row("ours", f"{outcome.ours_s:.1f}", "", "decided by recovery code, or the router")
    return table


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "never"
    return f"{figure.value:.1f} s" if figure.name.endswith("_s") else f"{figure.value:g}"

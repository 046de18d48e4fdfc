"""The report: a table a scenario, for a terminal, a pipe or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from relight.objectives import OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from rich.console import RenderableType

    from relight_drill.result import Outcome

# What each phase is, in words for somebody who reads the table for the first time.
EXPLAINED = {
    "detect": "from the fault to the decision to recover: probes in a row, and the old lease",
    "assess": "see what there is to recover from",
    "fence": "take the next epoch, wait the old lease out",
    "promote": "make the replica the primary",
    "scale": "ask for more agents (beside hydrate)",
    "hydrate": "restore the newest eligible point, then the journal",
    "verify": "prove that memory is whole",
    "replay": "rebuild the queue from the ledger",
    "gate": "let traffic in",
    "dns": "from the open gate until callers are served: checkers, and the name's TTL",
    "notice": "from the fault to the new store's event",
    "serve": "from the filled store until callers are served",
}
FLOOR = ("detect", "dns", "notice", "serve")


def render(outcomes: Sequence[Outcome], *, seed: int) -> RenderableType:
    """Every scenario's tables, one under the other."""
    return Group(*[part for outcome in outcomes for part in (_summary(outcome, seed), _phases(outcome), Text())])


def write(outcomes: Sequence[Outcome], *, seed: int, file: TextIO, width: int | None = None) -> None:
    """Print the report to `file`, with colours only on a terminal."""
    Console(file=file, width=width).print(render(outcomes, seed=seed))


def _summary(outcome: Outcome, seed: int) -> Table:
    objectives = OBJECTIVES[outcome.tier]
    verdict = "[bold green]objectives met[/]" if outcome.met else "[bold red]OBJECTIVES MISSED[/]"
    table = Table(title=f"{outcome.name}  ·  tier {outcome.tier}  ·  seed {seed}  ·  {verdict}", title_justify="left")
    table.add_column("")
    for name in ("measured", "objective"):
        table.add_column(name, justify="right")
    rto = "never" if outcome.rto_s is None else f"{outcome.rto_s:.1f} s"
    table.add_row("recovery time (RTO)", rto, f"{objectives.rto_s:,.0f} s")
    table.add_row("achieved recovery point (RPO)", f"{outcome.rpo_s:.1f} s", f"{objectives.rpo_s:,.0f} s")
    for name in ("tasks", "memories", "effects"):
        told, lost = getattr(outcome.acknowledged, name), getattr(outcome.lost, name)
        table.add_row(f"{name} acknowledged / lost", f"{told} / {lost}", "- / 0")
    table.add_row("effects duplicated", str(outcome.duplicated_effects), "0")
    diverged = ", ".join(f"{len(ids)} {name}" for name, ids in outcome.divergence.items() if ids) or "nothing"
    table.add_row("divergence (never acknowledged)", diverged, "")
    for problem in outcome.problems:
        table.add_row(Text(f"problem: {problem}", style="red"), "", "")
    return table


def _phases(outcome: Outcome) -> Table:
    table = Table(title="where the time went", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("whose")
    table.add_column("what it is")
    for name, seconds in outcome.phases.items():
        table.add_row(name, f"{seconds:.1f}", "floor" if name in FLOOR else "ours", EXPLAINED.get(name, ""))
    table.add_section()
    table.add_row("floor", f"{outcome.floor_s:.1f}", "", "interval × threshold of the probes and checkers, TTL")
    table.add_row("ours", f"{outcome.ours_s:.1f}", "", "decision to gate open")
    return table

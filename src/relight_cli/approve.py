"""Let a recovery go on that waits for a person's approval, or refuse it.

Only environments with `[recovery] approval = true` ask; the question on the incidents topic names the run. A refused
run ends, and so does one that nobody answers in time; `relight recover` starts one that asks nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import ConflictError
from relight.recovery.approval import asked
from relight.recovery.run import answer_approval
from relight_cli.console import DONE, add_plan, add_region, ago, confirmed, open_region, result

if TYPE_CHECKING:
    import argparse

_SEEN = ("assess", "done")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("run_id", metavar="RUN", help="the run that asks, as epoch-2-20260419T020000Z")
    parser.add_argument("--refuse", action="store_true", help="end the run instead")
    add_region(parser)
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Show what is asked and what was found, and give the answer."""
    with open_region(args) as region:
        question = asked(region.vault, args.run_id)
        now = region.clock.now()
        if now >= question.until:
            raise ConflictError(
                f"the run {question.run_id} waited until {question.until:%Y-%m-%dT%H:%M:%SZ}",
                hint="start a new one: relight recover",
            )
        found = next(
            (
                event.detail
                for event in region.timeline(question.run_id).events()
                if (event.state, event.status) == _SEEN
            ),
            {},
        )
        plan = {
            "environment": region.settings.environment,
            "run": question.run_id,
            "reason": question.reason or "none was given",
            "asked": f"{ago(question.asked_at, now)}; it waits until {question.until:%Y-%m-%dT%H:%M:%SZ}",
            "newest point": found.get("newest_eligible_point") or "none is eligible",
            "last commit": found.get("replica_last_commit_at") or "unknown",
            "answer": f"refuse: {region.settings.region} does not take over"
            if args.refuse
            else f"approve: {region.settings.region} takes over, and the other region is fenced",
        }
        if confirmed(args, plan):
            result(args, answer_approval(region, question, approve=not args.refuse))
    return DONE

"""Look after tasks, above all those that wait for a person: held by the time travel policy, or parked.

list    tasks and why they wait; those that are held or parked, or in the given statuses, for which it looks through
        all tasks
show    one task with its payload, its steps and its effects
resume  let tasks go on that are held or parked; their finished steps stay finished
cancel  end tasks for good that nobody works on
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError
from relight.tasks import review
from relight.tasks.ledger import Kind, Status
from relight_cli.console import (
    DONE,
    acting_ledger,
    add_plan,
    add_region,
    ago,
    confirmed,
    open_region,
    reading_ledger,
    result,
    several,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.tasks.ledger import Task
    from relight.tasks.review import SeenTask
    from relight.wiring import Region

WAITING = (Status.HELD, Status.PARKED)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    options = {name: actions.add_parser(name) for name in ACTIONS}
    options["list"].add_argument(
        "--status",
        action="extend",
        type=several(Status),
        metavar="STATUS",
        help=f"of {', '.join(Status)}; several with commas (default: {','.join(WAITING)})",
    )
    options["list"].add_argument("--limit", type=int, default=100, metavar="N", help="at most so many, the oldest")
    for name, how_many in (("show", "+"), ("resume", "*"), ("cancel", "+")):
        options[name].add_argument("id", nargs=how_many, metavar="ID", help="which tasks")
    options["resume"].add_argument("--all-held", action="store_true", help="every held task, of the kinds of --kind")
    options["resume"].add_argument(
        "--kind",
        action="extend",
        type=several(Kind),
        metavar="KIND",
        help=f"with --all-held: of {', '.join(Kind)}; several with commas (default: all)",
    )
    options["cancel"].add_argument("--reason", required=True, metavar="TEXT", help="why, for whoever looks later")
    for name in ("list", "show"):
        options[name].add_argument("--json", action="store_true", help="print it as JSON on stdout")
    for name in ("resume", "cancel"):
        add_plan(options[name])
    for option in options.values():
        add_region(option, acting=True)


def run(args: argparse.Namespace) -> int:
    """Do what `action` says."""
    with open_region(args) as region:
        ACTIONS[args.action](args, region)
    return DONE


def _list(args: argparse.Namespace, region: Region) -> None:
    if args.limit < 1:
        raise ConfigError(f"--limit {args.limit} lists nothing", hint="give 1 or more")
    found = reading_ledger(region).tasks(args.status or WAITING, limit=args.limit)
    if args.json:
        print(json.dumps([_row(task) for task in found], indent=2))
        return
    for task in found:
        due = ago(task.due_at, region.clock.now())
        waits = f", waits for {_awaited(task)}" if task.waits_for else ""
        print(
            f"{task.id}  {task.status} {task.kind}, due {due}{waits}, begun {task.attempts} times:"
            f" {task.error or 'no error'}"
        )
    if len(found) == args.limit:
        print(f"and perhaps more: --limit {args.limit}")


def _show(args: argparse.Namespace, region: Region) -> None:
    for id_ in args.id:
        found = review.look_up(region.database, id_)
        if args.json:
            print(json.dumps(found.to_json(), indent=2))
            continue
        now = region.clock.now()
        print(f"{found.id}: {found.status} {found.kind} under epoch {found.epoch}, begun {found.attempts} times")
        print(
            f"  made {ago(found.created_at, now)}, due {ago(found.due_at, now)}, changed {ago(found.updated_at, now)}"
        )
        if found.error:
            print(f"  error: {found.error}")
        if found.waits_for:
            print(f"  waits for: {_awaited(found)}")
        if found.worker:
            print(f"  worker: {found.worker}")
        print(f"  payload: {json.dumps(found.payload, ensure_ascii=False)}")
        for step in found.steps:
            state = f"done {ago(step.finished_at, now)}" if step.finished_at else "not done"
            failed = f", failed {step.failures} times: {step.error}" if step.failures else ""
            print(f"  step {step.key}: {state}{failed}")
        for effect in found.effects:
            print(f"  effect {effect.key[:12]} of {effect.tool}: {effect.status}{effect.error and f': {effect.error}'}")


def _resume(args: argparse.Namespace, region: Region) -> None:
    ledger = acting_ledger(region)
    if args.all_held:
        if args.id:
            raise ConfigError("--all-held takes no tasks", hint="give the tasks, or --all-held")
        kinds = args.kind or [*Kind]
        counts = review.count_held(ledger.database)
        plan = {f"resume {kind}": f"{counts.get(kind, 0):,} held tasks" for kind in kinds}
        if confirmed(args, plan):
            result(args, {"resumed": review.resume_held(ledger, kinds)})
        return
    if not args.id:
        raise ConfigError("no task is named", hint="give the tasks, or --all-held")
    tasks = [ledger.task(id_) for id_ in args.id]
    if confirmed(args, {task.id: _described(task) for task in tasks}):
        for task in tasks:
            ledger.resume(task.id)
        result(args, {"resumed": len(tasks)})


def _cancel(args: argparse.Namespace, region: Region) -> None:
    ledger = acting_ledger(region)
    tasks = [ledger.task(id_) for id_ in args.id]
    if confirmed(args, {task.id: f"{_described(task)}; is ended for good" for task in tasks}):
        for task in tasks:
            ledger.cancel(task.id, reason=args.reason)
        result(args, {"cancelled": len(tasks)})


def _described(task: Task) -> str:
    return f"{task.status} {task.kind}: {task.error or 'no error'}"


def _awaited(task: Task | SeenTask) -> str:
    """What a task waits for, by its short name: a parked one for an effect, any other for what wakes it."""
    key = task.waits_for or ""
    return f"effect {key[:12]}" if task.status is Status.PARKED else key


def _row(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "status": task.status.value,
        "kind": task.kind.value,
        "epoch": task.epoch,
        "attempts": task.attempts,
        "due_at": task.due_at.isoformat(),
        "error": task.error,
        "waits_for": task.waits_for,
    }


ACTIONS: dict[str, Callable[[argparse.Namespace, Region], None]] = {
    "list": _list,
    "show": _show,
    "resume": _resume,
    "cancel": _cancel,
}

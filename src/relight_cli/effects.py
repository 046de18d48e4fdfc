"""Look after side effects of which it is not known whether they happened.

list     effects that wait for the tool or for a person, or in the given statuses; without what was requested
show     one effect, with what was requested and what the tool answered
resolve  record what you found out, with --happened or --did-not-happen; the tasks that were parked for it go on
"""

from __future__ import annotations

import argparse
import getpass
import json
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError
from relight.tasks.effects import OPEN, Effects, EffectStatus
from relight_cli.console import (
    DONE,
    acting_ledger,
    add_plan,
    add_region,
    confirmed,
    lasting,
    open_region,
    reading_ledger,
    result,
    several,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.tasks.effects import Effect
    from relight.wiring import Region

# Enough to tell one key from all others.
_SHORT = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    options = {name: actions.add_parser(name) for name in ACTIONS}
    options["list"].add_argument(
        "--status",
        action="extend",
        type=several(EffectStatus),
        metavar="STATUS",
        help=f"of {', '.join(EffectStatus)}; several with commas (default: {','.join(OPEN)})",
    )
    options["list"].add_argument("--limit", type=int, default=100, metavar="N", help="at most so many, the oldest")
    options["list"].add_argument("--json", action="store_true", help="print them as JSON on stdout")
    for name in ("show", "resolve"):
        options[name].add_argument("key", metavar="KEY", help="the beginning of an effect's key")
    found = options["resolve"].add_mutually_exclusive_group(required=True)
    found.add_argument("--happened", action="store_true", help="the tool has acted")
    found.add_argument("--did-not-happen", action="store_true", help="the tool has not acted, and may be asked again")
    options["resolve"].add_argument("--response", type=_json, metavar="JSON", help="with --happened: what it answered")
    options["resolve"].add_argument("--by", metavar="WHO", help="who found out (default: your name on this machine)")
    add_plan(options["resolve"])
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
    found = Effects(reading_ledger(region)).list(args.status or OPEN, limit=args.limit)
    if args.json:
        print(json.dumps([_row(effect) for effect in found], indent=2))
        return
    for effect in found:
        print(
            f"{effect.key[:_SHORT]}  {effect.status} {effect.tool} of task {effect.task_id},"
            f" {lasting(effect.age_s)} ago: {effect.error or 'no error'}"
        )
    if len(found) == args.limit:
        print(f"and perhaps more: --limit {args.limit}")


def _show(args: argparse.Namespace, region: Region) -> None:
    effect = Effects(reading_ledger(region)).named(args.key)
    print(json.dumps({**_row(effect), "request": effect.request, "response": effect.response}, indent=2))


def _resolve(args: argparse.Namespace, region: Region) -> None:
    if args.response is not None and not args.happened:
        raise ConfigError("what did not happen has no response", hint="leave --response out")
    effects = Effects(acting_ledger(region))
    effect = effects.named(args.key)
    who = args.by or getpass.getuser()
    then = "as done, and is not sent again" if args.happened else "as certainly not done, and may be sent again"
    plan = {
        "effect": f"{effect.key[:_SHORT]}, {effect.status} {effect.tool} of {lasting(effect.age_s)} ago",
        "task": effect.task_id,
        "request": json.dumps(effect.request, ensure_ascii=False),
        "record": f"{then}, found out by {who}",
        "then": "the tasks that are parked for it go on",
    }
    if confirmed(args, plan):
        effects.resolve(effect, happened=args.happened, response=args.response, who=who)
        result(args, {"resolved": effect.key, "happened": bool(args.happened), "by": who})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {exc}") from None


def _row(effect: Effect) -> dict[str, Any]:
    return {
        "key": effect.key,
        "task_id": effect.task_id,
        "tool": effect.tool,
        "status": effect.status.value,
        "error": effect.error,
        "epoch": effect.epoch,
        "sending": effect.sending,
        "age_s": round(effect.age_s, 3),
    }


ACTIONS: dict[str, Callable[[argparse.Namespace, Region], None]] = {
    "list": _list,
    "show": _show,
    "resolve": _resolve,
}

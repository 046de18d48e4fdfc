"""Explain an environment's file, list those that there are, or write the IAM policies for deploying or operating one.

`check FILE` shows the pattern, what RTO and RPO the environment can promise and the sum behind each, what the standby
costs in a month (an estimate), and what is not covered. It deploys and asks nothing. Exit code 0: the objectives of the
tier can be met; 1: the file is refused, and the error says why; 3: an objective is out of reach.

`policy FILE` synthesizes the environment and prints the policies of whoever plans, deploys or rehearses it, or is on
call, by their names. A role has all of them: docs/pipelines.md, docs/runbook.md. Exit code 1: the file is refused.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError
from relight_cli.console import DONE, FAILED, MISSED, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from relight_stacks.costs import Estimate
    from relight_stacks.environment import Environment
    from relight_stacks.promises import Promise, Promises


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="explain a file: what it promises, why, and what it costs")
    check.add_argument("file", metavar="FILE", type=Path, help="a TOML file, or the name of a shipped environment")
    listing = actions.add_parser("list", help="the environments that there are, and the examples")
    for action in (check, listing):
        action.add_argument("--json", action="store_true", help="print JSON on stdout")
    policy = actions.add_parser("policy", help="the IAM policies of whoever plans, deploys or is on call, as JSON")
    policy.add_argument("file", metavar="FILE", type=Path, help="a TOML file, or the name of a shipped environment")
    policy.add_argument(
        "--may",
        choices=("plan", "deploy", "rehearse", "operate"),
        default="deploy",
        help="what for; operate: every verb of `relight`, and the runbook's commands (default: %(default)s)",
    )
    policy.add_argument(
        "--stacks", type=Path, metavar="DIR", help="read what was synthesized there (default: do it now)"
    )
    policy.add_argument("--out", type=Path, metavar="DIR", help="write each into a file there, and print their names")


def run(args: argparse.Namespace) -> int:
    """Do the action; what is printed is on stdout."""
    actions = {"check": _check, "list": _list, "policy": _policy}
    return actions[args.action](args)


def _check(args: argparse.Namespace) -> int:
    # Late, as in every verb: the command line answers --help at once.
    from relight_stacks import costs, promises
    from relight_stacks.loading import load_with_others

    path = args.file
    try:
        path = _path(args.file)
        environment = load_with_others(path)
    except ConfigError as exc:
        if args.json:
            print(json.dumps({"file": str(path), "refused": exc.problem, "hint": exc.hint}, indent=2))
        say(f"relight env: {exc}")
        return FAILED
    found, cost = promises.promises(environment), costs.estimate(environment)
    if args.json:
        print(
            json.dumps(
                {"file": str(path)} | _summary(environment) | promises.to_json(found) | {"cost": costs.to_json(cost)},
                indent=2,
            )
        )
    else:
        for line in _explained(environment, found, cost):
            print(line)
    try:
        promises.keep_promises(environment, source=str(path))
    except ConfigError as exc:
        say(f"relight env: {exc}")
        return MISSED
    return DONE


def _policy(args: argparse.Namespace) -> int:
    from relight_stacks.deploy_policy import May, policies, read_stacks
    from relight_stacks.loading import load_environment

    try:
        environment = load_environment(_path(args.file))
    except ConfigError as exc:
        say(f"relight env: {exc}")
        return FAILED
    if args.stacks is not None:
        stacks = read_stacks(args.stacks, environment.name)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            stacks = read_stacks(_synthesized(environment, Path(scratch)), environment.name)
    found = policies(stacks, environment, May(args.may))
    if args.out is None:
        print(json.dumps(found, indent=2))
        return DONE
    args.out.mkdir(parents=True, exist_ok=True)
    for name, document in found.items():
        path = args.out / f"{name}.json"
        path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
        print(path)
    return DONE


def _synthesized(environment: Environment, folder: Path) -> Path:
    """The environment's stacks, around a stand-in for the code that functions run: no policy depends on it."""
    from relight_stacks.app import synthesize
    from relight_stacks.bundles import Bundles

    bundle = folder / "bundle.zip"
    bundle.touch()
    bundles = {environment.memory.store: Bundles(region=bundle, providers=bundle)}
    return synthesize([environment], bundles=bundles, output=folder / "cdktf.out")


def _path(given: Path) -> Path:
    """The file, or the shipped environment or example of that name; ConfigError, which lists them, without either."""
    from relight_stacks.loading import environments_folder, examples_folder

    if given.suffix or given.exists() or len(given.parts) != 1:
        return given
    folders = (environments_folder(), examples_folder())
    for folder in folders:
        if (path := folder / f"{given}.toml").is_file():
            return path
    known = ", ".join(sorted(path.stem for folder in folders for path in folder.glob("*.toml")))
    raise ConfigError(f"no environment {str(given)!r}", hint=f"name a TOML file, or one of those that exist: {known}")


def _list(args: argparse.Namespace) -> int:
    from relight_stacks.loading import environments_folder, examples_folder, load_environments

    folders = {"environment": environments_folder(), "example": examples_folder()}
    rows = [
        {"kind": kind} | _summary(environment) | {"file": str(folder / f"{environment.name}.toml")}
        for kind, folder in folders.items()
        for environment in load_environments(folder)
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return DONE
    for row in rows:
        regions = f"{row['primary']} → {row['standby']}"
        print(f"{row['name']:<16} {row['tier']:<16} {row['pattern']:<13} {regions:<28} {row['kind']}")
    return DONE


def _summary(environment: Environment) -> dict[str, Any]:
    from relight.objectives import PATTERNS

    return {
        "name": environment.name,
        "tier": environment.tier.value,
        "pattern": PATTERNS[environment.tier].value,
        "primary": environment.regions.primary,
        "standby": environment.regions.standby,
        "state": environment.shape.state.value,
        "routing": environment.shape.routing.value,
    }


def _explained(environment: Environment, found: Promises, cost: Estimate) -> Iterator[str]:
    from relight_stacks.costs import PRICES_OF

    about = _summary(environment)
    shape = environment.shape
    yield f"{about['name']}: tier {about['tier']}, {about['pattern']}, {about['primary']} → {about['standby']}"
    waits = f"standby {shape.waiting}" if shape.standby else "no standby"
    rehearsal = f"rehearsed on {shape.rehearse}" if shape.rehearse else "not rehearsed"
    points = f"a point every {shape.snapshot_minutes} min"
    yield f"  {waits}, state {shape.state}, dns {shape.routing}, {points}, {rehearsal}"
    yield ""
    yield from _sum(found.rto)
    yield f"  of that until the loss is noticed: {found.detection_s:.0f} s"
    for promise in found.rpo:
        yield ""
        yield from _sum(promise)
    yield ""
    least = ", and what is not known" if cost.unknown else ""
    yield f"What the standby costs in a month: {'at least' if least else 'about'} {cost.rounded} USD{least}"
    yield f"  an estimate: list prices of us-east-1 in {PRICES_OF}, without discounts, and without what is below"
    yield "  of the standby alone: the primary comes on top, and docs/environments.md says how to estimate that"
    for line in cost.lines:
        amount = "not known" if line.monthly is None else f"{line.monthly:,.2f}"
        price = "no price in the table" if line.price is None else f"{line.price:.4g} each"
        yield f"  {amount:>10}  {line.what} ({line.quantity:,.0f} {line.unit}, {price})"
    yield "  and for what is used, in USD:"
    for unit in cost.per_unit:
        yield f"  {unit.price:>10}  a {unit.unit}: {unit.what}"
    yield ""
    yield "Not covered:"
    for sentence in found.not_covered:
        yield f"  - {sentence}"


def _sum(promise: Promise) -> Iterator[str]:
    verdict = "can be met" if promise.kept else "OUT OF REACH"
    yield f"{promise.name}: {promise.seconds:.0f} s at worst, the objective is {promise.objective_s:.0f} s: {verdict}"
    for part in promise.parts:
        amount = f"({part.seconds:.0f})" if part.beside else f"{part.seconds:.0f}"
        yield f"  {amount:>7} s  {part.what} [{part.basis}] {part.why}"
    if any(part.beside for part in promise.parts):
        yield "  what is in brackets passes beside something longer, and is not counted"

"""Recover by hand: run the states of the recovery here, without the state machine.

For when the state machine itself cannot run, or one state has to be run again: `--run-id` goes on with a run, and
`--state` runs only that state of it. What takes longer than one call, such as a promotion or the start of a cold
standby, is waited for here.

A new run takes the right to act from whoever has it. Where the standby has it already, say with `--role` which region
is meant: the primary, on the way back, or the standby once more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.config import Role, StateKind
from relight.errors import AgainLaterError, ConflictError, NotFoundError
from relight.recovery.run import STATES, Run, run_state
from relight_cli.console import DONE, add_plan, add_region, confirmed, open_region, result, say

if TYPE_CHECKING:
    import argparse

    from relight.config import Settings
    from relight.recovery.epoch import Lease
    from relight.wiring import Region

# Longer than anything takes that a state asks for: a large backup is restored in about an hour.
GIVE_UP_S = 2 * 3600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--run-id", metavar="ID", help="go on with this run (default: a new one)")
    parser.add_argument("--state", action="append", choices=[*STATES], help="run only this state; may be repeated")
    add_region(parser, unsaid="standby, unless that acts already")
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Run the states in order; the first that fails ends it, and can be run again."""
    guessed = args.role is None and bool(args.environment)
    args.role = args.role or Role.STANDBY.value
    with open_region(args) as region:
        run_id = args.run_id or f"by-hand-{region.clock.now():%Y%m%dT%H%M%SZ}"
        names = [name for name in STATES if not args.state or name in args.state]
        held = region.leases.read()
        if guessed and not args.run_id and held is not None:
            _refuse_again(held[0], region.settings)
        plan = {
            "environment": region.settings.environment,
            "recover in": region.settings.region,
            "taking over": "nobody" if held is None else f"epoch {held[0].epoch} of {held[0].region}",
            "run": run_id,
            "states": ", ".join(names),
        }
        if not confirmed(args, plan):
            return DONE
        settings = with_state_group(region) if "promote" in names else region.settings
        next_epoch = held[0].epoch + 1 if held is not None and held[0].run_id != run_id else None
        this_run = Run(run_id=run_id, decided_at=region.clock.now().isoformat(), next_epoch=next_epoch)
        done: dict[str, Any] = {"run_id": run_id}
        for name in names:
            say(f"{name} ...")
            done[name] = _to_its_end(name, settings, this_run)
        result(args, done)
    return DONE


def with_state_group(region: Region) -> Settings:
    """A region's settings with the security group of a database that is restored, which no file can know.

    It is found by its name. NotFoundError when the region has none.
    """
    settings = region.settings
    if settings.state_kind is not StateKind.SNAPSHOTS or settings.state_group:
        return settings
    name = f"relight-{settings.environment}-state"
    with aws.translating():
        found = region.aws("ec2").describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])
    groups = [str(item["GroupId"]) for item in found["SecurityGroups"]]
    if len(groups) != 1:
        hint = f"deploy {settings.environment}-{settings.role}, which makes it"
        raise NotFoundError(f"{settings.region} has {len(groups)} security groups named {name}", hint=hint)
    return replace(settings, state_group=groups[0])


def _refuse_again(held: Lease, settings: Settings) -> None:
    """ConflictError where the region that nobody named has the right to act already: a new run would interrupt it."""
    if held.region == settings.region:
        raise ConflictError(
            f"{held.region}, the standby, holds epoch {held.epoch} already, by run {held.run_id}",
            hint=f"go on with that run by --run-id {held.run_id}; to recover into it once more, or to go back, give "
            "--role standby or --role primary",
        )


def _to_its_end(name: str, settings: Settings, this_run: Run) -> dict[str, Any]:
    """Run a state as often as it says itself that it must be run again.

    Each time in a region opened anew: a promotion may have written where the database is now into the connections.
    """
    from relight.wiring import Region  # late, as in `open_region`

    began: float | None = None
    while True:
        with Region(settings) as region:
            clock = region.clock
            began = clock.monotonic() if began is None else began
            try:
                return run_state(name, region, this_run)
            except AgainLaterError as exc:
                if clock.monotonic() + exc.wait_s > began + GIVE_UP_S:
                    raise
                say(f"{name}: {exc.problem}; waiting ...")
                wait_s = exc.wait_s
        clock.sleep(wait_s)

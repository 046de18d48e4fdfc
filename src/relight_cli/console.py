"""What verbs share: which region they work on, how they talk, and how they ask."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from relight.clock import lasting as lasting
from relight.clock import parse_time
from relight.config import PREFIX, Role
from relight.errors import ConfigError, ConflictError, DeniedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from enum import StrEnum

    from relight.tasks.ledger import Ledger
    from relight.wiring import Region

DONE, FAILED, USAGE, MISSED = 0, 1, 2, 3
# As a shell says it of what SIGPIPE ended.
UNREAD = 141


def say(text: str) -> None:
    """Talk, on stderr."""
    print(text, file=sys.stderr, flush=True)


def flush() -> None:
    """Print what is still held back; BrokenPipeError when nobody reads it any more."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as it is when the descriptor was closed from the start
            stream.flush()


def silence_unread() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads any more; the interpreter's own last flush then goes
    nowhere, instead of failing."""
    unread = [stream.fileno() for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
    for descriptor in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return bool(unread)


def _is_unread(stream: TextIO | None) -> bool:
    try:
        descriptor = -1 if stream is None else stream.fileno()
    except (OSError, ValueError):  # it is none of the system's, or closed
        return False
    if descriptor < 0:
        return False
    look = select.poll()
    look.register(descriptor, 0)  # what is wrong with it is told without asking
    return bool(look.poll(0))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let an interrupt wait until the block ends: of the packages that are imported, some swallow one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


ACTING = "the one that acts: it has the newest epoch"


def add_region(parser: argparse.ArgumentParser, *, acting: bool = False, unsaid: str = "") -> None:
    """The options that choose a region. Where a verb is about what the agent works on, it is the one that acts unless
    told otherwise; `unsaid` is what a verb does by itself that was told nothing."""
    parser.add_argument("--environment", metavar="NAME", help="an environment file's name (default: RELIGHT_*)")
    shown = unsaid or (ACTING if acting else Role.STANDBY.value)
    default = None if acting or unsaid else Role.STANDBY.value
    parser.add_argument("--role", choices=[*Role], default=default, help=f"which region (default: {shown})")


def add_into(parser: argparse.ArgumentParser, *, help_: str) -> None:
    """The option that names another store. Its address holds a password, which others would see in an argument."""
    parser.add_argument("--into-env", metavar="NAME", help=f"{help_}; the variable NAME holds its connection string")


def dsn_in(name: str | None) -> str:
    """The connection string in that environment variable; none without a name, ConfigError when it is empty."""
    if name is None:
        return ""
    if dsn := os.environ.get(name):
        return dsn
    if not name.isidentifier():  # not shown: it may be what should be in a variable
        raise ConfigError("that is not the name of an environment variable", hint="give the variable's name alone")
    raise ConfigError(f"the environment variable {name!r} is empty", hint="put the connection string into it")


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The options of a verb that changes something."""
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def several(kind: type[StrEnum]) -> Callable[[str], list[StrEnum]]:
    """One of these or more with commas between, as the type of an option whose action is `extend`."""

    def parse(text: str) -> list[StrEnum]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not of {', '.join(kind)}") from None

    return parse


def moment(text: str) -> datetime:
    """A time, as an option's type."""
    try:
        return parse_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time with an offset; write it as 2026-04-19T02:00:00Z"
        ) from None


def open_region(args: argparse.Namespace) -> Region:
    """The region that the options or, without them, the environment variables describe."""
    # Late, because the drivers take half a second: an interrupt before main() runs is a traceback.
    from relight.wiring import Region

    if args.environment:
        # Late, because reading environment files is only needed here and on no function.
        from relight_stacks.loading import load_named
        from relight_stacks.settings import settings_for

        environment = load_named(args.environment)
        if args.role:
            return Region(settings_for(environment, Role(args.role)))
        with Region(settings_for(environment, Role.STANDBY)) as standby:
            role = _acting(standby)
        return Region(settings_for(environment, role))
    if not any(name.startswith(PREFIX) for name in os.environ):
        raise ConfigError("no environment is named", hint="give --environment NAME, or set the RELIGHT_* variables")
    return Region.from_env()


def _acting(standby: Region) -> Role:
    """Which region has the newest epoch; the primary before the first."""
    try:
        held = standby.leases.read()
    except (TransientError, DeniedError) as exc:
        hint = exc.hint or "say it with --role"
        raise type(exc)(f"which region acts cannot be read: {exc.problem}", hint=hint) from exc
    return Role.STANDBY if held is not None and held[0].region == standby.settings.region else Role.PRIMARY


def reading_ledger(region: Region) -> Ledger:
    """The region's ledger to read; a replica's too, which may lag behind. Its writes are refused."""
    return region.ledger(lambda: 0)


def acting_ledger(region: Region) -> Ledger:
    """The ledger to write under the newest epoch; ConflictError where another region holds that."""
    newest = region.epochs.newest()
    if newest is None:
        raise ConflictError("the ledger knows no epoch yet", hint="run `relight init` first")
    if newest.region != region.settings.region:
        raise ConflictError(
            f"{newest.region} holds epoch {newest.number}, so nobody works off the queue of {region.settings.region}",
            hint="give the other --role; a recovery replays by itself",
        )
    number = newest.number
    return region.ledger(lambda: number)


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, for people; or in how long."""
    seconds = (now - moment).total_seconds()
    return f"{lasting(seconds)} ago" if seconds >= 0 else f"in {lasting(-seconds)}"


def confirmed(args: argparse.Namespace, plan: Mapping[str, Any]) -> bool:
    """Show the plan; True when it may be carried out. Without a terminal to ask on, `--yes` is needed."""
    for name, value in plan.items():
        say(f"  {name:<12} {value}")
    if args.dry_run:
        say("dry run: nothing was done")
        return False
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on", hint="look at the plan above and add --yes")
    say("go on? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say("nothing was done")
        return False
    return True


def result(args: argparse.Namespace, value: Mapping[str, Any]) -> None:
    """Print what was done; for a person without what there was none of."""
    if args.json:
        print(json.dumps(value, indent=2, default=str))
    else:
        for name, item in value.items():
            if item is not None and item != [] and item != {}:
                print(f"{name.replace('_', ' ')}: {item}")

"""Show how both regions stand, on one page, and change nothing.

Who holds the epoch and the lease, whether both endpoints answer as they should, whether what is acknowledged is in the
standby, what would be lost now, what waits for a person, how far memory is behind, and how the LLM providers do: the
breakers here, and whether the standby could ask them, which is tried there. What cannot be found out is a line that
says why. Exit code 1 when something needs a person, or is not known.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.config import Role
from relight.errors import UnavailableError
from relight.recovery.status import State, look, peer_of
from relight_cli.console import DONE, FAILED, open_region, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from relight.config import Settings
    from relight.wiring import Region

# The function has a minute.
_ASK_S = 70.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.add_argument("--environment", metavar="NAME", help="an environment file's name (default: RELIGHT_*)")


def run(args: argparse.Namespace) -> int:
    """Print one line for each thing; fail when one of them needs a person, or is not known."""
    lines = []
    with ExitStack() as opened:
        primary, standby = (opened.enter_context(region) for region in _pair(args))
        for line in look(primary, standby, ask_standby=_asking(standby.settings)):
            lines.append(line)
            if not args.json:
                print(f"{_MARKS[line.state]:<8} {line.name:<17} {line.found}", flush=True)
    if args.json:
        rows = [{"name": line.name, "state": line.state.value, "found": line.found, **line.data} for line in lines]
        print(json.dumps({"environment": standby.settings.environment, "lines": rows}, indent=2, default=str))
    needing = list(dict.fromkeys(line.name for line in lines if line.state is State.LOOK))
    unknown = list(dict.fromkeys(line.name for line in lines if line.state is State.UNKNOWN))
    if needing:
        say(f"needs a person: {', '.join(needing)}")
    if unknown:
        say(f"not known: {', '.join(unknown)}")
    if not needing and not unknown:
        say("nothing needs a person")
    return FAILED if needing or unknown else DONE


_MARKS = {State.OK: "ok", State.LOOK: "LOOK", State.UNKNOWN: "unknown:"}


def _pair(args: argparse.Namespace) -> tuple[Region, Region]:
    """The primary and the standby."""
    from relight.wiring import Region

    if args.environment:
        from relight_stacks.loading import load_named
        from relight_stacks.settings import settings_for

        environment = load_named(args.environment)
        return Region(settings_for(environment, Role.PRIMARY)), Region(settings_for(environment, Role.STANDBY))
    with open_region(args) as region:
        own, peer = Region(region.settings), Region(peer_of(region.settings))
    return (own, peer) if own.settings.role is Role.PRIMARY else (peer, own)


def _asking(settings: Settings) -> Callable[[], Mapping[str, Any]]:
    """Has the standby's function try its LLM providers."""

    def ask() -> Mapping[str, Any]:
        from relight_stacks.naming import function_name

        name = function_name(settings.environment, "providers")
        client = aws.client("lambda", settings.region, read_timeout_s=_ASK_S, attempts=1)
        with aws.translating():
            answer = client.invoke(FunctionName=name, Payload=b"{}")
            payload = answer["Payload"].read()
        if answer.get("FunctionError"):
            raise UnavailableError(f"the function {name} failed: {_reason(payload)}", hint="read its log")
        found: Mapping[str, Any] = json.loads(payload)
        return found

    return ask


def _reason(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return "it says nothing of why"

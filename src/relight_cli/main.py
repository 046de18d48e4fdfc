"""Parse the command line and run the verb."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from relight import __version__
from relight.errors import ConfigError, RelightError
from relight_cli.console import FAILED, UNREAD, USAGE, flush, interrupts_held, say, silence_unread

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = (
    "drill",
    "init",
    "db",
    "snapshot",
    "points",
    "memory",
    "journal",
    "restore",
    "rehearse",
    "adopt",
    "replay",
    "tasks",
    "effects",
    "read_only",
    "divergence",
    "recover",
    "approve",
    "smoke_test",
    "status",
    "bootstrap",
    "env",
    "gateway",
)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="relight", description="Disaster recovery for self-hosted AI agents.")
    top.add_argument("--version", action="version", version=f"relight {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        module = import_module(f"relight_cli.{name}")
        help_, _, more = (module.__doc__ or name).partition("\n")
        verb = verbs.add_parser(name.replace("_", "-"), help=help_, description=f"{help_}{more}")
        module.configure(verb)
        verb.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; 141, as of what SIGPIPE ends, when nobody reads what it prints."""
    try:
        try:
            code = _run(argv)
        except SystemExit:  # of the parser, which has printed what was asked for
            flush()
            raise
        flush()
    except BrokenPipeError:
        # SIGPIPE itself stays ignored: a server that hangs up must not end a recovery.
        if not silence_unread():
            raise
        return UNREAD
    return code


def _run(argv: Sequence[str] | None) -> int:
    said = "relight"
    try:
        with interrupts_held():
            args = parser().parse_args(argv)
        said = f"relight {args.verb}"
        code: int = args.run(args)
    except ConfigError as exc:
        say(f"{said}: {exc}")
        return USAGE
    except RelightError as exc:
        say(f"{said}: {type(exc).__name__}: {exc}")
        return FAILED
    except KeyboardInterrupt:
        say(f"{said}: interrupted")
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())

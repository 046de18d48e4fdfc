"""Let agents in any language use the LLM router by changing a base URL: an HTTP face on loopback.

It speaks OpenAI's /v1/chat/completions and Anthropic's /v1/messages, and asks the providers of an environment, or those
of a file of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight_cli.console import DONE, add_region, open_region, say

if TYPE_CHECKING:
    from relight.providers.gateway.app import Options
    from relight.providers.router import AsyncRouter

PORT = 8462


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_region(parser, acting=True)
    parser.add_argument("--config", type=Path, metavar="FILE", help="providers and limits, instead of an environment's")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--on-cut",
        choices=("error", "restart"),
        default="error",
        help="when a provider breaks off in the middle of a stream: end it with an error, or hold every stream back"
        " until its answer is whole, so that another can begin anew (default: %(default)s)",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=8192, metavar="N", help="for requests that do not say (default: %(default)s)"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="log every answer, and the names of fields that were passed over"
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token-env", metavar="NAME", help="ask clients for the token that the variable NAME holds")
    token.add_argument("--token-file", type=Path, metavar="FILE", help="ask clients for the token that FILE holds")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal says that it is enough."""
    # Late, because aiohttp takes a while and no other verb needs it.
    try:
        from relight.providers.gateway.app import Options, check_loopback
        from relight.providers.router import OnCut
    except ModuleNotFoundError as exc:
        raise ConfigError(f"the package {exc.name} is not installed", hint="pip install 'relight[gateway]'") from exc
    if args.max_tokens < 1:
        raise ConfigError(f"--max-tokens {args.max_tokens} allows no answer", hint="give 1 or more")
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port} is no port", hint="give 0 to 65535")
    check_loopback(args.host)
    _log_to_stderr(verbose=args.verbose)
    options = Options(on_cut=OnCut(args.on_cut), token=_token(args), max_tokens=args.max_tokens)
    asyncio.run(_serve(args, options))
    return DONE


async def _serve(args: argparse.Namespace, options: Options) -> None:
    from relight.providers.gateway.app import serving

    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        router = await _open(args, stack)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, enough.set)
        address = await stack.enter_async_context(serving(router, options, host=args.host, port=args.port))
        order = ", then ".join(f"{spec.name} ({spec.model})" for spec in router.specs)
        say(f"relight gateway: {address} asks {order}")
        say(f"  an OpenAI client's base URL is {address}/v1, an Anthropic client's {address}")
        await enough.wait()
        # Whoever does not want to wait for what is under way says it a second time.
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        say("relight gateway: ending")


async def _open(args: argparse.Namespace, stack: AsyncExitStack) -> AsyncRouter:
    """The router of the file, or of the environment's region; closed with the stack."""
    if args.config is None:
        router: AsyncRouter = stack.enter_context(open_region(args)).async_router()
    else:
        from relight.providers.gateway.config import load_config
        from relight.providers.open import open_provider
        from relight.providers.router import AsyncRouter

        if args.environment:
            raise ConfigError("--config and --environment are two sources of providers", hint="give one of them")
        config = load_config(args.config, os.environ)
        router = AsyncRouter(
            [open_provider(spec, config.keys.get(spec.name, "")) for spec in config.providers], limits=config.limits
        )
    stack.push_async_callback(router.close)
    return router


class _Lines(logging.Formatter):
    """An event with its fields, as one line of JSON. Of an exception its type alone: its text may repeat a prompt."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "event": record.msg}
        line |= {name: value for name, value in vars(record).items() if name not in _ITS_OWN}
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, default=str)


_ITS_OWN = {*vars(logging.makeLogRecord({})), "message", "taskName"}


def _log_to_stderr(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if verbose:
        # Ours alone: at this level the providers' SDKs log whole requests.
        logging.getLogger("relight").setLevel(logging.DEBUG)


def _token(args: argparse.Namespace) -> str:
    from relight.providers.gateway.config import secret_in

    if args.token_env is not None:
        return secret_in(args.token_env, os.environ, where="--token-env")
    if args.token_file is None:
        return ""
    try:
        found: str = args.token_file.read_text("utf-8").strip()
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise ConfigError(f"--token-file {args.token_file} cannot be read: {why}", hint="give another") from None
    if not found:
        raise ConfigError(f"--token-file {args.token_file} is empty", hint="put the token into it")
    return found

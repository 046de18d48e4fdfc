"""Run an example on this machine: raise its servers over what earlier runs left, run the agent, end the servers.

PostgreSQL and NATS are real and local; mail server and language models are played. Nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import re
import secrets
import shutil
import socket
import sys
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from examples.common import Place, log_to, plainly, say
from relight.errors import ConfigError
from relight.tasks.database import Database
from relight.tasks.epochs import EpochLog
from relight.tasks.migrate import migrate
from relight_drill.llm import Trouble
from relight_drill.nats import NatsServer
from relight_drill.postgres import PostgresServer
from relight_drill.processes import ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).resolve().parents[1]
AGENTS = {"openclaw": "examples.openclaw.research", "hermes": "examples.hermes.gateway"}


def prepare(state_dsn: str) -> None:
    """What an operator does by `relight init`, and with a later version of Relight by `relight db migrate`."""
    with closing(Database(state_dsn)) as database:
        migrate(database)
        EpochLog(database).take(1, region="here", run_id="first")


@asynccontextmanager
async def servers(
    folder: Path, *, nats: bool, models: bool, imap: bool, crash_after: str, claim_s: float, outage: bool
) -> AsyncIterator[Place]:
    """Servers on loopback that end with this process, however it ends; what they stored stays in `folder`."""
    with _alone(folder), ProcessGroup() as group:
        log_to(folder / "run.log")
        (folder / "crashed").unlink(missing_ok=True)
        state = await _postgres(group, folder)
        smtp_port, imap_port = free_port(), free_port()
        mail = group.start(
            "mail server",
            [sys.executable, "-P", "-m", "examples.mailserver", folder / "mail", str(smtp_port), str(imap_port)],
            log_path=folder / "mail.log",
        )
        await wait_until(lambda: _listens(smtp_port), what="the mail server to listen", timeout_s=20, process=mail)
        cloud_port, local_port = free_port(), free_port()
        if models:
            command = [sys.executable, "-P", "-m", "examples.models", str(cloud_port), str(local_port)]
            played = group.start(
                "models", [*command, Trouble.SERVER_ERROR if outage else ""], log_path=folder / "models.log"
            )
            await wait_until(lambda: _listens(local_port), what="the models to listen", timeout_s=60, process=played)
        queue = NatsServer(group, folder / "nats", name="example")
        if nats:
            await queue.start()
        yield Place(
            folder=folder,
            state_dsn=state.dsn(),
            memory_dsn=state.dsn("memory"),
            smtp_port=smtp_port,
            imap_port=imap_port if imap else 0,
            cloud_port=cloud_port,
            local_port=local_port,
            queue_url=queue.url() if nats else "",
            claim_s=claim_s,
            mail_s=claim_s * 0.4,
            crash_after=crash_after,
        )
        await queue.stop()
        await state.stop()


async def _postgres(group: ProcessGroup, folder: Path) -> PostgresServer:
    server = PostgresServer(group, folder / "postgres", name="example", database="state")
    # Written last: without it, the first run did not come to its end.
    secret, settings = folder / "password", folder / "postgres" / "postgresql.conf"
    if secret.exists():
        server.password = secret.read_text()
        settings.write_text(re.sub(r"(?m)^port = .*$", f"port = '{server.port}'", settings.read_text()))
        await server.start()
        prepare(server.dsn())
        return server
    shutil.rmtree(folder / "postgres", ignore_errors=True)
    await server.create()
    with closing(psycopg2.connect(server.dsn())) as connection:
        connection.autocommit = True
        connection.cursor().execute("create database memory")
    prepare(server.dsn())
    partial = folder / f"password.{secrets.token_hex(4)}"
    partial.touch(mode=0o600)
    partial.write_text(server.password)
    partial.replace(secret)
    return server


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run at a time works over a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another run works over {folder}", hint="wait for it, or give --data") from None
        yield


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def run(args: argparse.Namespace, folder: Path, agent: list[str]) -> int:
    """Run the agent in a process of its own, and return the exit code."""
    say(f"state, memory and mail are in {folder}")
    async with servers(
        folder,
        nats=args.agent == "hermes",
        models=args.agent == "openclaw",
        imap=not args.no_imap,
        crash_after=args.crash_after,
        claim_s=args.claim,
        outage=args.outage,
    ) as place:
        command = [sys.executable, "-P", "-m", AGENTS[args.agent], *agent]
        child = await asyncio.create_subprocess_exec(*command, env={**os.environ, **place.to_env()})
        try:
            code = await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
    if code < 0:
        say("the agent was killed; its finished steps are in its ledger. Run it again, and it goes on.")
    return code if code >= 0 else 128 - code


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="run",
        allow_abbrev=False,
        description=__doc__,
        epilog="What is not listed goes to the agent: try `-- --help`.",
    )
    parser.add_argument("agent", choices=[*AGENTS], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="where state lives between runs (default: .relight/examples/AGENT)")
    parser.add_argument("--crash-after", default="", metavar="STEP", help="kill the agent when that step is finished")
    parser.add_argument("--no-imap", action="store_true", help="a mailbox that cannot be asked what it has")
    parser.add_argument("--outage", action="store_true", help="the first language model is out (openclaw)")
    parser.add_argument(
        "--claim", type=float, default=12.0, metavar="SECONDS", help="after which a dead life's task is free"
    )
    args, rest = parser.parse_known_args()
    folder = (args.data or ROOT / ".relight" / "examples" / args.agent).resolve()
    rest = [word for word in rest if word != "--"]
    with plainly():
        return asyncio.run(run(args, folder, rest))


if __name__ == "__main__":
    sys.exit(main())

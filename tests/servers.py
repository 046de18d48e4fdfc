"""Real servers for tests, shared by the session and ended with it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from relight_drill.emulator import Emulator
from relight_drill.nats import NatsServer
from relight_drill.postgres import STANDBY_NAME, PostgresServer
from relight_drill.processes import ProcessGroup, free_port
from relight_drill.redis import RedisServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from benchmarks.seaweed import Seaweed


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A small HTTP server on loopback; its port."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePair:
    """A primary and its streaming standby."""

    primary: PostgresServer
    standby: PostgresServer


@pytest.fixture(scope="session")
def server_group() -> Iterator[ProcessGroup]:
    """The session's processes: none outlives it, not even when it is killed."""
    with ProcessGroup() as group:
        yield group


@pytest.fixture(scope="session")
def server_dir(server_group: ProcessGroup) -> Iterator[Path]:
    """A folder for the servers' data that their unprivileged user may enter (pytest's own are closed to it)."""
    path = Path(tempfile.mkdtemp(prefix="relight-servers-"))
    path.chmod(0o711)
    server_group.remove_at_end(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def start_pair(group: ProcessGroup, folder: Path) -> StatePair:
    """A new pair, whose primary waits for the standby where `synchronous_commit` says so."""
    settings = {"synchronous_standby_names": STANDBY_NAME}
    primary = PostgresServer(group, folder / "primary", name="state-primary", database="relight", settings=settings)
    standby = PostgresServer(group, folder / "standby", name="state-standby", database="relight")
    await primary.create()
    await standby.base_backup(primary)
    await standby.start()
    return StatePair(primary=primary, standby=standby)


@pytest.fixture(scope="session")
def state_pair(server_group: ProcessGroup, server_dir: Path) -> StatePair:
    """Database `relight`: a primary with its streaming standby, shared by the session; promote a pair of your own."""
    return asyncio.run(start_pair(server_group, server_dir / "state"))


@pytest.fixture(scope="session")
def vector_server(server_group: ProcessGroup, server_dir: Path) -> PostgresServer:
    """Database `memory`, not replicated."""
    server = PostgresServer(server_group, server_dir / "vector", name="vector", database="memory")
    asyncio.run(server.create())
    return server


@pytest.fixture(scope="session")
def nats_server(server_group: ProcessGroup, server_dir: Path) -> NatsServer:
    """JetStream, shared by the session: name your streams after your test."""
    server = NatsServer(server_group, server_dir / "nats", name="nats")
    asyncio.run(server.start())
    return server


@pytest.fixture(scope="session")
def redis_server(server_group: ProcessGroup, server_dir: Path) -> RedisServer:
    """Redis with its log on disk, shared by the session: name your environments after your test."""
    server = RedisServer(server_group, server_dir / "redis", name="redis")
    asyncio.run(server.start())
    return server


@pytest.fixture(scope="session")
def emulator(server_group: ProcessGroup, server_dir: Path) -> Emulator:
    """AWS in every region with IAM enforced, shared by the session: name your resources after your test."""
    server = Emulator(server_group, server_dir / "aws")
    asyncio.run(server.start())
    return server


@pytest.fixture(scope="session")
def seaweed_server() -> Iterator[Seaweed]:
    """An S3 server that is not Amazon's, shared by the session: name your buckets after your test."""
    # The benchmarks are a command at the root, not an installed package.
    root = str(Path(__file__).parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    from benchmarks.seaweed import seaweed

    with seaweed() as server:
        yield server


# What stands in for the bundle where a test needs functions that run and not what they do: it calls AWS as it is told.
PUPPET = """
import botocore.session

def handler(event, context):
    client = botocore.session.get_session().create_client(event["service"], region_name=event["region"])
    answer = getattr(client, event["call"])(**event["with"])
    return sorted(key for key in answer if key != "ResponseMetadata")
"""


@pytest.fixture(scope="session")
def demo_stacks(server_dir: Path) -> Path:
    """The synthesized stacks of the environment `demo`, whose functions are puppets."""
    bundle, out = server_dir / "puppets.zip", server_dir / "cdktf.out"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("relight_lambdas/__init__.py", "")
        for verb in (
            *("snapshot", "hydrate", "replay", "sentinel", "assess", "fence", "promote", "scale", "verify"),
            *("open_gate", "announce", "observe", "prune", "verify_points"),
            *("rehearse", "rehearse_open", "rehearse_close", "rehearse_age"),
        ):
            archive.writestr(f"relight_lambdas/{verb}.py", PUPPET)
    command = [sys.executable, "-P", "-m", "relight_stacks.app", "--environment", "demo", "--bundle", str(bundle)]
    done = subprocess.run([*command, "--output", str(out)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return out

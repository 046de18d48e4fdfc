"""The NATS servers exactly as their ECS services start them, on loopback: the rendered script and configuration, run by
a shell with the real server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats
import pytest

from relight.queue.queues import open_queue
from relight_constructs.nats import CLIENTS, CONFIG, HEALTH_PATH, MONITOR, PASSWORD, ROUTES, STORE, USER, Node, script
from relight_drill.nats import nats_server_binary
from relight_drill.processes import Process, ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "nats.relight-test.internal"
# Letters, digits, - and _, and nothing that the server could take for a number, a date or a variable of its own.
SECRETS = ("only-letters_and-dashes", "0123456789012345", "1e5", "2026-11-23", "true", "10mb", "_2a_10_abc")

pytestmark = pytest.mark.servers


@dataclass
class Server:
    """One node on loopback: the script of its service, with ports and folders of this machine."""

    group: ProcessGroup
    folder: Path
    node: Node
    routes: list[int]
    password: str
    port: int = field(default_factory=free_port)
    monitor: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def store(self) -> Path:
        return self.folder / self.node.name

    def text(self) -> str:
        """What the task definition says, with the names of AWS replaced by loopback's, and nothing else."""
        text = script(self.node.config(), path=str(self.folder / f"{self.node.name}.conf"))
        replaced = {
            f'"port": {CLIENTS}': f'"port": {self.port}',
            f'"port": {ROUTES}': f'"port": {self.routes[self.node.number]}',
            f"0.0.0.0:{MONITOR}": f"127.0.0.1:{self.monitor}",
            '"0.0.0.0"': '"127.0.0.1"',
            f'"{STORE}"': f'"{self.store}"',
            **{f"{HOST}:{ROUTES + number}": f"127.0.0.1:{port}" for number, port in enumerate(self.routes)},
        }
        for ours, theirs in replaced.items():
            text = text.replace(ours, theirs)
        return text

    @property
    def url(self) -> str:
        return f"nats://{USER}:{self.password}@127.0.0.1:{self.port}"

    def start(self) -> Process:
        path = f"{nats_server_binary().parent}:{os.environ['PATH']}"
        self.process = self.group.start(
            self.node.name,
            ["/bin/sh", "-c", self.text()],
            log_path=self.folder / f"{self.node.name}.log",
            env={"PATH": path, PASSWORD: self.password},
        )
        return self.process

    async def healthy(self) -> None:
        assert self.process is not None
        await wait_until(self._alive, what=f"{self.node.name} to be healthy", timeout_s=60, process=self.process)

    async def _alive(self) -> bool:
        try:
            return bool((await asyncio.to_thread(self.asked, HEALTH_PATH))["status"] == "ok")
        except OSError:
            return False

    def asked(self, path: str) -> dict[str, Any]:
        """What the server's monitoring says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}{path}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def servers_of(group: ProcessGroup, folder: Path, *, nodes: int, password: str) -> list[Server]:
    folder.mkdir(parents=True)
    routes = [free_port() for _ in range(nodes)]
    made = [Node(number=number, nodes=nodes, host=HOST, storage_gib=1) for number in range(nodes)]
    return [Server(group=group, folder=folder, node=node, routes=routes, password=password) for node in made]


@pytest.fixture
def folder(server_dir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = server_dir / f"servers-{abs(hash(request.node.nodeid))}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def end(servers: list[Server]) -> None:
    for server in servers:
        if server.process is not None:
            server.process.kill()


def test_three_nodes_keep_a_stream_that_one_of_them_loses(server_group: ProcessGroup, folder: Path) -> None:
    """A stream has three replicas, and a node whose task is replaced, with its volume, gets it back from the others."""
    servers = servers_of(server_group, folder, nodes=3, password="queue-password_1")

    async def scenario() -> None:
        for server in servers:
            server.start()
        for server in servers:
            await server.healthy()
        client = await nats.connect([server.url for server in servers], connect_timeout=5)
        try:
            stream = client.jetstream()
            await wait_until(lambda: _made(stream), what="a leader of the cluster", timeout_s=60)
            for number in range(50):
                await stream.publish("work.item", b"%d" % number)
            lost = servers[1]
            assert lost.process is not None
            lost.process.kill()
            await lost.process.wait_exit(timeout_s=10)
            shutil.rmtree(lost.store)
            lost.start()
            await lost.healthy()
            # What the leader says of a replica is from before it was lost: the node itself is asked.
            await wait_until(lambda: _holds(lost, 50), what="the node to have the stream again", timeout_s=60)
        finally:
            await client.close()

    try:
        asyncio.run(scenario())
    finally:
        end(servers)


async def _made(stream: Any) -> bool:
    try:
        made = await stream.add_stream(name="WORK", subjects=["work.>"], num_replicas=3)
    except nats.errors.Error:
        return False
    return bool(made.config.num_replicas == 3)


async def _holds(server: Server, messages: int) -> bool:
    found = await asyncio.to_thread(server.asked, "/jsz?streams=true")
    return bool(found["messages"] == messages)


def test_every_write_is_synced_and_nothing_is_told_of_addresses(server_group: ProcessGroup, folder: Path) -> None:
    """The server took `sync_interval: always`; a client is told of no address but the one that it has."""
    servers = servers_of(server_group, folder, nodes=3, password="queue-password_1")

    async def scenario() -> None:
        for server in servers:
            server.start()
        for server in servers:
            await server.healthy()
            config = (await asyncio.to_thread(server.asked, "/jsz?config=true"))["config"]
            assert config["sync_always"] is True
            assert config["max_storage"] < 1 << 30, "some of the volume is the file system's"
        await wait_until(lambda: _joined(servers[0]), what="the nodes to be one cluster", timeout_s=60)
        client = await nats.connect(servers[0].url)
        assert client.discovered_servers == []
        await client.close()

    try:
        asyncio.run(scenario())
    finally:
        end(servers)


async def _joined(server: Server) -> bool:
    found = await asyncio.to_thread(server.asked, "/routez")
    return {route["remote_name"] for route in found["routes"]} == {"nats-1", "nats-2"}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_single_node_takes_the_password_and_no_other(server_group: ProcessGroup, folder: Path, secret: str) -> None:
    """fails when a password is read as a number, a date or a variable. Relight's own queue works on such a node."""
    servers = servers_of(server_group, folder, nodes=1, password=secret)
    (server,) = servers

    async def scenario() -> None:
        server.start()
        await server.healthy()
        async with open_queue(server.url, environment="test") as queue:
            await queue.ensure()
        for wrong in ("other", f"{secret}x"):
            with pytest.raises(nats.errors.Error):
                await nats.connect(
                    server.url.replace(secret, wrong),
                    allow_reconnect=False,
                    max_reconnect_attempts=0,
                    connect_timeout=5,
                )

    try:
        asyncio.run(scenario())
    finally:
        end(servers)


@pytest.mark.parametrize("secret", ["", 'a"b', "a b", "a@b", "$HOME", "`id`", "a\nb"])
def test_a_password_that_could_be_read_otherwise_starts_nothing(
    server_group: ProcessGroup, folder: Path, secret: str
) -> None:
    """The server does not start, says why, and does not say the password."""
    (server,) = servers_of(server_group, folder, nodes=1, password=secret)
    assert server.start().wait(timeout_s=30) == 1
    said = (server.folder / "nats-0.log").read_text()
    assert said == "the password of the queue must be letters, digits, - and _\n"
    assert not (server.folder / "nats-0.conf").exists()


def test_nobody_else_reads_the_password(server_group: ProcessGroup, folder: Path) -> None:
    """It is in no argument, in no variable of the server's own, and in a file for the server alone."""
    servers = servers_of(server_group, folder, nodes=1, password="queue-password_1")
    (server,) = servers
    assert server.password not in script(server.node.config())
    assert CONFIG in script(server.node.config())
    process = server.start()
    try:
        asyncio.run(server.healthy())
        assert (server.folder / "nats-0.conf").stat().st_mode & 0o777 == 0o600
        arguments = open(f"/proc/{process.pid}/cmdline", "rb").read()  # noqa: SIM115, PTH123 - of the kernel
        assert arguments.startswith(b"nats-server\0--config\0")
        assert server.password.encode() not in arguments
    finally:
        end(servers)

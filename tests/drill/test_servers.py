"""PostgreSQL pairs and NATS: real servers that lose power, come back, and are promoted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import psutil
import psycopg2
import pytest
from servers import start_pair

from relight_drill.nats import NatsServer
from relight_drill.postgres import PostgresServer
from relight_drill.processes import DrillError, ProcessGroup, wait_until

if TYPE_CHECKING:
    from servers import StatePair

pytestmark = pytest.mark.servers


def query(dsn: str, text: str) -> Any:
    """The first value of a statement, in a connection of its own."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(text)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


def shared_memory() -> list[int]:
    """The ids of this machine's System V segments."""
    return [int(line.split()[1]) for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]


def test_a_commit_waits_for_the_standby_when_asked(state_pair: StatePair) -> None:
    """The standby streams under the name the primary waits for, so remote_write returns and the row is there."""
    primary, standby = state_pair.primary, state_pair.standby
    seen = "select application_name || ' ' || sync_state from pg_stat_replication"
    assert query(primary.dsn(), seen) == "standby sync"
    query(primary.dsn(), "create table if not exists streamed (n int)")
    query(primary.dsn(options="-c synchronous_commit=remote_apply"), "insert into streamed values (1)")
    assert query(standby.dsn(), "select count(*) from streamed") == 1
    assert query(standby.dsn(), "select pg_is_in_recovery()") is True
    assert query(primary.dsn(), "show fsync") == "on"
    assert query(primary.dsn(), "show synchronous_commit") == "local"


def test_a_wrong_password_is_refused(vector_server: PostgresServer) -> None:
    """TCP connections need the password."""
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(vector_server.dsn(password="wrong"))
    assert query(vector_server.dsn(), "select 1 from pg_available_extensions where name = 'vector'") == 1


def test_a_killed_primary_leaves_a_standby_that_can_be_promoted(server_group: ProcessGroup, server_dir: Path) -> None:
    """Losing the host keeps acknowledged rows in the standby, leaves no process or segment, and can be booted again."""

    async def scenario() -> None:
        pair = await start_pair(server_group, server_dir / "promoted")
        primary, standby = pair.primary, pair.standby
        query(primary.dsn(options="-c synchronous_commit=remote_write"), "create table kept as select 7 as n")
        family = [primary.process.pid, *(p.pid for p in psutil.Process(primary.process.pid).children(recursive=True))]
        segment = primary._shared_memory()
        assert segment in shared_memory()
        assert len(family) > 3
        primary.kill()
        assert not [pid for pid in family if psutil.pid_exists(pid)]
        assert segment not in shared_memory()
        assert query(standby.dsn(), "select pg_promote(true, 20)") is True
        assert query(standby.dsn(), "select n from kept") == 7
        query(standby.dsn(), "insert into kept values (8)")
        await primary.start()
        assert query(primary.dsn(), "select max(n) from kept") == 7
        await primary.stop()
        await standby.stop(immediate=True)
        assert not primary.running
        assert not standby.running

    asyncio.run(scenario())


def test_a_destroyed_volume_comes_back_empty_at_the_same_address(server_group: ProcessGroup, server_dir: Path) -> None:
    """What a vector store that lost its volume looks like: same address, same password, no data."""

    async def scenario() -> None:
        server = PostgresServer(server_group, server_dir / "lost", name="lost", database="memory")
        await server.create()
        dsn = server.dsn()
        query(dsn, "create table mine as select 1 as n")
        server.destroy()
        assert not server.data_dir.exists()
        await server.create()
        assert server.dsn() == dsn
        assert query(dsn, "select to_regclass('mine')") is None
        with pytest.raises(DrillError, match="exists already"):
            await server.create()
        server.destroy()

    asyncio.run(scenario())


def test_a_closed_folder_is_named(server_group: ProcessGroup, tmp_path: Path) -> None:
    """fails when root's servers could not enter their folder, and the error names the folder that is closed."""
    if not Path("/root").is_dir() or tmp_path.owner() != "root":
        pytest.skip("only root has to change its user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(DrillError, match="may not enter"):
        asyncio.run(PostgresServer(server_group, closed / "data", name="x", database="x").create())


def test_acknowledged_messages_survive_a_killed_nats(server_group: ProcessGroup, server_dir: Path) -> None:
    """A message that JetStream acknowledged is there after SIGKILL and a start over the same store."""

    async def scenario() -> None:
        server = NatsServer(server_group, server_dir / "nats-killed", name="killed")
        await server.start()
        client = await nats.connect(server.url(), allow_reconnect=False)
        stream = client.jetstream()
        await stream.add_stream(name="kept", subjects=["kept.>"])
        await asyncio.gather(*(stream.publish("kept.it", str(n).encode()) for n in range(20)))
        await client.close()
        server.kill()
        await server.start()
        client = await nats.connect(server.url(), allow_reconnect=False)
        info = await client.jetstream().stream_info("kept")
        assert info.state.messages == 20
        await client.close()
        await server.stop()
        assert not server.running

    asyncio.run(scenario())


def test_nats_refuses_a_client_without_the_password(nats_server: NatsServer) -> None:
    """The server asks for its user and password."""

    async def scenario() -> None:
        with pytest.raises(nats.errors.Error):
            await nats.connect(f"nats://127.0.0.1:{nats_server.port}", allow_reconnect=False, connect_timeout=3)

    asyncio.run(scenario())


def test_a_frozen_server_keeps_its_connections(server_group: ProcessGroup, vector_server: PostgresServer) -> None:
    """A frozen tree answers nothing and resumes where it was when it is thawed."""

    async def scenario() -> None:
        connection = await asyncio.to_thread(psycopg2.connect, vector_server.dsn())
        try:
            vector_server.process.freeze()
            pending = asyncio.create_task(asyncio.to_thread(connection.cursor().execute, "select 1"))
            done, _ = await asyncio.wait({pending}, timeout=0.3)
            assert not done
            vector_server.process.thaw()
            await asyncio.wait_for(pending, 20)
        finally:
            vector_server.process.thaw()
            connection.close()

    asyncio.run(scenario())


def test_waiting_for_the_standby_is_bounded(state_pair: StatePair) -> None:
    """The primary sees how far its standby got."""

    async def scenario() -> None:
        await wait_until(
            lambda: query(state_pair.primary.dsn(), "select bool_and(replay_lsn is not null) from pg_stat_replication"),
            what="the standby to report its position",
            timeout_s=20,
        )

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["running", "frozen"])
def test_a_closed_group_leaves_no_segment_of_a_server_behind(way: str, server_dir: Path) -> None:
    """A server that runs, or is frozen, when its group closes goes in a way that frees its shared memory."""

    async def scenario(group: ProcessGroup) -> int | None:
        server = PostgresServer(group, server_dir / f"closed-{way}", name="closed", database="x")
        await server.create()
        connection = await asyncio.to_thread(psycopg2.connect, server.dsn())
        if way == "frozen":
            server.process.freeze()
        segment = server._shared_memory()
        group.close()
        connection.close()
        return segment

    segment = asyncio.run(scenario(ProcessGroup()))
    assert segment is not None
    assert segment not in shared_memory()

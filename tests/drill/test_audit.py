"""The audit's look at real databases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from relight.errors import UnconfirmedError
from relight.recovery.replica import PhysicalReplica
from relight.tasks.database import Database
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Ledger
from relight.tasks.migrate import migrate
from relight_drill.audit import divergence, read_books
from relight_drill.network import Link, Mode
from relight_drill.postgres import STANDBY_NAME, PostgresServer

if TYPE_CHECKING:
    from pathlib import Path

    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers


def work_before_the_fault(dsn: str) -> None:
    database = Database(dsn)
    migrate(database)
    EpochLog(database).take(1, region="us-east-1", run_id="first")
    Ledger(database, epoch=lambda: 1).start_task({}, id_="safe")
    database.close()


def work_in_silence(dsn: str) -> None:
    database = Database(dsn, confirm_timeout_s=0.5)
    for name in ("lost", "again"):
        with pytest.raises(UnconfirmedError):
            Ledger(database, epoch=lambda: 1).start_task({}, id_=name)
    database.close()


def work_after_the_recovery(dsn: str) -> None:
    PhysicalReplica(dsn).promote()
    database = Database(dsn)
    EpochLog(database).take(2, region="us-west-2", run_id="r")
    Ledger(database, epoch=lambda: 2).start_task({}, id_="again")
    database.close()


def test_what_never_reached_the_standby_is_divergence(server_group: ProcessGroup, server_dir: Path) -> None:
    """A task that was committed and never acknowledged is listed, also when a caller submitted it again meanwhile."""
    folder = server_dir / "audit"
    folder.mkdir(mode=0o711)
    settings = {"synchronous_standby_names": STANDBY_NAME}
    primary = PostgresServer(server_group, folder / "primary", name="old", database="relight", settings=settings)
    standby = PostgresServer(server_group, folder / "standby", name="new", database="relight")

    async def scenario() -> None:
        link = Link(primary.port)
        await link.start()
        await primary.create()
        await standby.base_backup(primary, source_port=link.port)
        await standby.start()
        await asyncio.to_thread(work_before_the_fault, primary.dsn())
        await link.set_mode(Mode.SILENT)
        await asyncio.to_thread(work_in_silence, primary.dsn())
        primary.kill()
        await asyncio.to_thread(work_after_the_recovery, standby.dsn())
        await primary.start()
        await link.close()

    asyncio.run(scenario())
    assert divergence(primary.dsn(), standby.dsn()) == {"tasks": ["again", "lost"], "memories": [], "effects": []}
    assert read_books(standby.dsn()).tasks == {"safe": "pending", "again": "pending"}
    for server in (primary, standby):
        asyncio.run(server.stop(immediate=True))

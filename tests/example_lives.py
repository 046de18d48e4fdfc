"""What the tests of the examples share: the world of one agent, whose lives are ended and looked into."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from examples.common import Place, apply_journal
from examples.mailserver import MailServer
from examples.models import Models
from examples.run import prepare
from examples.web import SPEC, Web

from relight.memory.pgvector import PgVectorStore
from relight.tasks.database import Database
from relight.tasks.effects import Effect, Effects, EffectStatus
from relight.tasks.ledger import Ledger, Status, Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import Process, ProcessGroup

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 90.0


class Scene:
    """An agent's world: databases and a mailbox of its own, and the processes of its lives.

    `hold` is where the mail server stops at its first mail: when it "arrived" and is then lost, or when it is "kept"
    and is then not acknowledged.
    """

    def __init__(
        self,
        group: ProcessGroup,
        postgres: PostgresServer,
        folder: Path,
        *,
        hold: str = "",
        crash_after: str = "",
        imap: bool = True,
        queue_url: str = "",
    ) -> None:
        name = f"example_{secrets.token_hex(4)}"
        folder.mkdir()
        if not (folder.parent / "web.json").exists():  # the web is read once for all
            Web(folder.parent).search("anything")
        shutil.copy(folder.parent / "web.json", folder)
        self._group = group
        self._hold = hold
        self.holding, self.release = threading.Event(), threading.Event()
        self.mail = MailServer(folder / "mail", on_mail=self._on_mail)
        self.mail.start()
        self.models = Models()
        self.models.start()
        make_databases(postgres, name)
        self.place = Place(
            folder=folder,
            state_dsn=postgres.dsn(name),
            memory_dsn=postgres.dsn(f"{name}_memory"),
            smtp_port=self.mail.smtp[1],
            imap_port=self.mail.imap[1] if imap else 0,
            cloud_port=self.models.cloud.port,
            local_port=self.models.local.port,
            queue_url=queue_url,
            environment=name.replace("_", "-"),
            claim_s=5.0,
            mail_s=2.0,
            begin_within_s=2.0,
            crash_after=crash_after,
        )
        self.database = Database(self.place.state_dsn)
        self.ledger = Ledger(self.database, epoch=lambda: 1)

    def close(self) -> None:
        """Let go of everything."""
        self.release.set()
        self.mail.close()
        self.models.close()
        self.database.close()

    def _on_mail(self, moment: str) -> None:
        if moment == self._hold and not self.holding.is_set():
            self.holding.set()
            self.release.wait(PATIENCE_S)
            raise ConnectionAbortedError

    def start(self, module: str, *arguments: str, name: str = "agent", crashes: bool = True) -> Process:
        """A life of the agent; what it says is in `said(name)`."""
        place = self.place if crashes else replace(self.place, crash_after="")
        return self._group.start(
            name,
            [sys.executable, "-P", "-m", module, *arguments],
            log_path=self.place.folder / f"{name}.out",
            env={**os.environ, **place.to_env(), "PYTHONPATH": str(ROOT)},
        )

    def said(self, name: str) -> str:
        """Everything that process said."""
        return (self.place.folder / f"{name}.out").read_text()

    # -- what there is in the end

    def results(self, task_id: str) -> dict[str, Any]:
        """The results of the task's finished steps, by key."""
        steps = self.ledger.steps(self.ledger.task(task_id))
        return {key: step.result for key, step in steps.items() if step.done}

    def effects(self, *statuses: EffectStatus) -> list[Effect]:
        """The effects in these statuses."""
        return Effects(self.ledger).list(statuses)

    def wait_for(self, task_id: str, status: Status) -> Task:
        """Wait until the task is in that status."""
        until = time.monotonic() + PATIENCE_S
        while True:
            found = self.ledger.tasks([status], limit=1000)
            if any(task.id == task_id for task in found):
                return self.ledger.task(task_id)
            assert time.monotonic() < until, f"{task_id} did not become {status}"
            time.sleep(0.1)

    def check_mailed_once(self, task_id: str) -> str:
        """One mail was accepted, it is the task's effect, and holds the summary that the ledger has; its body."""
        summary = self.results(task_id)["summarise"]
        [effect] = self.effects(EffectStatus.DONE)
        [message] = self.mail.messages()
        payload = message.get_payload(decode=True)
        assert isinstance(payload, bytes)
        assert payload.decode().replace("\r\n", "\n").strip() == summary
        assert message["Message-ID"] == f"<{effect.key[:32]}@agent.example>"
        assert effect.task_id == task_id
        assert self.effects(EffectStatus.INTENT, EffectStatus.UNKNOWN, EffectStatus.FAILED) == []
        return str(summary)

    def check_remembered(self, *task_ids: str) -> None:
        """Each of these tasks, and no other, wrote one memory; and the vector store has them once it was brought up to
        the journal: what commits beside a transaction of another scene is not read before that has ended."""
        with self.database.transaction() as cur:
            cur.execute("select task_id from relight.journal order by task_id")
            assert [row[0] for row in cur.fetchall()] == sorted(task_ids)
        with closing(PgVectorStore(self.place.memory_dsn)) as store:
            until = time.monotonic() + PATIENCE_S
            while True:
                apply_journal(store, self.place.state_dsn)
                found = store.describe(SPEC.name)
                assert found is not None
                if found.points == len(task_ids) or time.monotonic() > until:
                    break
                time.sleep(0.1)
            assert found.points == len(task_ids)


def make_databases(postgres: PostgresServer, name: str) -> None:
    """A migrated state database, and an empty one for memory; the migrations run once for all."""
    with closing(psycopg2.connect(postgres.dsn())) as connection, connection.cursor() as cur:
        connection.autocommit = True
        cur.execute("select from pg_database where datname = 'example_template'")
        if cur.rowcount == 0:
            cur.execute("create database example_template")
            prepare(postgres.dsn("example_template"))
        cur.execute(f"create database {name} template example_template")
        cur.execute(f"create database {name}_memory")


def at_once(calls: list[Callable[[], None]]) -> None:
    """Make all calls in threads of their own, and raise what one of them raised."""
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

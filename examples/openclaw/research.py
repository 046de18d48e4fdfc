"""A research agent on checkpointed steps: search, summarise, mail a report; one process, no queue.

Kill it anywhere and start it again: it goes on behind the last step that it finished, with that step's result. The
report that is mailed is the one that an earlier life wrote, and it is mailed once.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from examples import models
from examples.common import OnlyRegion, Place, add_effects, apply_journal, log_to, plainly, resolve, say, show_unknown
from examples.web import SPEC, Web, embed

from relight.clock import SystemClock
from relight.config import MemoryStore
from relight.errors import RelightError, UnavailableError
from relight.memory.api import Memory, Point
from relight.memory.stores import open_store
from relight.providers.blocking import Router
from relight.tasks.database import Database
from relight.tasks.effects import Effects
from relight.tasks.ledger import ENDED, MAX_ATTEMPTS, Ledger, Status, Task
from relight.tasks.migrate import check_schema
from relight.tasks.steps import Retry, TaskRun
from relight.tasks.verdict import give_back, judge

if TYPE_CHECKING:
    from psycopg2.extensions import cursor

READER = "you@home.example"
RETRY = Retry()
UNFINISHED = (Status.PENDING, Status.RUNNING)


class Researcher:
    """The agent. Everything that a restart must not lose is in its ledger."""

    def __init__(self, place: Place, database: Database) -> None:
        self.place = place
        self.lease = OnlyRegion()
        self.ledger = Ledger(database, epoch=lambda: self.lease.epoch)
        self.store = open_store(MemoryStore.PGVECTOR, place.memory_dsn)
        self.store.ensure(SPEC)
        self.memory = Memory(store=self.store, spec=SPEC)
        self.web = Web(place.folder)
        self.mail = place.mail()
        self.models = Router(lambda: models.router(place.cloud_port, place.local_port))

    def close(self) -> None:
        """Let go of the models."""
        self.models.close()

    def report(self, run: TaskRun) -> dict[str, Any]:
        """The work itself: three steps, of which each is done once, however often this function is begun."""
        topic = run.task.payload["topic"]
        self.place.crash("claim")

        with run.step("search") as step:  # a step as a block
            if step.done:
                say("  search: an earlier life did it")
            else:
                say(f"  search: reading the web about {topic!r}")
                step.save(self.search(topic))
        found = step.result
        self.place.crash("search")

        summary = run.run(  # a step as a function; what it learned is remembered in the same transaction
            "summarise",
            lambda: self.summarise(topic, found),
            remember=lambda cur, text: self.remember(cur, run, topic, text),
        )
        self.place.crash("summarise")

        # The outside world: intent first, then the call, then what became of it. The request must be the same in every
        # life, so nothing in it is looked up, made up or dated here: it all comes from steps and the payload.
        say("  mail: sending the report, unless it was sent")
        run.effect(self.mail, {"to": READER, "subject": f"Report: {topic}", "body": summary})
        self.place.crash("mail")
        return {"summary": summary, "sources": [page["url"] for page in found]}

    def search(self, topic: str) -> list[dict[str, str]]:
        """The web, and what earlier reports found."""
        with self.ledger.database.transaction() as cur:
            known = self.memory.search(cur.connection, embed([topic])[0], k=2)
        remembered = [{"url": f"memory:{hit.id}", "text": (hit.payload or {}).get("text", "")} for hit in known]
        return self.web.search(topic) + remembered

    def summarise(self, topic: str, found: list[dict[str, str]]) -> str:
        """Ask a language model: the first that can be asked. While none can, it raises, and the task waits."""
        answer = self.models.complete(models.request(topic, [page["text"] for page in found]))
        by = f"{answer.provider}, a fallback" if answer.degraded else answer.provider
        say(f"  summarise: {answer.text.splitlines()[-1]} of {len(found)} pages, by {by}")
        return answer.text

    def remember(self, cur: cursor, run: TaskRun, topic: str, summary: str) -> None:
        """Learn the summary when the step's result is committed, and not otherwise."""
        point = Point(id=run.task.id, vector=embed([summary])[0], payload={"topic": topic, "text": summary})
        self.memory.upsert(cur, [point], epoch=run.epoch, task_id=run.task.id)

    # -- the loop that a queue's worker has built in

    def work(self) -> None:
        """Do everything that is due, whatever life began it, and come back when nothing is left that can be done."""
        waiting = ""
        while True:
            claimed_at = time.monotonic()
            try:
                claimed = self.ledger.claim_due(1, worker=f"openclaw/{os.getpid()}", lease_s=self.place.claim_s)
                # What waits is looked for once, in the whole backlog; then it is enough to look whether it still does.
                if not claimed and (not waiting or self.ledger.status(waiting)[0] not in UNFINISHED):
                    left = self.ledger.tasks(UNFINISHED, limit=1)
                    if not left:
                        return
                    waiting = left[0].id
                    say(f"{waiting}: waiting until an earlier life's claim has run out, or it is due again")
            except UnavailableError as exc:
                say(f"the ledger is away, and is asked again: {exc}")
                time.sleep(1.0)
                continue
            for task in claimed:
                self.live(task, claimed_at)
            if not claimed:
                time.sleep(0.2)

    def live(self, task: Task, claimed_at: float) -> None:
        """One life of a task. What is raised decides whether it is tried again, or waits for a person."""
        say(f"{task.id}: life {task.attempts}")
        run = TaskRun(
            self.ledger,
            task,
            lease=self.lease,
            clock=SystemClock(),
            claim_s=self.place.claim_s,
            claimed_at=claimed_at,
            begin_within_s=self.place.begin_within_s,
        )
        try:
            run.finish(self.report(run))
        except Exception as exc:  # noqa: BLE001 - an agent's step may raise anything
            verdict = judge(exc, attempts=task.attempts, max_attempts=MAX_ATTEMPTS, retry=RETRY, chance=random.Random())
            say(f"{task.id}: {type(verdict).__name__.lower()}: {verdict.reason}")
            try:
                give_back(self.ledger, task, verdict)
            except RelightError as failed:  # its claim runs out by itself
                say(f"{task.id}: could not be given back: {failed}")
        else:
            apply_journal(self.store, self.place.state_dsn)
            say(f"{task.id}: done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topic", nargs="?", help="what to look into; without it, only go on with what is unfinished")
    parser.add_argument("--id", help="the task's id (default: the topic and the day, so one report a day on each)")
    add_effects(parser)
    args = parser.parse_args()
    place = Place.from_env()
    log_to(place.folder / "agent.log")
    with plainly(), closing(Database(place.state_dsn)) as database:
        check_schema(database)  # a Worker does so by itself
        with closing(Researcher(place, database)) as agent:
            effects = Effects(agent.ledger)
            resolve(effects, args)
            if args.topic:
                id_ = args.id or f"report/{datetime.now(UTC):%Y-%m-%d}/{args.topic}"
                task = agent.ledger.start_task({"topic": args.topic}, id_=id_)
                if task.status in ENDED:
                    say(f"{task.id}: {task.status} already, and nothing is done again")
            agent.work()
            show_unknown(effects)


if __name__ == "__main__":
    main()

"""A worker of the research agent: takes tasks off JetStream, among any number of its kind.

A report is one task, what it delegates are tasks of their own, and so is the mail in the end: other workers take them.
Kill any worker at any moment: when its claim has run out, another goes on behind the last step that it finished.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from examples.common import OnlyRegion, Place, apply_journal, log_to, say
from examples.web import SPEC, Web, embed, summarise

from relight.clock import SystemClock
from relight.config import MemoryStore
from relight.memory.api import Memory, Point
from relight.memory.stores import open_store
from relight.queue.queues import open_queue
from relight.tasks.database import Database
from relight.tasks.ledger import Ledger
from relight.tasks.steps import Retry
from relight.tasks.worker import Worker

if TYPE_CHECKING:
    from psycopg2.extensions import cursor

    from relight.tasks.aio import AsyncTaskRun

READER = "you@home.example"
ASPECTS = ("errors and exceptions", "how it is configured", "what it returns")


class Researcher:
    """The agent. Its tools are the methods that steps call."""

    def __init__(self, place: Place, database: Database, *, name: str) -> None:
        self.name = name
        self.place = place
        self.lease = OnlyRegion()
        self.ledger = Ledger(database, epoch=lambda: self.lease.epoch)
        self.store = open_store(MemoryStore.PGVECTOR, place.memory_dsn)
        self.store.ensure(SPEC)
        self.memory = Memory(store=self.store, spec=SPEC)
        self.web = Web(place.folder)
        self.mail = place.mail()
        self.kinds = {"report": self.report, "research": self.research, "mail": self.send}

    def worker(self) -> Worker:
        """What fetches, claims, renews, retries, parks and acknowledges."""
        return Worker(
            self.ledger,
            lease=self.lease,
            connect=lambda: open_queue(
                self.place.queue_url, environment=self.place.environment, ack_wait_s=self.place.claim_s + 1.0
            ),
            handler=self.handle,
            name=self.name,
            clock=SystemClock(),
            claim_s=self.place.claim_s,
            retry=Retry(first_s=0.5, at_most_s=30.0),
        )

    async def handle(self, run: AsyncTaskRun) -> Any:
        """One life of one task; what it returns is the task's result."""
        self.tell(run, f"life {run.task.attempts}")
        result = await self.kinds[run.task.payload["do"]](run)
        await asyncio.to_thread(apply_journal, self.store, self.place.state_dsn)
        self.tell(run, "done")
        return result

    async def report(self, run: AsyncTaskRun) -> dict[str, Any]:
        """Delegate. Nobody waits for the answers: who finds the last of them starts the mail."""
        topic, mail_id = run.task.payload["topic"], f"{run.task.id}/mail"
        # The ids follow from this task's: started again by a later life, they are the same tasks.
        children = {f"{run.task.id}/{n}": f"{topic}: {aspect}" for n, aspect in enumerate(ASPECTS, 1)}
        after = {"do": "mail", "topic": topic, "answers": [*children]}
        for id_, goal in children.items():
            await self.start({"do": "research", "goal": goal, "then": {"id": mail_id, "payload": after}}, id_)
            self.place.crash("delegate")
        return {"answers": [*children], "then": mail_id}

    async def research(self, run: AsyncTaskRun) -> str:
        """Search, remember what was found together with the step, and start the mail if this was the last answer."""
        goal, then = run.task.payload["goal"], run.task.payload["then"]
        found = await run.run("search", lambda: self.search(run, goal))
        self.place.crash("search")
        answer: str = await run.run(
            "answer",
            lambda: " ".join(page["text"].partition("\n\n")[0] for page in found),
            remember=lambda cur, text: self.remember(cur, run, goal, text),
        )
        self.place.crash("answer")
        # Looked at after this answer was committed: of two that end at once, one at least sees both.
        if None not in await self.answers(then["payload"]["answers"]):
            await self.start(then["payload"], then["id"])
        return answer

    async def send(self, run: AsyncTaskRun) -> dict[str, Any]:
        """Summarise the answers, and mail the summary."""
        topic = run.task.payload["topic"]
        answers = await self.answers(run.task.payload["answers"])
        summary = await run.run(
            "summarise",
            lambda: self.summarise(run, topic, [answer or "" for answer in answers]),
            remember=lambda cur, text: self.remember(cur, run, topic, text),
        )
        self.place.crash("summarise")
        self.tell(run, "mail: sending the report, unless it was sent")
        # The request has to be the same in every life: it comes from the payload and from steps, and holds no date.
        await run.effect(self.mail, {"to": READER, "subject": f"Report: {topic}", "body": summary})
        self.place.crash("mail")
        return {"summary": summary}

    # -- what the steps call

    async def start(self, payload: dict[str, Any], id_: str) -> None:
        """Start a task, or find that it was started."""
        await asyncio.to_thread(self.ledger.start_task, payload, id_=id_)

    async def answers(self, ids: list[str]) -> list[str | None]:
        """What was answered so far, in the order of the ids."""

        def read(id_: str) -> str | None:
            step = self.ledger.steps(self.ledger.task(id_)).get("answer")
            return step.result if step is not None and step.done else None

        return await asyncio.gather(*(asyncio.to_thread(read, id_) for id_ in ids))

    def search(self, run: AsyncTaskRun, goal: str) -> list[dict[str, str]]:
        """The web."""
        self.tell(run, f"search: reading the web about {goal!r}")
        return self.web.search(goal, limit=3)

    def summarise(self, run: AsyncTaskRun, topic: str, texts: list[str]) -> str:
        """What a language model would do."""
        summary = summarise(topic, texts)
        self.tell(run, f"summarise: {summary.splitlines()[-1]} of {len(texts)} answers")
        return summary

    def remember(self, cur: cursor, run: AsyncTaskRun, topic: str, text: str) -> None:
        """Learn it when the step's result is committed, and not otherwise."""
        point = Point(id=run.task.id, vector=embed([text])[0], payload={"topic": topic, "text": text})
        self.memory.upsert(cur, [point], epoch=run.epoch, task_id=run.task.id)

    def tell(self, run: AsyncTaskRun, text: str) -> None:
        """Tell the user who does what."""
        say(f"{self.name} {run.task.id}: {text}")


async def work(place: Place, name: str) -> None:
    """Work until SIGTERM; what is under way then is given back at once."""
    with closing(Database(place.state_dsn)) as database:
        working = asyncio.create_task(Researcher(place, database, name=name).worker().run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
        await asyncio.gather(working, return_exceptions=True)


def main() -> None:
    place, name = Place.from_env(), sys.argv[1]
    log_to(place.folder / f"{name}.log")
    asyncio.run(work(place, name))


if __name__ == "__main__":
    main()

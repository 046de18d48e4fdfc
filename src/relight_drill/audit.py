"""The audit after a scenario: what was lost, what was done twice, what diverged.

It compares what was acknowledged with what the new primary, its vector store and the outbox have. It reads no setting.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.adapters import postgres
from relight.memory.vectors import unpack
from relight.tasks.divergence import divergence as compare
from relight_drill.result import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from relight.memory.store import VectorStore
    from relight_drill.workload import Record

# Texts that stand in several places have one vector; this many of them may be as near as the one that is looked for.
_NEIGHBOURS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One message in the outbox. `digest` is of what was sent; `task` is the task that sent it."""

    digest: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What became of everything that was acknowledged, and of everything that was sent.

    `missing` has what is lost: by kind and id, when it was acknowledged; None where no caller was told.
    """

    acknowledged: Tally
    missing: Mapping[str, Mapping[str, float | None]]
    unfinished: tuple[str, ...]
    duplicated_effects: int
    rpo_s: float

    @property
    def lost(self) -> Tally:
        """What is lost, counted."""
        return Tally(**{kind: len(names) for kind, names in self.missing.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What a state database holds."""

    tasks: Mapping[str, str]
    memories: Mapping[str, bytes]
    effects: Mapping[str, str]


def read_books(dsn: str) -> Books:
    """Status by task, vector by memory, and by task the status of its effect."""
    with closing(postgres.connect(dsn)) as conn, conn.cursor() as cur, postgres.translating():
        cur.execute("select id, status from relight.tasks")
        tasks = dict(cur.fetchall())
        cur.execute("select id, vector from relight.journal where op = 'upsert' order by xid, seq")
        memories = {row[0]: bytes(row[1]) for row in cur.fetchall()}
        cur.execute("select task_id, status from relight.effects")
        effects = dict(cur.fetchall())
    return Books(tasks=tasks, memories=memories, effects=effects)


def read_summaries(dsn: str) -> dict[str, Any]:
    """By task, what its step `summarise` stored."""
    with closing(postgres.connect(dsn)) as conn, conn.cursor() as cur, postgres.translating():
        cur.execute("select task_id, result from relight.steps where name = 'summarise' and result is not null")
        return dict(cur.fetchall())


def memories_expected(record: Record, *, corpus: Mapping[str, float], books: Books) -> dict[str, float]:
    """Every memory that was acknowledged, and when: what callers told, what was there before them, and what the agent
    learned in a finished task, which was no sooner than the task was acknowledged."""
    reports = {f"report/{name}": at for name, at in record.tasks.items() if books.tasks.get(name) == "done"}
    return {**corpus, **record.memories, **reports}


def audit(
    record: Record,
    *,
    memories: Mapping[str, float],
    books: Books,
    recalled: frozenset[str],
    outbox: Sequence[Sent],
    fault_at: float,
) -> Audit:
    """Set what was acknowledged beside what is there now.

    A task is lost when the ledger does not have it, and one of `memories` when the vector store does not give it back.
    An effect is lost when its task is done and nothing was sent, or when it was sent and the ledger has no trace of it.
    A second message of one task is a duplicate, whatever it says. `unfinished` are acknowledged tasks that are there
    and not done.
    """
    sent = Counter(message.task or message.digest for message in outbox)
    performed = {name for name in record.tasks if books.tasks.get(name) == "done"}
    effects = performed | sent.keys()
    missing: dict[str, dict[str, float | None]] = {
        "tasks": {name: at for name, at in record.tasks.items() if name not in books.tasks},
        "memories": {name: at for name, at in memories.items() if name not in recalled},
        "effects": {name: record.tasks.get(name) for name in effects if name not in sent or name not in books.effects},
    }
    since = [at for names in missing.values() for at in names.values() if at is not None]
    return Audit(
        acknowledged=Tally(tasks=len(record.tasks), memories=len(memories), effects=len(effects)),
        missing=missing,
        unfinished=tuple(sorted(name for name in record.tasks if name in books.tasks and books.tasks[name] != "done")),
        duplicated_effects=sum(sent.values()) - len(sent),
        rpo_s=max(0.0, fault_at - min(since, default=fault_at)),
    )


def unacknowledged(diverged: Mapping[str, Sequence[str]], found: Audit, *, fault_at: float) -> dict[str, list[str]]:
    """Of what diverged, that which nobody had been told of before the fault; the rest is lost, and counted as that."""

    def told(kind: str, name: str) -> bool:
        at = found.missing[kind].get(name, fault_at)
        return at is None or at < fault_at

    return {kind: [name for name in names if not told(kind, name)] for kind, names in diverged.items()}


def divergence(old_dsn: str, new_dsn: str) -> dict[str, list[str]]:
    """What the old primary had committed that never reached the new one, by kind: ids, and of effects their tasks."""
    with closing(postgres.connect(old_dsn)) as old, closing(postgres.connect(new_dsn)) as new:
        found = compare(old, new)
    return {
        "tasks": sorted(task.id for task in found.tasks if task.here is None),
        "memories": sorted({memory.id for memory in found.memories}),
        "effects": sorted({effect.task_id for effect in found.effects}),
    }


def recalled(store: VectorStore, collection: str, memories: Mapping[str, bytes]) -> frozenset[str]:
    """Which of these the vector store gives back when it is asked with their own vectors; none without a collection."""
    if store.describe(collection) is None:
        return frozenset()
    return frozenset(
        name
        for name, vector in memories.items()
        if name in {hit.id for hit in store.search(collection, unpack(vector), _NEIGHBOURS).hits}
    )

"""The audit after a scenario: what was lost, what was done twice, what diverged.

It compares what callers were told with what the new primary and the outbox have, and reads no setting.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.adapters import postgres
from relight.memory.vectors import unpack
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
    """What became of everything that callers were told, and of everything that was sent."""

    acknowledged: Tally
    lost: Tally
    lost_ids: tuple[str, ...]
    unfinished: tuple[str, ...]
    duplicated_effects: int
    rpo_s: float


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


def audit(
    record: Record, *, books: Books, recalled: frozenset[str], outbox: Sequence[Sent], fault_at: float | None
) -> Audit:
    """Set what callers were told beside what is there now.

    A task is lost when the ledger does not have it, a memory when the vector store does not, an effect when it was sent
    and the ledger has no trace of it. `unfinished` are acknowledged tasks that are there and not done.
    """
    lost_tasks = {name: at for name, at in record.tasks.items() if name not in books.tasks}
    lost_memories = {name: at for name, at in record.memories.items() if name not in recalled}
    lost_effects = {message.task for message in outbox if message.task not in books.effects}
    missing_since = [*lost_tasks.values(), *lost_memories.values()]
    missing_since += [record.tasks[name] for name in lost_effects if name in record.tasks]
    return Audit(
        acknowledged=Tally(
            tasks=len(record.tasks), memories=len(record.memories), effects=len({message.task for message in outbox})
        ),
        lost=Tally(tasks=len(lost_tasks), memories=len(lost_memories), effects=len(lost_effects)),
        lost_ids=tuple(sorted([*lost_tasks, *lost_memories, *lost_effects])),
        unfinished=tuple(sorted(name for name in record.tasks if name in books.tasks and books.tasks[name] != "done")),
        duplicated_effects=sum(count - 1 for count in Counter(message.digest for message in outbox).values()),
        rpo_s=0.0 if fault_at is None or not missing_since else max(0.0, fault_at - min(missing_since)),
    )


def divergence(old_dsn: str, new_dsn: str) -> dict[str, list[str]]:
    """What the old primary had committed that never reached the new one, by kind.

    Rows are told apart by when they were made as well as by their ids: a task that a caller submitted again after the
    recovery has the same id and is another row.
    """
    queries = {
        "tasks": "select id, created_at from relight.tasks",
        "memories": "select id, at from relight.journal",
        "effects": "select task_id, intended_at from relight.effects",
    }
    found = {}
    for kind, query in queries.items():
        old, new = _rows(old_dsn, query), _rows(new_dsn, query)
        found[kind] = sorted({row[0] for row in old - new})
    return found


def recalled(store: VectorStore, collection: str, memories: Mapping[str, bytes]) -> frozenset[str]:
    """Which of these the vector store gives back when it is asked with their own vectors; none without a collection."""
    if store.describe(collection) is None:
        return frozenset()
    return frozenset(
        name
        for name, vector in memories.items()
        if name in {hit.id for hit in store.search(collection, unpack(vector), _NEIGHBOURS).hits}
    )


def _rows(dsn: str, query: str) -> set[tuple[Any, ...]]:
    with closing(postgres.connect(dsn)) as conn, conn.cursor() as cur, postgres.translating():
        cur.execute(query)
        return set(cur.fetchall())

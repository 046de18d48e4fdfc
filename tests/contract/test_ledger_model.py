"""The ledger against a simple model: workers, crashes, promotions, wiped queues and replays, in any order.

The model is what the documentation says, in plain Python: one thing happens at a time, and every worker that was ever
made may still write. Time passes in jumps of a minute or of eight days, by moving the stored times back; all that a
worker measures by itself it measures on a clock that jumps with them. What happens at the same time, the kill sweep
looks at.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from fakes import FakeClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from memory_helpers import make_state
from runtime_helpers import sql

from relight.clock import SystemClock
from relight.errors import (
    AgainLaterError,
    ConflictError,
    LeaseLostError,
    RelightError,
    StaleEpochError,
    UnavailableError,
)
from relight.queue.port import ACK_WAIT_S, DEDUPE_WINDOW_S, MAX_AGE_S, Ticket
from relight.tasks import ledger as ledger_module
from relight.tasks.database import Database
from relight.tasks.effects import (
    Answer,
    Effects,
    NotSentError,
    RefusedError,
    TooSoonError,
    UnansweredError,
    UnknownEffectError,
    effect_key,
)
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import SUSPICIOUS_ATTEMPTS, Kind, Ledger, Status, Task
from relight.tasks.replay import replay
from relight.tasks.steps import Retry, StepFailedError, TaskRun
from relight.tasks.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from servers import StatePair

    from relight.queue.port import TaskQueue

pytestmark = pytest.mark.servers

CLAIM_S, BEGIN_S, TOOL_S = 30.0, 10.0, 1.0
# No sum of minutes is one of the limits.
MINUTE, LONG = 70.0, 8 * 86400.0
HONOURS_S = 86400.0
MAX_ATTEMPTS = 5
FAILURES = 3
SENDS_AFTER_S = 900.0
# What a task may wait for, and how much later at most all come but the first: not until the next minute.
PROVIDER, BEHIND = "provider:p", 0.3
GRACE_S = 3 * ACK_WAIT_S
TASKS = ("a", "b", "c")
STEPS = ("one", "two")
TOOLS = ("asked", "blind", "keyed")
# How a sending ends: the tool acts or not, answers or not, or says that it did not act; or the worker dies.
OUTCOMES = ("ok", "lost", "dropped", "refused", "closed", "dies before", "dies after", "promoted meanwhile")
# When others go on with the task, after some time: never, while its worker stands still with the answer, or afterwards.
OTHERS = ("", "meanwhile", "afterwards", "afterwards")
# Every failed step is one for later, so that no test waits.
RETRY = Retry(attempts=FAILURES, first_s=100.0, factor=1.0, at_most_s=100.0, jitter=0.0, here_s=0.0)


class DiedError(BaseException):
    """The worker's process is gone."""


WAYS = ("finish", "release", "give back", "later", "wait", "park", "crash")
PICK = st.integers(0, 5)


def event(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


def of(*items: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(items)


STALE = of(0, 0, 0, 0, 1)
ACTS = event(
    "acts",
    pick=PICK,
    tool=of(*TOOLS),
    outcome=of(*OUTCOMES),
    shared=st.booleans(),
    others=of(*OTHERS),
    seconds=of(MINUTE, MINUTE, LONG),
    theirs=of(*OUTCOMES),
)
COMPUTES = event("computes", pick=PICK, key=of(*STEPS), fails=of(False, False, True))
CLAIMS = event(
    "claims",
    how=of("message", "message", "name", "name", "due", "start"),
    id_=of(*TASKS),
    payload=of(1, 1, 1, 2),
    stale=STALE,
)
ENDS = event("ends", pick=PICK, way=of(*WAYS), acknowledges=st.booleans())
WORLD = event("world_goes_on", what=of("a minute", "a minute", "a minute", "a week", "promotion", "promotion"))
QUEUE = event(
    "queue_goes_on",
    what=of("relay", "relay", "relay", "return", "return", "replay", "wipe", "empty", "give up", "wake"),
    fails=of("", "", "before", "after"),
    stale=STALE,
    id_=of(*TASKS),
)
PEOPLE = event("person_looks", what=of("resume", "resume", "resolve", "resolve", "resolve", "cancel"), pick=PICK)
# One rule for all of it: of many, an example would leave most out.
EVENTS = st.one_of(ACTS, ACTS, ACTS, COMPUTES, CLAIMS, CLAIMS, ENDS, WORLD, QUEUE, QUEUE, PEOPLE)
# For a long search: that many examples, other ones each time.
EXAMPLES = int(os.environ.get("RELIGHT_MODEL_EXAMPLES", "0"))
FAILURES_OF: dict[str, BaseException] = {
    "lost": UnavailableError("no answer"),
    "dropped": UnavailableError("no answer"),
    "refused": RefusedError("never"),
    "closed": NotSentError("not today"),
    "dies before": DiedError(),
    "dies after": DiedError(),
}
# What the ledger then says of it, and what the caller gets.
SETTLED: dict[str, tuple[str, type[BaseException] | None]] = {
    "ok": ("done", None),
    "promoted meanwhile": ("done", None),
    "lost": ("unknown", UnansweredError),
    "dropped": ("unknown", UnansweredError),
    "refused": ("failed", RefusedError),
    "closed": ("failed", NotSentError),
}


@dataclass
class Step:
    done: bool = False
    result: Any = None
    failures: int = 0


@dataclass
class Row:
    """A task, as the documentation has it. Times are the model's."""

    payload: Any
    kind: Kind
    due_at: float
    epoch: int
    status: Status = Status.PENDING
    attempts: int = 0
    claim: str | None = None
    claimed_epoch: int = 0
    lease_until: float = 0.0
    queued_in: str | None = None
    queued_at: float = 0.0
    waits_for: str | None = None
    steps: dict[str, Step] = field(default_factory=dict)

    def is_abandoned(self, now: float, epoch: int) -> bool:
        return self.status is Status.RUNNING and (self.lease_until < now or self.claimed_epoch < epoch)

    def take_back(self, status: Status) -> None:
        self.status, self.claim, self.queued_in = status, None, None


@dataclass
class Action:
    """A side effect, as the documentation has it."""

    tool: str
    task: str
    final_from: float
    intended_at: float
    status: str = "intent"
    sending: int = 1

    @property
    def is_open(self) -> bool:
        return self.status in ("intent", "unknown")


@dataclass(eq=False)
class Message:
    task: str
    at: float
    held: bool = False


class MemoryQueue:
    """What a replay and the relay use of a queue, without a server."""

    def __init__(self) -> None:
        self.now = 0.0
        self.messages: list[Message] = []
        self._number = 1
        self._known: set[str] = set()

    @property
    def name(self) -> str:
        return f"q{self._number}"

    @property
    def age(self) -> float:
        return max((self.now - message.at for message in self.messages), default=0.0)

    async def ensure(self) -> str:
        return self.name

    async def age_s(self) -> float:
        return self.age

    async def publish(self, tickets: Sequence[Ticket]) -> int:
        new = [ticket for ticket in tickets if ticket.dedupe_id not in self._known]
        self._known.update(ticket.dedupe_id for ticket in new)
        self.messages += [Message(ticket.task_id, self.now) for ticket in new]
        return len(new)

    def pass_to(self, now: float) -> None:
        """What nobody keeps comes again; what is too old is gone; what was published long ago is forgotten."""
        if now - self.now > DEDUPE_WINDOW_S:
            self._known.clear()
        self.now = now
        self.messages = [message for message in self.messages if now - message.at < MAX_AGE_S]
        for message in self.messages:
            message.held = False

    def wipe(self) -> None:
        """Its disk is lost."""
        self._number += 1
        self.messages.clear()
        self._known.clear()


class World:
    """What tools did, by key. `meanwhile` happens between the next sending and its answer."""

    def __init__(self) -> None:
        self.acts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.outcome = "ok"
        self.meanwhile: Callable[[], None] = lambda: None


class Tool:
    timeout_s = TOOL_S

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.honours_keys_s = HONOURS_S if name == "keyed" else 0.0
        self._world = world

    def send(self, request: Any, *, key: str) -> Any:
        world, outcome = self._world, self._world.outcome
        world.sent[key] += 1
        known = self.name == "keyed" and world.acts[key] > 0
        if outcome in ("ok", "lost", "dies after", "promoted meanwhile") and not known:
            world.acts[key] += 1
        meanwhile, world.meanwhile = world.meanwhile, lambda: None
        meanwhile()
        if outcome in FAILURES_OF:
            raise FAILURES_OF[outcome]
        return {"key": key}

    def find(self, request: Any, *, key: str) -> Any | Answer:
        if self.name != "asked":
            return Answer.CANNOT_TELL
        return {"key": key} if self._world.acts[key] else Answer.NOT_SENT


class Held:
    """The region's lease, as one believes in it who was cut off: what stops its holder must be the database."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def check(self, for_s: float = 0.0) -> None:
        pass


@dataclass(eq=False)
class Life:
    """A worker with a claim, which may be long over. `known` are the steps that it read, when it did."""

    task: Task
    run: TaskRun
    ledger: Ledger
    claimed_until: float
    message: Message | None
    known: dict[str, Any] | None
    waits_for: str | None = None


class Machine(RuleBasedStateMachine):
    """Does each thing to the ledger and to the model, and compares what came of it."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        tables = ("effects", "steps", "tasks", "epochs")
        sql(self.database, "; ".join(f"delete from relight.{table}" for table in tables))
        self.rows: dict[str, Row] = {}
        self.actions: dict[str, Action] = {}
        self.lives: list[Life] = []
        self.queue = MemoryQueue()
        self.world = World()
        self.clock = FakeClock()
        self.now = 0.0
        self.epoch = 0
        self.replayed: set[int] = set()
        self.numbers = itertools.count(1)
        self._promote()
        self._replayed()  # as `relight init` leaves it

    # -- what is said

    def _ledger(self, epoch: int | None = None) -> Ledger:
        at = self.epoch if epoch is None else epoch
        return Ledger(self.database, epoch=lambda: at)

    def _expect(self, wanted: type[BaseException] | None, call: Callable[[], Any]) -> Any:
        """Do it; it raises exactly what the model says, or nothing."""
        try:
            got = call()
        except (RelightError, DiedError) as exc:
            assert type(exc) is wanted, f"expected {wanted}, got {exc!r}"
            return None
        assert wanted is None, f"expected {wanted}, got {got!r}"
        return got

    def _refusal(self, life: Life) -> type[BaseException] | None:
        """Why a worker may not write, in the order in which it is found out."""
        row = self.rows[life.task.id]
        if row.claim != life.task.claim:
            return LeaseLostError
        return StaleEpochError if life.ledger.epoch < self.epoch else None

    def _is_judged(self, row: Row, epoch: int) -> bool:
        """Whether a worker may touch it: not what an earlier epoch left, and a policy may hold, before a replay."""
        return row.kind is Kind.WORK or row.epoch == epoch or epoch in self.replayed

    def _is_free(self, row: Row, epoch: int) -> bool:
        waits = row.status is Status.PENDING and row.due_at <= self.now
        return (waits or row.is_abandoned(self.now, epoch)) and self._is_judged(row, epoch)

    def _promote(self) -> None:
        self.epoch += 1
        EpochLog(self.database).take(self.epoch, region=f"r{self.epoch}", run_id=f"run{self.epoch}")

    def _life(self, pick: int) -> Life | None:
        """A worker that holds its task, for the lower picks, or any; one is begun where none is at work."""
        holders = [life for life in self.lives if self._refusal(life) is None]
        if not holders:
            self._claim_due()
            holders = [life for life in self.lives if self._refusal(life) is None]
        lives = holders if holders and pick < 4 else self.lives
        return lives[-1 - pick % len(lives)] if lives else None

    # -- what may happen

    @initialize(kind=st.sampled_from([Kind.WORK, Kind.SEND]))
    def begin(self, kind: Kind) -> None:
        """Two tasks are in the queue."""
        self._start("a", 1, Kind.WORK, stale=0)
        self._start("b", 1, kind, stale=0)
        self._publish_outbox(fails="", stale=0)

    @rule(what=EVENTS)
    def happens(self, what: tuple[str, dict[str, Any]]) -> None:
        """One of the following."""
        name, arguments = what
        getattr(self, f"_{name}")(**arguments)

    def _claims(self, how: str, id_: str, payload: int, stale: int) -> None:
        """A worker asks for a task, or a caller starts one."""
        if how == "message" and any(not message.held for message in self.queue.messages):
            self._deliver(TASKS.index(id_))
        elif how == "due":
            self._claim_due()
        elif how == "start":
            self._start(id_, payload, Kind.SEND if id_ == "b" else Kind.WORK, stale)
        else:
            self._claim_named(id_, stale)

    def _computes(self, pick: int, key: str, fails: bool) -> None:
        """A worker, perhaps a zombie, does a step, or fails to."""
        if life := self._life(pick):
            self._fail_step(life, key) if fails else self._step(life, key)

    def _acts(self, pick: int, tool: str, outcome: str, shared: bool, others: str, seconds: float, theirs: str) -> None:
        """A worker, perhaps a zombie, acts on the outside world, or dies on the way, and another goes on."""
        if life := self._life(pick):
            sent = sum(self.world.sent.values())

            def go_on() -> None:
                self._others_go_on(life.task.id, tool, theirs, shared, seconds)

            if outcome == "promoted meanwhile":
                self.world.meanwhile = self._promote
            elif others == "meanwhile":
                self.world.meanwhile = go_on
            self._effect(life, tool, outcome, shared)
            if others == "afterwards" and sum(self.world.sent.values()) > sent:
                go_on()

    def _ends(self, pick: int, way: str, acknowledges: bool) -> None:
        """A worker, perhaps a zombie, comes to an end with its task, and may die before it acknowledges the message."""
        if life := self._life(pick):
            if way == "crash":
                self.lives.remove(life)
            else:
                self._end(life, way, acknowledges)

    def _world_goes_on(self, what: str) -> None:
        """Time passes, or another region takes over."""
        if what == "promotion":
            self._promote()
        else:
            self._pass(LONG if what == "a week" else MINUTE)

    def _queue_goes_on(self, what: str, fails: str, stale: int, id_: str) -> None:
        """Something is published, or lost."""
        match what:
            case "relay":
                self._publish_outbox(fails, stale)
            case "return":
                self._return_lost()
            case "replay":
                self._replay()
            case "give up":
                self._give_up_message(id_)
            case "wake":
                self._wake()
            case "wipe":
                self.queue.wipe()
            case _:
                self.queue.messages.clear()

    def _person_looks(self, what: str, pick: int) -> None:
        """A person decides what waits for one."""
        id_ = list(self.rows)[pick % len(self.rows)]
        if what == "resume":
            self._resume(id_)
        elif what == "cancel":
            self._cancel(id_)
        elif self.actions:
            self._resolve(list(self.actions)[-1 - pick % len(self.actions)])

    # -- tasks

    def _start(self, id_: str, payload: int, kind: Kind, stale: int) -> None:
        """A caller starts a task, perhaps again, perhaps in a region that lost its turn."""
        if stale and self.epoch > 1:
            call = self._ledger(self.epoch - 1)
            self._expect(StaleEpochError, lambda: call.start_task(payload, id_=id_, kind=kind))
            return
        row = self.rows.get(id_)
        conflict = ConflictError if row is not None and (row.payload, row.kind) != (payload, kind) else None
        task = self._expect(conflict, lambda: self._ledger().start_task(payload, id_=id_, kind=kind))
        if row is None:
            row = self.rows[id_] = Row(payload=payload, kind=kind, due_at=self.now, epoch=self.epoch)
        row.epoch = self.epoch
        if task is not None:
            assert (task.status, task.payload, task.claim) == (row.status, payload, "")

    def _claim_named(self, id_: str, stale: int) -> None:
        """A worker asks for a task by its name."""
        epoch = max(1, self.epoch - stale)
        row = self.rows.get(id_)
        free = row is not None and self._is_free(row, epoch)
        if free and epoch < self.epoch:
            self._expect(StaleEpochError, lambda: self._claim(id_, epoch))
            return
        task = self._expect(None, lambda: self._claim(id_, epoch))
        assert (task is not None) == (free and self._claimed(id_)), f"{row}"
        if task is not None:
            self._begin(task, None)

    def _claim(self, id_: str, epoch: int) -> Task | None:
        return self._ledger(epoch).claim(id_, worker="w", lease_s=CLAIM_S, max_attempts=MAX_ATTEMPTS)

    def _claimed(self, id_: str) -> bool:
        """The model's claim; whether the task is not given up instead."""
        row = self.rows[id_]
        row.attempts += 1
        row.waits_for = None
        row.status, row.epoch, row.claimed_epoch = Status.RUNNING, self.epoch, self.epoch
        row.lease_until = self.now + CLAIM_S
        if row.attempts > MAX_ATTEMPTS:
            self._ended(id_, Status.PARKED)
            return False
        return True

    def _begin(self, task: Task, message: Message | None) -> Life:
        row = self.rows[task.id]
        row.claim = task.claim
        assert task.attempts == row.attempts
        ledger = self._ledger()
        run = TaskRun(
            ledger,
            task,
            lease=Held(self.epoch),
            clock=self.clock,
            claim_s=CLAIM_S,
            claimed_at=self.clock.monotonic(),
            retry=RETRY,
            begin_within_s=BEGIN_S,
        )
        assert not (task.first and any(step.done for step in row.steps.values()))
        life = Life(task, run, ledger, self.now + CLAIM_S, message, {} if task.first else None)
        self.lives.append(life)
        return life

    def _claim_due(self) -> None:
        """A worker without a queue asks for whatever there is."""
        free = {id_ for id_, row in self.rows.items() if self._is_free(row, self.epoch)}
        tasks = self._ledger().claim_due(10, worker="w", lease_s=CLAIM_S, max_attempts=MAX_ATTEMPTS)
        assert {task.id for task in tasks} == {id_ for id_ in sorted(free) if self._claimed(id_)}
        for task in tasks:
            self._begin(task, None)

    def _ended(self, id_: str, status: Status) -> None:
        row = self.rows[id_]
        row.status, row.claim, row.epoch = status, None, self.epoch
        for action in self.actions.values():
            if action.task == id_ and action.status == "intent":
                action.status = "unknown"

    # -- what a worker does

    def _renewed(self, life: Life) -> type[BaseException] | None:
        """What a renewal raises, which comes first when the claim has run down."""
        if life.claimed_until - self.now > CLAIM_S / 2:
            return None
        refusal = self._refusal(life)
        if refusal is None:
            life.claimed_until = self.rows[life.task.id].lease_until = self.now + CLAIM_S
            self.rows[life.task.id].epoch = self.epoch
        return refusal

    def _read(self, life: Life) -> dict[str, Any]:
        """The steps that a worker knows: read once, at its first step."""
        if life.known is None:
            life.known = {key: step.result for key, step in self.rows[life.task.id].steps.items() if step.done}
        return life.known

    def _step(self, life: Life, key: str) -> None:
        """A worker, perhaps a zombie, does a step: it runs once in all lives that count."""
        ran: list[int] = []

        def compute() -> int:
            ran.append(next(self.numbers))
            return ran[0]

        known = self._read(life)
        if key in known:
            assert self._expect(None, lambda: life.run.run(key, compute)) == known[key]
            assert not ran
            return
        refusal = self._renewed(life)
        may_run = refusal is None
        refusal = refusal or self._refusal(life)
        result = self._expect(refusal, lambda: life.run.run(key, compute))
        assert bool(ran) == may_run
        if refusal is None:
            assert result == ran[0]
            known[key] = result
            step = self.rows[life.task.id].steps.setdefault(key, Step())
            assert not step.done
            step.done, step.result = True, result

    def _fail_step(self, life: Life, key: str) -> None:
        """A step raises: its failures are counted over all lives."""

        def fail() -> int:
            raise OSError("bad weather")

        known = self._read(life)
        if key in known:
            assert self._expect(None, lambda: life.run.run(key, fail)) == known[key]
            return
        wanted = self._renewed(life) or self._refusal(life)
        if wanted is None:
            step = self.rows[life.task.id].steps.setdefault(key, Step())
            step.failures += 1
            wanted = StepFailedError if step.failures >= FAILURES else AgainLaterError
        self._expect(wanted, lambda: life.run.run(key, fail))

    def _effect(self, life: Life, tool: str, outcome: str, shared: bool) -> type[BaseException] | None:
        """What the effect raised, as the model said that it would."""
        name, world = "invoice" if shared else "", self.world
        key = effect_key(tool, {"do": "it"}, task_id=life.task.id, business_key=name)
        acts, sent = world.acts[key], world.sent[key]
        was_open = key in self.actions and self.actions[key].is_open
        wanted, sends = self._before(life, tool, key)
        sending = self.actions[key].sending if sends else 0
        # Sent under its key while an earlier sending is open: what is not sent now may have been then.
        doubt = was_open and tool == "keyed"
        if outcome == "refused" and tool == "keyed" and acts:
            outcome = "ok"  # the tool answers as it did the first time
        world.outcome = outcome

        def perform() -> Any:
            try:
                return life.run.effect(Tool(tool, world), {"do": "it"}, key=name)
            finally:
                nonlocal wanted
                if sends:
                    wanted = self._after(life, key, sending, outcome, doubt=doubt)

        response, raised = None, None
        try:
            response = perform()
        except (RelightError, DiedError) as exc:
            raised = exc
        assert (raised and type(raised)) is wanted, f"expected {wanted}, got {raised!r}"
        world.meanwhile = lambda: None
        assert sent + sends <= world.sent[key] <= sent + 2 * sends
        assert acts <= world.acts[key] <= 1, f"{tool} acted {world.acts[key]} times"
        if wanted is None:
            assert response == {"key": key}
            assert world.acts[key] == 1
        if wanted is UnknownEffectError:
            life.waits_for = key
        return wanted

    def _others_go_on(self, id_: str, tool: str, outcome: str, shared: bool, seconds: float) -> None:
        """Time passes, and whoever then gets the task comes to the same effect; whom nobody can tell, parks it."""
        self._pass(seconds)
        if not self._is_free(self.rows[id_], self.epoch):
            return
        task = self._claim(id_, self.epoch)
        assert (task is not None) == self._claimed(id_)
        if task is not None:
            life = self._begin(task, None)
            if outcome == "promoted meanwhile":
                self.world.meanwhile = self._promote
            if self._effect(life, tool, outcome, shared) is UnknownEffectError:
                self._end(life, "park", acknowledges=True)

    def _before(self, life: Life, tool: str, key: str) -> tuple[type[BaseException] | None, int]:
        """What an effect raises before anything is sent, or that it is sent once."""
        refusal = self._renewed(life) or self._refusal(life)
        if refusal is not None:
            return refusal, 0
        action = self.actions.get(key)
        final_from = self.now + BEGIN_S + TOOL_S
        if action is None:
            self.actions[key] = Action(tool=tool, task=life.task.id, final_from=final_from, intended_at=self.now)
            return None, 1
        if action.status == "done":
            return None, 0
        if action.is_open:
            if action.final_from > self.now:
                return TooSoonError, 0
            honoured = tool == "keyed" and self.now - action.intended_at + BEGIN_S + TOOL_S < HONOURS_S
            if tool == "asked" and self.world.acts[key]:
                action.status = "done"
                return None, 0
            if tool != "asked" and not honoured:
                action.status = "unknown"
                return UnknownEffectError, 0
        action.status, action.task, action.final_from = "intent", life.task.id, final_from
        action.sending += 1
        return None, 1

    def _after(self, life: Life, key: str, sending: int, outcome: str, *, doubt: bool) -> type[BaseException] | None:
        """What the ledger says of a sending that has ended, and what the caller gets."""
        if outcome not in SETTLED:
            return DiedError
        status, raised = SETTLED[outcome]
        if status == "failed" and doubt:
            status = "unknown"
        action = self.actions[key]
        if action.status != "done" and (status == "done" or action.sending == sending):
            if life.ledger.epoch < self.epoch:
                return StaleEpochError
            action.status = status
        return raised

    def _end(self, life: Life, way: str, acknowledges: bool) -> None:
        refusal = self._refusal(life)
        calls: dict[str, Callable[[], Any]] = {
            "finish": lambda: life.run.finish(life.task.id),
            "release": lambda: life.ledger.release(life.task, error="x"),
            "give back": lambda: life.ledger.release(life.task, error="x", counted=False),
            "later": lambda: life.ledger.release(life.task, error="x", delay_s=100.0),
            "wait": lambda: life.ledger.release(life.task, error="x", delay_s=100.0, counted=False, waits_for=PROVIDER),
            "park": lambda: life.ledger.park(life.task, reason="x", waits_for=life.waits_for),
        }
        self._expect(refusal, calls[way])
        if refusal is not None:
            return
        row = self.rows[life.task.id]
        if way in ("finish", "park"):
            self._ended(life.task.id, Status.DONE if way == "finish" else Status.PARKED)
            row.waits_for = life.waits_for if way == "park" else None
        else:
            row.take_back(Status.PENDING)
            row.epoch = self.epoch
            row.due_at = self.now + (100.0 if way in ("later", "wait") else 0.0)
            row.attempts -= way in ("give back", "wait")
            row.waits_for = PROVIDER if way == "wait" else None
        self._acknowledge(life, acknowledges)

    def _acknowledge(self, life: Life, acknowledges: bool) -> None:
        if life.message in self.queue.messages and acknowledges:
            self.queue.messages.remove(life.message)
        life.message = None

    # -- the world

    def _pass(self, seconds: float) -> None:
        """Claims run out, what is on its way arrives, what waits becomes due; messages that nobody keeps come again."""
        columns = {
            "tasks": ("lease_until", "due_at", "queued_at", "created_at", "updated_at"),
            "effects": ("final_from", "intended_at"),
        }
        moved = [
            f"update relight.{table} set {', '.join(f'{name} = {name} - interval $${seconds} s$$' for name in names)}"
            for table, names in columns.items()
        ]
        sql(self.database, "; ".join(moved))
        self.clock.sleep(seconds)
        self.now += seconds
        self.queue.pass_to(self.now)

    # -- the queue

    def _waiting(self, epoch: int) -> list[str]:
        return [
            id_
            for id_, row in self.rows.items()
            if row.status is Status.PENDING
            and row.queued_in is None
            and row.due_at <= self.now
            and self._is_judged(row, epoch)
        ]

    def _publish_outbox(self, fails: str, stale: int) -> None:
        """The relay runs, and may be cut off from the queue, or die between the queue and the ledger."""
        ledger = self._ledger(max(1, self.epoch - stale))
        handed: list[str] = []

        def publish(tasks: Sequence[tuple[str, int]]) -> None:
            handed.extend(id_ for id_, _ in tasks)
            if fails != "before":
                self._take_in([Ticket(task_id=id_, epoch=ledger.epoch, number=number) for id_, number in tasks])
            if fails:
                raise DiedError

        waiting = self._waiting(ledger.epoch)
        wanted: type[BaseException] | None = None
        if waiting and fails:
            wanted = DiedError
        elif waiting and ledger.epoch < self.epoch:
            wanted = StaleEpochError
        incarnation = self.queue.name
        self._expect(wanted, lambda: ledger.publish_outbox(publish, incarnation=incarnation, limit=10))
        assert sorted(handed) == sorted(waiting)
        if wanted is None:
            self._queued(waiting)

    def _take_in(self, tickets: Sequence[Ticket]) -> None:
        asyncio.run(self.queue.publish(tickets))

    def _queued(self, ids: Sequence[str]) -> None:
        """The queue confirmed them, and so it has them."""
        assert set(ids) <= {message.task for message in self.queue.messages}
        for id_ in ids:
            row = self.rows[id_]
            row.queued_in, row.queued_at, row.epoch = self.queue.name, self.now, self.epoch

    def _deliver(self, pick: int) -> Life | None:
        free = [message for message in self.queue.messages if not message.held]
        message = free[pick % len(free)]
        row = self.rows[message.task]
        is_free = self._is_free(row, self.epoch)
        task = self._expect(None, lambda: self._claim(message.task, self.epoch))
        assert (task is not None) == (is_free and self._claimed(message.task))
        if task is not None:
            message.held = True
            return self._begin(task, message)
        # As a worker does: it keeps what somebody works on, and what nothing else would bring back.
        status, queued = self._ledger().status(message.task)
        if status is Status.RUNNING or (status is Status.PENDING and queued):
            message.held = True
        else:
            self.queue.messages.remove(message)
        return None

    def _return_lost(self) -> None:
        """What the queue does not hold any more goes back into the outbox."""
        returned = self._ledger().return_lost(incarnation=self.queue.name, age_s=self.queue.age)
        lost = [row for row in self.rows.values() if self._is_lost(row) and self._is_judged(row, self.epoch)]
        assert returned == len(lost)
        for row in lost:
            row.take_back(Status.PENDING)
            row.epoch = self.epoch

    def _wake(self) -> None:
        """What tasks wait for has happened; those that are due wait for nothing, nor do those that are parked."""
        waiting = [
            row
            for row in self.rows.values()
            if (row.status, row.waits_for) == (Status.PENDING, PROVIDER)
            and row.due_at > self.now
            and self._is_judged(row, self.epoch)
        ]
        assert self._ledger().wake(PROVIDER) == len(waiting)
        for row in waiting:
            row.take_back(Status.PENDING)
            row.due_at, row.epoch, row.waits_for = self.now, self.epoch, None

    def _is_removed(self, row: Row) -> bool:
        """Whether the queue confirmed a task so long ago that it would be the oldest that it has."""
        return row.queued_at < self.now - min(MAX_AGE_S, self.queue.age + GRACE_S)

    def _is_lost(self, row: Row) -> bool:
        elsewhere = row.queued_in != self.queue.name
        if row.status is Status.PENDING and row.queued_in is not None:
            return elsewhere or self._is_removed(row)
        if row.is_abandoned(self.now, self.epoch):
            return elsewhere or row.lease_until < self.now - GRACE_S
        return False

    def _replay(self) -> None:
        """A recovery, or an operator, gives the queue all that it lacks, and holds what is too old to be sent."""
        held = [
            row
            for row in self.rows.values()
            if row.kind is Kind.SEND
            and row.epoch < self.epoch
            and row.due_at < self.now - SENDS_AFTER_S
            and (row.status is Status.PENDING or row.is_abandoned(self.now, self.epoch))
        ]
        for row in held:
            row.take_back(Status.HELD)
            row.epoch = self.epoch
        lacking = [id_ for id_, row in self.rows.items() if self._is_lacking(row)]
        done = asyncio.run(
            replay(
                ledger=self._ledger(),
                queue=cast("TaskQueue", self.queue),
                policy=TimeTravel(sends_after_s=SENDS_AFTER_S),
                clock=SystemClock(),
                per_second=None,
            )
        )
        assert (done.total, sum(done.held.values())) == (len(lacking), len(held))
        for id_ in lacking:
            self.rows[id_].take_back(Status.PENDING)
        self._queued(lacking)
        self._replayed()

    def _replayed(self) -> None:
        EpochLog(self.database).mark_replayed(self.epoch)
        self.replayed.add(self.epoch)

    def _is_lacking(self, row: Row) -> bool:
        if row.due_at > self.now:
            return False
        if row.is_abandoned(self.now, self.epoch):
            return True
        if row.status is not Status.PENDING:
            return False
        return row.queued_in != self.queue.name or row.epoch < self.epoch or self._is_removed(row)

    def _give_up_message(self, id_: str) -> None:
        """The queue gives a message up: a task is parked only when somebody began it, and is gone."""
        row = self.rows.get(id_)
        wanted: Status | None = None
        if row is not None and self._is_judged(row, self.epoch):
            if row.status is Status.PENDING:
                wanted = Status.PENDING
            elif row.is_abandoned(self.now, self.epoch):
                wanted = Status.PARKED if row.attempts >= SUSPICIOUS_ATTEMPTS else Status.PENDING
        assert self._ledger().give_up_message(id_, reason="x") == wanted
        if row is not None and wanted is not None:
            row.take_back(wanted)
            row.epoch = self.epoch
            self.queue.messages = [message for message in self.queue.messages if message.task != id_]

    # -- people

    def _resume(self, id_: str) -> None:
        """A person lets a task go on that waits for one."""
        waits = self.rows[id_].status in (Status.PARKED, Status.HELD)
        self._expect(None if waits else ConflictError, lambda: self._ledger().resume(id_))
        if waits:
            self._resumed(id_)

    def _resumed(self, id_: str) -> None:
        row = self.rows[id_]
        row.take_back(Status.PENDING)
        row.due_at, row.attempts, row.epoch, row.waits_for = self.now, 0, self.epoch, None
        row.steps = {key: step for key, step in row.steps.items() if step.done}

    def _cancel(self, id_: str) -> None:
        """A person ends a task that nobody works on."""
        row = self.rows[id_]
        may = row.status in (Status.PENDING, Status.PARKED, Status.HELD)
        self._expect(None if may else ConflictError, lambda: self._ledger().cancel(id_, reason="x"))
        if may:
            row.status, row.epoch = Status.CANCELLED, self.epoch

    def _resolve(self, key: str) -> None:
        action = self.actions[key]
        effects = Effects(self._ledger())
        known = effects.get(key)
        assert known is not None
        wanted: type[BaseException] | None = None
        if not action.is_open:
            wanted = ConflictError
        elif action.final_from > self.now:
            wanted = TooSoonError
        happened = bool(self.world.acts[key])
        response = {"key": key} if happened else None
        self._expect(wanted, lambda: effects.resolve(known, happened=happened, response=response, who="p"))
        if wanted is None:
            action.status = "done" if happened else "failed"
            for id_, row in self.rows.items():
                if row.status is Status.PARKED and row.waits_for == key:
                    self._resumed(id_)

    # -- what is compared

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        """Every row, after every rule."""
        tasks = self.database.execute(
            "select id, status, attempts, claimed_by, queued_in, epoch, waits_for from relight.tasks"
        ).rows
        assert {id_: row for id_, *row in tasks} == {
            id_: [row.status, row.attempts, row.claim, row.queued_in, row.epoch, row.waits_for]
            for id_, row in self.rows.items()
        }
        steps = self.database.execute(
            "select task_id, key, finished_at is not null, result, failures from relight.steps"
        ).rows
        assert {tuple(step) for step in steps} == {
            (id_, key, step.done, step.result, step.failures)
            for id_, row in self.rows.items()
            for key, step in row.steps.items()
        }
        effects = self.database.execute("select key, status, sending, task_id from relight.effects").rows
        assert {tuple(effect) for effect in effects} == {
            (key, action.status, action.sending, action.task) for key, action in self.actions.items()
        }

    @invariant()
    def the_world_is_as_the_ledger_says(self) -> None:
        """Done is once, failed is never, and only what is open may be either."""
        for key, action in self.actions.items():
            acts = self.world.acts[key]
            assert acts <= 1
            assert action.status != "done" or acts == 1
            assert action.status != "failed" or acts == 0
        assert {key for key, acts in self.world.acts.items() if acts} <= self.actions.keys()

    def teardown(self) -> None:
        """Whatever happened, workers and a person bring every task to its end, through the queue."""
        for _ in range(12):
            if all(row.status in (Status.DONE, Status.CANCELLED) for row in self.rows.values()):
                break
            self._pass(MINUTE)
            if self.epoch not in self.replayed:
                self._replay()
            self._return_lost()
            self._publish_outbox(fails="", stale=0)
            self._work_off()
            for key, action in self.actions.items():
                if action.is_open and self.rows[action.task].status is Status.PARKED:
                    self._pass(MINUTE)
                    self._resolve(key)
            for id_, row in self.rows.items():
                if row.status in (Status.PARKED, Status.HELD):
                    self._ledger().resume(id_)
                    self._resumed(id_)
            self.the_ledger_is_as_the_model_says()
        left = {id_: row for id_, row in self.rows.items() if row.status not in (Status.DONE, Status.CANCELLED)}
        assert not left, f"never came to an end: {left}, {self.queue.messages}"
        self.the_world_is_as_the_ledger_says()

    def _work_off(self) -> None:
        """A worker that nothing happens to gets every message there is."""
        while any(not message.held for message in self.queue.messages):
            life = self._deliver(0)
            if life is None:
                continue
            for key in STEPS:
                number = next(self.numbers)
                known = self._read(life)
                result = life.run.run(key, lambda number=number: number)  # type: ignore[misc]
                assert result == known.get(key, number)
                known[key] = result
                step = self.rows[life.task.id].steps.setdefault(key, Step())
                step.done, step.result = True, result
            wanted = self._effect(life, "blind", "ok", shared=False)
            self._end(life, "finish" if wanted is None else "later" if wanted is TooSoonError else "park", True)


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    database = Database(make_state(state_pair, "model_tests").primary, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.mark.timeout(3600 if EXAMPLES else 900)  # hypothesis takes some minutes to find a short example of a failure
def test_the_ledger_agrees_with_its_model(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when any order of lives, deaths, promotions, losses and replays leads where the documentation does not."""
    monkeypatch.setattr(ledger_module, "_BEHIND", BEHIND)
    run_state_machine_as_test(
        type("LedgerMachine", (Machine,), {"database": database}),
        settings=settings(
            max_examples=EXAMPLES or 120,
            stateful_step_count=40,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Tasks that would rather wait than have a fallback's answer: on a real ledger, real queues and played providers."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import make_state
from runtime_helpers import Held, clean_ledger, reclaimed, sql, statuses, until, wait_for, working

from relight.clock import SystemClock
from relight.errors import ProvidersDownError, RelightError, UnavailableError, WouldDegradeError
from relight.providers.blocking import Router
from relight.providers.board import Board
from relight.providers.breaker import Phase
from relight.providers.messages import Request, user
from relight.providers.open import open_provider
from relight.providers.router import AsyncRouter
from relight.providers.shared import PostgresBreakers
from relight.providers.spec import ANY_PROVIDER, Api, ProviderLimits, ProviderSpec, provider_key
from relight.queue.queues import open_queue
from relight.tasks import ledger as ledger_module
from relight.tasks import waiting as waiting_module
from relight.tasks.database import Database
from relight.tasks.ledger import Ledger, Status
from relight.tasks.steps import Retry
from relight.tasks.waiting import wake_on_close
from relight.tasks.worker import Worker
from relight_drill.llm import PlayedAnthropic, PlayedOpenAI, Reply, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import StatePair

    from relight.tasks.aio import AsyncTaskRun
    from relight.tasks.steps import TaskRun
    from relight_drill.llm import Asked
    from relight_drill.nats import NatsServer

pytestmark = pytest.mark.servers

FIRST, FALLBACK = "anthropic", "local"
# So soon a breaker that opened lets a probe through.
OPEN_S = 1.0
LIMITS = ProviderLimits(failures=3, open_s=OPEN_S)
RETRY = Retry(first_s=0.05, factor=1.5, at_most_s=0.5, jitter=0.0)
TASKS = 12


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    with closing(Database(make_state(state_pair, "waiting_tests").primary, confirm_timeout_s=10)) as database:
        yield database


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return clean_ledger(database)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first come hours later by themselves: what goes on before was woken."""
    monkeypatch.setattr(ledger_module, "_BEHIND", 1e6)
    monkeypatch.setattr(ledger_module, "_BEHIND_S", 1e6)
    monkeypatch.setattr(waiting_module, "_AGAIN_AFTER_S", (0.0, 0.5, 1.0))


@pytest.fixture
def first() -> Iterator[PlayedAnthropic]:
    """The first choice. A request's tag is the task that it was made for."""
    with PlayedAnthropic(tag=lambda asked: asked.said) as played:
        yield played


@pytest.fixture
def fallback() -> Iterator[PlayedOpenAI]:
    with PlayedOpenAI(compatible=True, tag=lambda asked: asked.said) as played:
        yield played


class Closing:
    """A board whose breaker closes when it is told to."""

    def __init__(self) -> None:
        self._hooks: list[Callable[[str], None]] = []
        self.closed = threading.Event()

    def on_close(self, hook: Callable[[str], None]) -> None:
        self._hooks.append(hook)

    def close(self, name: str = FIRST) -> None:
        self.closed.set()
        for hook in self._hooks:
            hook(name)

    def ask(self) -> str:
        if not self.closed.is_set():
            raise WouldDegradeError("the first provider is away", wait_s=3600.0, waits_for=provider_key(FIRST))
        return "answered"


def worker_of(ledger: Ledger, server: NatsServer, environment: str, handler: Callable[[Any], Any], name: str) -> Worker:
    return Worker(
        ledger,
        lease=Held(),
        connect=lambda: open_queue(server.url(), environment=environment),
        handler=handler,
        name=name,
        clock=SystemClock(),
        retry=RETRY,
        max_attempts=2,
        concurrency=4,
    )


def start(ledger: Ledger, count: int = TASKS) -> list[str]:
    ids = [f"t{n:02}" for n in range(count)]
    for id_ in ids:
        ledger.start_task({"ask": id_}, id_=id_)
    return ids


def waiting(ledger: Ledger) -> int:
    """How many tasks wait for the first choice."""
    rows = sql(
        ledger.database,
        "select count(*)::int from relight.tasks where status = 'pending' and waits_for = %s",
        [provider_key(FIRST)],
    )
    return int(rows[0][0])


def wait_with(ledger: Ledger, id_: str, *, key: str = "") -> None:
    """A task that waits for the first choice."""
    ledger.start_task(1, id_=id_)
    task = reclaimed(ledger, id_)
    ledger.release(task, error="e", delay_s=3600, counted=False, waits_for=key or provider_key(FIRST))


def due(ledger: Ledger) -> set[str]:
    """The pending tasks that may be claimed."""
    rows = sql(ledger.database, "select id from relight.tasks where status = 'pending' and due_at <= now()")
    return {row[0] for row in rows}


class TestWaking:
    """What a closing breaker does, without any provider."""

    def test_tasks_wait_and_go_on_at_once(self, ledger: Ledger, nats_server: NatsServer) -> None:
        """Tasks whose handler would rather wait are pending, no life of them counts, and nothing of them is in the
        queue; when the breaker closes all are done, though none is due for an hour."""
        board, lives = Closing(), Counter[str]()

        def handler(run: TaskRun) -> Any:
            lives[run.task.id] += 1
            return run.run("ask", board.ask)

        async def scenario() -> None:
            environment = f"w{uuid.uuid4().hex[:8]}"
            start(ledger)
            wake_on_close(board, ledger)
            async with working(worker_of(ledger, nats_server, environment, handler, "w")):
                await until(lambda: waiting(ledger) == TASKS, "all tasks to wait")
                async with open_queue(nats_server.url(), environment=environment) as queue:

                    async def is_empty() -> bool:
                        return await queue.depth() == 0

                    await until(is_empty, "their messages to be acknowledged")
                assert {task.attempts for task in ledger.tasks([Status.PENDING])} == {0}
                await asyncio.to_thread(board.close)
                await until(lambda: statuses(ledger) == {"done": TASKS}, "all tasks to be done")

        asyncio.run(scenario())
        assert set(lives.values()) == {2}
        assert sql(ledger.database, "select sum(failures)::int from relight.steps") == [(0,)]

    def test_a_task_that_was_just_given_back_is_woken_too(self, ledger: Ledger) -> None:
        """fails when a task waits for its time because it was given back a moment after the breaker had closed."""
        board = Closing()
        wake_on_close(board, ledger)
        board.close()
        wait_with(ledger, "late")
        wait_for(lambda: due(ledger) == {"late"}, "the task to be woken")

    def test_any_breaker_wakes_who_would_take_any_answer(self, ledger: Ledger) -> None:
        """A task for which all providers were away goes on when one of them is back."""
        wait_with(ledger, "any", key=ANY_PROVIDER)
        wait_with(ledger, "first")
        board = Closing()
        wake_on_close(board, ledger)
        board.close(FALLBACK)
        wait_for(lambda: due(ledger) == {"any"}, "the task to be woken")

    @pytest.mark.parametrize("exc", [UnavailableError("postgres is away"), RelightError("it is no primary")], ids=repr)
    def test_a_ledger_that_is_away_is_asked_again(self, ledger: Ledger, exc: RelightError) -> None:
        """fails when tasks wait for their time because the database did not answer in that moment."""
        wait_with(ledger, "t")
        wake, failed = ledger.wake, list[str]()

        def flaky(key: str) -> int:
            if len(failed) < 2:
                failed.append(key)
                raise exc
            return wake(key)

        ledger.wake = flaky  # type: ignore[method-assign]
        board = Closing()
        wake_on_close(board, ledger)
        board.close()
        wait_for(lambda: due(ledger) == {"t"}, "the task to be woken")
        assert failed == [provider_key(FIRST), ANY_PROVIDER]

    def test_a_ledger_that_stays_away_is_given_up(self, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
        """What cannot be woken is logged and comes when it is due; nobody is stopped by it."""
        asked = threading.Semaphore(0)

        def away(key: str) -> int:
            asked.release()
            raise UnavailableError("postgres is away")

        ledger.wake = away  # type: ignore[method-assign]
        board = Closing()
        wake_on_close(board, ledger)
        board.close()
        for _ in range(6):
            assert asked.acquire(timeout=20)
        wait_for(lambda: not [it for it in threading.enumerate() if it.name == "relight-wake"], "it to give up")
        told = [record for record in caplog.records if record.message == "tasks_not_woken"]
        assert len(told) == 6

    def test_a_region_that_lost_its_turn_wakes_nothing(self, database: Database, ledger: Ledger) -> None:
        """fails when a worker of a relieved region lets tasks go on that the other one has."""
        wait_with(ledger, "t")
        stale = Ledger(database, epoch=lambda: 0)
        board = Closing()
        wake_on_close(board, stale)
        board.close()
        wait_for(lambda: not [it for it in threading.enumerate() if it.name == "relight-wake"], "it to give up")
        assert due(ledger) == set()
        assert ledger.task("t").waits_for == provider_key(FIRST)


# -- with played providers


def providers(first: PlayedAnthropic, fallback: PlayedOpenAI) -> list[Any]:
    one = ProviderSpec(name=FIRST, api=Api.ANTHROPIC, model="claude-sonnet-5-5", base_url=first.base_url, silence_s=5.0)
    other = ProviderSpec(name=FALLBACK, api=Api.COMPATIBLE, model="m", base_url=fallback.base_url, keyless=True)
    return [open_provider(one, str(first.key)), open_provider(other)]


def request(run: TaskRun | AsyncTaskRun) -> Request:
    return Request(messages=(user(run.task.id),), max_tokens=100)


def check_paid_once(first: PlayedAnthropic, fallback: PlayedOpenAI, ids: list[str]) -> None:
    """Each task has one answer, of the first choice."""
    assert fallback.asked == []
    assert Counter(item.tag for item in first.bill) == dict.fromkeys(ids, 1)


def check_one_probe(first: PlayedAnthropic, since: int) -> None:
    """Nobody but the probe was sent, from the one numbered `since` on, before its answer was whole."""
    whole = first.bill[0]
    before = [asked.number for asked in first.asked if asked.number >= since and asked.at < whole.at]
    assert before == [whole.asked]


class Outage:
    """An error for everybody until it is over; the probe that then comes takes its time."""

    def __init__(self, first: PlayedAnthropic) -> None:
        self.over = False
        self.probe: int | None = None
        first.trouble = self._trouble
        first.answer = self._answer

    def _trouble(self, asked: Asked) -> Trouble | None:
        if not self.over:
            return Trouble.SERVER_ERROR
        if self.probe is None:
            self.probe = asked.number
        return None

    def _answer(self, asked: Asked) -> Reply:
        # Long enough for every other that would be let through to be seen.
        return Reply(text="An answer.", first_s=1.0 if asked.number == self.probe else 0.0)


@pytest.mark.parametrize("kind", ["coroutine", "function"])
def test_no_answer_of_a_fallback_is_paid_for(
    ledger: Ledger, nats_server: NatsServer, first: PlayedAnthropic, fallback: PlayedOpenAI, kind: str
) -> None:
    """While the first choice fails all tasks wait and nobody asks the fallback; when it is back, one probe closes the
    breaker, all go on at once, and each has paid for one answer."""
    outage = Outage(first)

    async def scenario() -> None:
        ids = start(ledger)
        router = AsyncRouter(providers(first, fallback), limits=LIMITS) if kind == "coroutine" else None
        blocking = None if router else Router(lambda: AsyncRouter(providers(first, fallback), limits=LIMITS))

        async def coroutine(run: AsyncTaskRun) -> Any:
            async def ask() -> str:
                assert router is not None
                return (await router.complete(request(run), degrade=False)).text

            return await run.run("ask", ask)

        def function(run: TaskRun) -> Any:
            assert blocking is not None
            return run.run("ask", lambda: blocking.complete(request(run), degrade=False).text)

        board = (router or blocking).board  # type: ignore[union-attr]
        wake_on_close(board, ledger)
        handler = coroutine if kind == "coroutine" else function
        try:
            async with working(worker_of(ledger, nats_server, f"w{uuid.uuid4().hex[:8]}", handler, "w")):
                await until(lambda: waiting(ledger) >= TASKS - 1, "the tasks to wait")
                await until(lambda: board.state(FIRST).phase is not Phase.CLOSED, "the breaker to open")
                assert (first.bill, fallback.asked) == ([], [])
                outage.over = True
                await until(lambda: statuses(ledger) == {"done": TASKS}, "all tasks to be done")
        finally:
            if router is not None:
                await router.close()
            if blocking is not None:
                await asyncio.to_thread(blocking.close)
        check_paid_once(first, fallback, ids)
        assert outage.probe is not None
        check_one_probe(first, outage.probe)

    asyncio.run(scenario())
    assert ledger.task("t00").result == "An answer."
    assert sql(ledger.database, "select sum(failures)::int, max(attempts) from relight.steps, relight.tasks") == [
        (0, 1)
    ]


def test_one_probe_goes_out_over_all_workers(
    database: Database, ledger: Ledger, nats_server: NatsServer, first: PlayedAnthropic, fallback: PlayedOpenAI
) -> None:
    """Workers that share their breakers: while all tasks wait, one of all the workers sends the probe, and the others'
    tasks go on with what it found."""
    outage, environment = Outage(first), f"w{uuid.uuid4().hex[:8]}"
    answered = Counter[str]()

    def opened(name: str) -> tuple[AsyncRouter, Worker]:
        board = Board([FIRST, FALLBACK], limits=LIMITS, clock=SystemClock(), shared=PostgresBreakers(database))
        router = AsyncRouter(providers(first, fallback), limits=LIMITS, board=board)
        wake_on_close(board, ledger)

        async def handler(run: AsyncTaskRun) -> Any:
            async def ask() -> str:
                answer = await router.complete(request(run), degrade=False, wait_s=0.5)
                answered[name] += 1
                return answer.text

            return await run.run("ask", ask)

        return router, worker_of(ledger, nats_server, environment, handler, name)

    async def scenario() -> None:
        ids = start(ledger)
        routers, workers = zip(*[opened(name) for name in ("one", "two", "three")], strict=True)
        try:
            async with working(*workers):
                await until(lambda: waiting(ledger) >= TASKS - 3, "most tasks to wait")
                for router in routers:
                    await until(lambda: router.board.state(FIRST).phase is not Phase.CLOSED, "all to know")  # noqa: B023
                outage.over = True
                await until(lambda: statuses(ledger) == {"done": TASKS}, "all tasks to be done")
        finally:
            for router in routers:
                await router.close()
                await asyncio.to_thread(router.board.close)
        check_paid_once(first, fallback, ids)
        assert outage.probe is not None
        check_one_probe(first, outage.probe)

    asyncio.run(scenario())
    assert answered.total() == TASKS


def test_tasks_that_take_any_answer_wait_while_nobody_answers(
    ledger: Ledger, nats_server: NatsServer, first: PlayedAnthropic, fallback: PlayedOpenAI
) -> None:
    """fails when an outage of all providers parks tasks: they wait, no step of them has failed, and they go on with
    whoever is back."""
    first.trouble = fallback.trouble = Trouble.SERVER_ERROR

    async def scenario() -> None:
        ids = start(ledger)
        router = AsyncRouter(providers(first, fallback), limits=LIMITS)
        wake_on_close(router.board, ledger)

        async def handler(run: AsyncTaskRun) -> Any:
            async def ask() -> dict[str, Any]:
                answer = await router.complete(request(run))
                return {"text": answer.text, "degraded": answer.degraded}

            return await run.run("ask", ask)

        try:
            async with working(worker_of(ledger, nats_server, f"w{uuid.uuid4().hex[:8]}", handler, "w")):
                down = "select count(*)::int from relight.tasks where error like %s"
                like = [f"{ProvidersDownError.__name__}%"]
                await until(lambda: sql(ledger.database, down, like) == [(TASKS,)], "all tasks to have been told")
                fallback.trouble = None
                await until(lambda: statuses(ledger) == {"done": TASKS}, "all tasks to be done")
        finally:
            await router.close()
        assert first.bill == []
        assert Counter(item.tag for item in fallback.bill) == dict.fromkeys(ids, 1)

    asyncio.run(scenario())
    assert ledger.task("t00").result["degraded"] is True
    assert sql(ledger.database, "select sum(failures)::int from relight.steps") == [(0,)]

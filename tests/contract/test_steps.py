"""Durable steps, for functions and for coroutines, on a real primary."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from memory_helpers import make_state
from runtime_helpers import (
    Flaky,
    Held,
    RecordingTool,
    as_json,
    books,
    claimed,
    clean_ledger,
    in_thread,
    next_life,
    sql,
    together,
    until,
    wait_for,
)

from relight.errors import (
    AgainLaterError,
    ConflictError,
    LeaseLostError,
    PermanentError,
    ProvidersDownError,
    StaleEpochError,
    UnavailableError,
    UnconfirmedError,
    WouldDegradeError,
)
from relight.tasks.aio import AsyncTaskRun
from relight.tasks.database import Database
from relight.tasks.effects import RefusedError, UnknownEffectError
from relight.tasks.results import UnstorableError
from relight.tasks.steps import Retry, StepFailedError, TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import StatePair

    from relight.tasks.ledger import Ledger, Task

pytestmark = pytest.mark.servers

RETRY = Retry(attempts=6, first_s=1.0, factor=2.0, at_most_s=60.0, jitter=0.0, here_s=2.0)


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    database = Database(make_state(state_pair, "steps_tests").primary, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return clean_ledger(database)


@pytest.fixture
def task(ledger: Ledger) -> Task:
    return claimed(ledger, "a task")


class Life:
    """A task's life after life, each in the hands of a new worker."""

    def __init__(self, ledger: Ledger, task: Task) -> None:
        self.ledger = ledger
        self.task = task
        self.clock = FakeClock()
        self.lease = Held()

    def run(self, **options: Any) -> TaskRun:
        """The present life."""
        return TaskRun(
            self.ledger,
            self.task,
            lease=self.lease,
            clock=self.clock,
            claim_s=30.0,
            claimed_at=self.clock.monotonic(),
            retry=RETRY,
            **options,
        )

    def next(self) -> TaskRun:
        """The worker died, and another claims the task."""
        self.task = next_life(self.ledger, self.task)
        return self.run()


@pytest.fixture
def life(ledger: Ledger, task: Task) -> Life:
    return Life(ledger, task)


class Spy:
    """Counts the calls of a method, and lets them through."""

    def __init__(self, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._call = getattr(owner, name)
        monkeypatch.setattr(owner, name, self)

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self._call(*args, **named)


def asynchronous(fn: Callable[[], Any]) -> Callable[[], Any]:
    """The same as a coroutine function."""

    async def called() -> Any:
        await asyncio.sleep(0)
        return fn()

    return called


def in_each_way(run: TaskRun, name: str, fn: Callable[[], Any], way: str, **options: Any) -> Any:
    """Run a step as a function, as a coroutine, as a function of a coroutine, or as a block."""
    match way:
        case "function":
            return run.run(name, fn, **options)
        case "function, from a coroutine":
            return asyncio.run(AsyncTaskRun(run).run(name, fn, **options))
        case "coroutine":
            return asyncio.run(AsyncTaskRun(run).run(name, asynchronous(fn), **options))
        case "lambda of a coroutine":
            return asyncio.run(AsyncTaskRun(run).run(name, lambda: asynchronous(fn)(), **options))
        case "partial of a coroutine":
            return asyncio.run(AsyncTaskRun(run).run(name, partial(asynchronous(fn)), **options))
        case "block":
            with run.step(name, **options) as step:
                return step.result if step.done else step.save(fn())
        case _:
            return asyncio.run(_in_async_block(run, name, fn, options))


async def _in_async_block(run: TaskRun, name: str, fn: Callable[[], Any], options: dict[str, Any]) -> Any:
    async with AsyncTaskRun(run).step(name, **options) as step:
        return step.result if step.done else await step.save(fn())


RUNS = [
    "function",
    "function, from a coroutine",
    "coroutine",
    "lambda of a coroutine",
    "partial of a coroutine",
]
BLOCKS = ["block", "asynchronous block"]


@pytest.mark.parametrize("way", RUNS + BLOCKS)
def test_a_step_runs_once(life: Life, way: str) -> None:
    """A step that is done gives back its stored result, in this life and in the next, and is told apart by its key."""
    counter = itertools.count(1)
    for live in (life.run, life.next, life.next):
        run = live()
        for _ in range(2):
            assert in_each_way(run, "think", lambda: (next(counter), "é\0"), way) == [1, "é\0"]
    assert in_each_way(life.run(), "think", lambda: next(counter), way, key="think again") == 2
    assert next(counter) == 3


def test_a_resumed_task_runs_no_finished_step_again(life: Life) -> None:
    """A person's resuming counts attempts anew; what is done stays done."""
    assert life.run().run("look", lambda: "once") == "once"
    life.ledger.park(life.task, reason="for a person")
    life.ledger.resume(life.task.id)
    resumed = life.ledger.claim(life.task.id, worker="next", lease_s=30)
    assert resumed is not None
    assert resumed.attempts == 1
    life.task = resumed
    assert life.run().run("look", lambda: "twice") == "once"


@pytest.mark.parametrize("way", RUNS + BLOCKS)
def test_the_first_life_gets_what_the_later_ones_get(life: Life, way: str) -> None:
    """fails when a handler sees a tuple first and a list after a crash: the result is JSON from the start."""
    value = {"a": (1, 2), 3: [None, 1e20, "\ud800"]}
    first = in_each_way(life.run(), "s", lambda: value, way)
    assert repr(first) == repr(as_json(value))
    assert repr(in_each_way(life.next(), "s", lambda: None, way)) == repr(first)


@pytest.mark.parametrize("way", RUNS)
def test_none_is_a_result(life: Life, way: str) -> None:
    """A step that returns nothing is done nevertheless."""
    fn = Flaky(0, ValueError(), result=None)
    assert in_each_way(life.run(), "s", fn, way) is None
    assert in_each_way(life.next(), "s", fn, way) is None
    assert fn.calls == 1


def test_a_caller_that_changes_a_result_changes_its_own(life: Life) -> None:
    """fails when what a handler does to a result is seen by whoever asks for the step again."""
    run = life.run()
    run.run("s", lambda: {"n": [1]})["n"].append(2)
    assert run.run("s", lambda: None) == {"n": [1]}


@pytest.mark.parametrize("uncounted", [True, False])
def test_a_life_whose_attempts_count_anew_has_its_steps(life: Life, uncounted: bool) -> None:
    """fails when a task that a person resumed, or whose life did not count, does its finished steps again."""
    life.run().run("s", lambda: 1)
    if uncounted:
        life.ledger.release(life.task, error="e", counted=False)
    else:
        life.ledger.park(life.task, reason="r")
        life.ledger.resume(life.task.id)
    run = life.next()
    assert run.task.attempts == 1
    assert run.run("s", lambda: 2) == 1


class TestFailing:
    """A step that raises."""

    @pytest.mark.parametrize("way", RUNS)
    def test_failures_are_counted_across_lives(self, life: Life, way: str) -> None:
        """Short waits are waited for here; for a longer one the task is given back, and a later life goes on
        counting."""
        fn = Flaky(4, ValueError("not yet"))
        retry = replace(RETRY, first_s=0.01, factor=8.0, here_s=0.1)
        with pytest.raises(AgainLaterError, match="failed 3 times, now with ValueError: not yet") as caught:
            in_each_way(life.run(), "s", fn, way, retry=retry)
        assert caught.value.wait_s == pytest.approx(0.64)
        with pytest.raises(AgainLaterError, match="failed 4 times"):
            in_each_way(life.next(), "s", fn, way, retry=retry)
        assert in_each_way(life.next(), "s", fn, way, retry=retry) == "done"
        assert fn.calls == 5

    def test_the_waits_are_those_of_the_policy(self, life: Life) -> None:
        """1 s and 2 s are waited for here; 4 s are not."""
        began = life.clock.monotonic()
        with pytest.raises(AgainLaterError) as caught:
            life.run().run("s", Flaky(9, ValueError()))
        assert (life.clock.monotonic() - began, caught.value.wait_s) == (3.0, 4.0)

    def test_a_step_that_keeps_failing_ends_its_task(self, life: Life) -> None:
        """fails when a step failed as often as its policy allows, in all lives together."""
        fn = Flaky(99, ValueError("never"))
        for _ in range(5):
            with pytest.raises(AgainLaterError):
                life.next().run("s", fn, retry=replace(RETRY, here_s=0))
        with pytest.raises(StepFailedError, match="failed 6 times, at last with ValueError: never") as caught:
            life.next().run("s", fn, retry=replace(RETRY, here_s=0))
        assert isinstance(caught.value.__cause__, ValueError)
        assert fn.calls == 6

    def test_failures_of_one_step_are_not_those_of_another(self, life: Life) -> None:
        """Each step, and each key of it, has a count of its own."""
        run = life.run()
        retry = replace(RETRY, attempts=2, here_s=99)
        for key in ("a", "b", "c"):
            assert run.run("s", Flaky(1, ValueError()), key=key, retry=retry) == "done"

    def test_a_success_forgets_the_failures(self, life: Life, ledger: Ledger) -> None:
        """A finished step has its result and no error."""
        run = life.run()
        run.run("s", Flaky(2, ValueError("e")))
        step = ledger.steps(life.task)["s"]
        assert (step.done, step.error) == (True, None)

    @pytest.mark.parametrize("wait_s", [0.0, 90.0])
    @pytest.mark.parametrize("way", RUNS[:3])
    def test_a_step_that_waits_has_not_failed(self, life: Life, way: str, wait_s: float) -> None:
        """fails when a step that says that it is not the time is tried earlier, or parks its task because it was said
        too often: what it says comes out as it is, also of a group, and is not counted."""
        waits = WouldDegradeError("busy", wait_s=wait_s, waits_for="provider:a")
        for exc in (waits, ExceptionGroup("side by side", [ProvidersDownError("down"), waits])):
            fn = Flaky(99, exc)
            before = books(life.ledger.database)
            with pytest.raises(type(exc)) as caught:
                in_each_way(life.run(), "s", fn, way, retry=replace(RETRY, attempts=1))
            assert caught.value is exc
            assert fn.calls == 1
            assert books(life.ledger.database) == before

    def test_what_failed_beside_a_wait_is_a_failure(self, life: Life) -> None:
        """A step of several calls of which one waits and one failed has failed."""
        both = ExceptionGroup("side by side", [AgainLaterError("later"), ValueError("v")])
        assert life.run().run("s", Flaky(1, both)) == "done"
        with pytest.raises(AgainLaterError, match="failed 1 times"):
            life.run().run("t", Flaky(1, both), retry=replace(RETRY, here_s=0))

    @pytest.mark.parametrize(
        "exc",
        [
            LeaseLostError("l"),
            StaleEpochError("s"),
            UnconfirmedError("u"),
            RefusedError("r"),
            UnknownEffectError("u"),
            StepFailedError("f"),
            UnstorableError("j"),
        ],
        ids=lambda exc: type(exc).__name__,
    )
    @pytest.mark.parametrize("way", RUNS[:3])
    def test_what_is_not_to_be_tried_again_is_not(self, life: Life, exc: Exception, way: str) -> None:
        """Errors that a repetition cannot mend, or that are not this worker's to write, come out as they are."""
        fn = Flaky(9, exc)
        before = books(life.ledger.database)
        with pytest.raises(type(exc)) as caught:
            in_each_way(life.run(), "s", fn, way)
        assert caught.value is exc
        assert fn.calls == 1
        assert books(life.ledger.database) == before

    def test_a_result_that_cannot_be_stored_is_hopeless(self, life: Life) -> None:
        """fails when a step returns what is not JSON: it is not tried twenty times."""
        fn = Flaky(0, ValueError(), result={1, 2})
        with pytest.raises(UnstorableError, match="the result of step 's' of task 'a task' is not JSON"):
            life.run().run("s", fn)
        assert fn.calls == 1

    def test_errors_of_any_text_are_recorded(self, life: Life, ledger: Ledger) -> None:
        """fails when an error's text cannot be stored, or is megabytes: the step fails all the same."""
        with pytest.raises(AgainLaterError):
            life.run().run("s", Flaky(9, ValueError("a\0b\ud800🦉" + "x" * 3_000_000)), retry=replace(RETRY, here_s=0))
        error = ledger.steps(life.task)["s"].error
        assert error is not None
        assert error.startswith("ValueError: a\ufffdb")
        assert len(error) == 10_000

    def test_an_interrupt_is_no_failure(self, life: Life, ledger: Ledger) -> None:
        """What ends the process is not counted against the step, and leaves it open to whoever comes next."""
        with pytest.raises(KeyboardInterrupt):
            life.run().run("s", lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert ledger.steps(life.task) == {}
        assert life.next().run("s", lambda: 1) == 1


class TestNaming:
    """Which step is which."""

    @pytest.mark.parametrize("way", ["function", "coroutine", *BLOCKS])
    @pytest.mark.parametrize(
        ("name", "key"), [("a\0", ""), ("\ud800", ""), ("x" * 513, ""), ("", ""), ("a", "b\0"), ("a\0", "b")]
    )
    def test_odd_names_are_refused_before_anything_is_done(self, life: Life, way: str, name: str, key: str) -> None:
        """fails when a step has a name that cannot be stored: it is refused before its function is called."""
        fn = Flaky(0, ValueError())
        with pytest.raises(PermanentError, match="cannot be an id or a key"):
            in_each_way(life.run(), name, fn, way, key=key)
        assert fn.calls == 0

    @pytest.mark.parametrize("name", ["ü🦉", "%s", "a.b/c", " "])
    def test_names_are_any_text(self, life: Life, name: str) -> None:
        """Whatever can be stored names a step."""
        assert life.run().run(name, lambda: name) == name
        assert life.next().run(name, lambda: None) == name

    def test_a_step_that_is_open_is_not_opened_again(self, life: Life) -> None:
        """fails when two parts of a task do the same step at once: one of them is told so, and nothing runs twice."""
        run = life.run()
        with run.step("s") as step:
            with pytest.raises(ConflictError, match="'s' of task 'a task' is under way"), run.step("s"):
                pass
            with run.step("s", key="other"):
                pass
            step.save(1)
        assert run.run("s", lambda: 2) == 1

    def test_two_coroutines_of_one_step(self, life: Life) -> None:
        """The same for coroutines: of those that come together one runs, and the others are told."""
        fn = Flaky(0, ValueError())
        ran = threading.Event()

        async def scenario() -> list[Any]:
            run = AsyncTaskRun(life.run())

            async def slow() -> Any:
                ran.set()
                await asyncio.sleep(0.05)
                return fn()

            return await asyncio.gather(*[run.run("s", slow) for _ in range(5)], return_exceptions=True)

        found = asyncio.run(scenario())
        assert fn.calls == 1
        assert sorted(map(str, map(type, found))) == sorted([str(str), *[str(ConflictError)] * 4])

    def test_steps_side_by_side(self, life: Life) -> None:
        """Different steps of a task may run at once, in threads and in coroutines."""
        run = life.run()
        calls = [partial(run.run, f"s{n}", partial(int, n)) for n in range(8)]
        assert together(*calls) == list(range(8))

        async def scenario() -> list[Any]:
            later = AsyncTaskRun(life.next())
            return await asyncio.gather(*[later.run(f"s{n}", lambda: None) for n in range(8)])

        assert asyncio.run(scenario()) == list(range(8))

    def test_a_step_within_a_step(self, life: Life) -> None:
        """A step may be made of steps; the inner ones are not repeated when the outer one is."""
        inner = Flaky(0, ValueError(), result=1)
        run = life.run()

        def outer() -> Any:
            assert run.run("inner", inner) == 1
            return flaky()

        flaky = Flaky(2, ValueError())
        assert run.run("outer", outer) == "done"
        assert (inner.calls, flaky.calls) == (1, 3)

    def test_a_step_that_was_left_is_free(self, life: Life) -> None:
        """A block that ends without a result, or by an error, or by being cancelled, can be entered again."""
        run = life.run()
        with run.step("s"):
            pass
        with pytest.raises(ZeroDivisionError), run.step("s"):
            1 / 0  # noqa: B018

        async def cancelled() -> None:
            async def forever() -> None:
                await asyncio.Event().wait()

            job = asyncio.create_task(AsyncTaskRun(run).run("s", forever))
            await until(lambda: "s" in run._open, "the step to be open")
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
            assert await AsyncTaskRun(run).run("s", lambda: 1) == 1

        asyncio.run(cancelled())

    def test_a_result_is_saved_once(self, life: Life) -> None:
        """fails when a block saves twice, or saves what an earlier life did."""
        run = life.run()
        with run.step("s") as step:
            step.save(1)
            with pytest.raises(ConflictError):
                step.save(2)
        with life.next().step("s") as step:
            assert (step.done, step.result) == (True, 1)
            with pytest.raises(ConflictError, match="earlier life"):
                step.save(3)


class TestMemory:
    """What a step remembers."""

    @pytest.fixture(autouse=True)
    def _remembered(self, database: Database) -> Iterator[None]:
        sql(database, "create table remembered (what text)")
        yield
        sql(database, "drop table remembered")

    def memories(self, database: Database) -> list[str]:
        """What was remembered."""
        return [row[0] for row in sql(database, "select what from remembered")]

    @pytest.mark.parametrize("way", RUNS + BLOCKS)
    def test_a_step_and_its_memory_are_one(self, life: Life, database: Database, way: str) -> None:
        """What a step remembers is committed with its result, once, and gets the result as it is stored."""

        def remember(cur: Any, result: Any) -> None:
            cur.execute("insert into remembered values (%s)", [repr(result)])

        for live in (life.run, life.next):
            in_each_way(live(), "learn", lambda: (1, 2), way, remember=remember)
        assert self.memories(database) == ["[1, 2]"]

    @pytest.mark.parametrize("way", RUNS + BLOCKS)
    def test_a_memory_that_fails_takes_the_step_with_it(self, life: Life, database: Database, way: str) -> None:
        """fails when remembering fails: the step is not done, and nothing is remembered of it."""

        def remember(cur: Any, result: Any) -> None:
            cur.execute("insert into remembered values ('half')")
            raise UnavailableError("memory is away")

        with pytest.raises(UnavailableError, match="memory is away"):
            in_each_way(life.run(), "learn", lambda: 1, way, remember=remember)
        assert self.memories(database) == []
        assert in_each_way(life.next(), "learn", lambda: 2, way) == 2

    def test_a_memory_that_swallows_its_error(self, life: Life, database: Database) -> None:
        """fails when what remembers hides that its statement failed: the step is not done, and says so."""

        def remember(cur: Any, result: Any) -> None:
            with suppress(Exception):
                cur.execute("insert into no_such_table values (1)")

        with pytest.raises(PermanentError, match="nothing of it was committed"):
            life.run().run("learn", lambda: 1, remember=remember)
        assert life.next().run("learn", lambda: 2) == 2

    def test_a_zombie_remembers_nothing(self, life: Life, database: Database) -> None:
        """fails when a worker whose task went to another remembers: neither step nor memory is written."""
        zombie = life.run()
        life.next()
        with pytest.raises(LeaseLostError):
            zombie.run("learn", lambda: 1, remember=lambda cur, _: cur.execute("insert into remembered values ('z')"))
        assert self.memories(database) == []


class TestClaims:
    """What a worker knows of its claim."""

    def test_what_earlier_lives_did_is_read_once(self, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many steps there are, a later life asks the database for them once, and the first life never."""
        spy = Spy(life.ledger, "steps", monkeypatch)
        first = life.run()
        for n in range(5):
            first.run(f"s{n}", partial(int, n))
        assert spy.calls == 0
        later = life.next()
        assert [later.run(f"s{n}", lambda: None) for n in range(5)] == list(range(5))
        assert spy.calls == 1

    def test_a_claim_is_renewed_when_it_has_run_down(self, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        """Steps that follow each other quickly do not write to renew the claim each time; slow ones do."""
        spy = Spy(life.ledger, "extend", monkeypatch)
        run = life.run()
        for n in range(10):
            run.run(f"quick{n}", lambda: 1)
        assert spy.calls == 0
        life.clock.sleep(16)
        for n in range(10):
            run.run(f"later{n}", lambda: 1)
        assert spy.calls == 1
        run.check(29)
        with pytest.raises(LeaseLostError):
            run.check(31)

    def test_a_claim_of_unknown_age_is_renewed_first(self, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who does not say when the claim was asked for has none until it is renewed."""
        spy = Spy(life.ledger, "extend", monkeypatch)
        run = TaskRun(life.ledger, life.task, lease=life.lease, clock=life.clock)
        with pytest.raises(LeaseLostError):
            run.check()
        run.run("s", lambda: 1)
        assert spy.calls == 1
        run.check()

    def test_a_slow_renewal_counts_from_its_beginning(self, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        """fails when the time that a renewal took is counted as time that the claim lasts."""
        run = life.run()
        life.clock.sleep(20)
        extend = life.ledger.extend

        def slow(*args: Any, **named: Any) -> None:
            extend(*args, **named)
            life.clock.sleep(12)

        monkeypatch.setattr(life.ledger, "extend", slow)
        run.heartbeat()
        run.check(17.5)
        with pytest.raises(LeaseLostError, match=r"live for 18.0 s and 18 s are needed"):
            run.check(18)

    def test_a_lost_claim_ends_the_task(self, life: Life) -> None:
        """fails when the task has gone to another worker: the next step says so before its function is called, and a
        step that was running then stores nothing."""
        zombie = life.run()
        fn = Flaky(0, ValueError())

        def meanwhile() -> int:
            life.next()
            return 1

        with pytest.raises(LeaseLostError):
            zombie.run("running", meanwhile)
        assert life.ledger.steps(life.task) == {}
        life.clock.sleep(16)
        with pytest.raises(LeaseLostError):
            zombie.run("next", fn)
        assert fn.calls == 0
        with pytest.raises(LeaseLostError):
            zombie.finish(1)

    def test_a_lost_lease_stops_effects_and_not_thoughts(self, life: Life) -> None:
        """A region without its lease may compute, and does nothing to the world."""
        tool, run = RecordingTool(), life.run()
        life.lease.lost = True
        assert run.run("think", lambda: 1) == 1
        with pytest.raises(LeaseLostError):
            run.effect(tool, 1)
        assert tool.sent == []

    def test_a_renewal_that_hangs_stops_nobody(self, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        """fails when a database that says nothing to a heartbeat stops the event loop, and with it every other task
        of the worker."""
        hanging, go_on = threading.Event(), threading.Event()
        run = AsyncTaskRun(life.run())
        life.clock.sleep(16)
        gave_up = threading.Timer(10, go_on.set)

        def hang(*args: Any, **named: Any) -> None:
            hanging.set()
            go_on.wait()

        async def scenario() -> bool:
            async with run.step("s") as step:
                await step.save(1)
                life.clock.sleep(16)
                monkeypatch.setattr(life.ledger, "extend", hang)
                beating = asyncio.create_task(asyncio.to_thread(run.sync.heartbeat))
                await until(hanging.is_set, "the heartbeat to hang")
            left = not go_on.is_set()
            go_on.set()
            await beating
            return left

        gave_up.start()
        try:
            assert asyncio.run(scenario())
        finally:
            gave_up.cancel()


def test_two_lives_at_once(life: Life) -> None:
    """fails when a worker that was only slow and the one that replaced it do the same step: one result is stored, and
    both lives that go on see that one."""
    slow = life.run()
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        entered.set()
        assert go_on.wait(20)
        return "slow"

    with in_thread(lambda: slow.run("s", wait)) as found:
        wait_for(entered.is_set, "the slow worker to begin")
        fast = life.next()
        assert fast.run("s", lambda: "fast") == "fast"
        go_on.set()
    assert isinstance(found[0], LeaseLostError)
    assert life.next().run("s", lambda: None) == "fast"

"""Side effects on a real primary with a real standby: what happened, what did not, and what nobody knows."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fakes import FakeClock
from memory_helpers import make_state
from runtime_helpers import (
    Held,
    RecordingTool,
    books,
    claimed,
    clean_ledger,
    effects_of,
    in_thread,
    make_final,
    next_life,
    sql,
    together,
    wait_for,
)

from relight.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    PermanentError,
    UnavailableError,
    UnconfirmedError,
)
from relight.tasks.database import Database
from relight.tasks.effects import (
    BEGIN_WITHIN_S,
    Answer,
    Effect,
    Effects,
    EffectStatus,
    NotSentError,
    RefusedError,
    ResponseLostError,
    TooSoonError,
    UnansweredError,
    UnknownEffectError,
    effect_key,
)
from relight.tasks.ledger import Ledger, Status, Task
from relight.tasks.results import INLINE_BYTES, UnstorableError
from relight.tasks.steps import TaskRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import StatePair

pytestmark = pytest.mark.servers

REQUEST = {"to": "a@example.org", "body": "ü\0🦉"}


@pytest.fixture(scope="module")
def database(state_pair: StatePair) -> Iterator[Database]:
    database = Database(make_state(state_pair, "effects_tests").primary, confirm_timeout_s=10)
    yield database
    database.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return clean_ledger(database)


@pytest.fixture
def effects(ledger: Ledger) -> Effects:
    return Effects(ledger)


@pytest.fixture
def task(ledger: Ledger) -> Task:
    return claimed(ledger, "a task")


@pytest.fixture
def tool() -> RecordingTool:
    return RecordingTool()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lease() -> Held:
    return Held()


def living(ledger: Ledger, task: Task, clock: FakeClock | None = None, lease: Held | None = None) -> TaskRun:
    """A life of a task."""
    clock = clock or FakeClock()
    return TaskRun(ledger, task, lease=lease or Held(), clock=clock, claim_s=30, claimed_at=clock.monotonic())


def raising(exc: BaseException) -> Any:
    """A call that raises."""

    def call() -> None:
        raise exc

    return call


def only(effects: Effects) -> Effect:
    """The only effect there is."""
    [found] = effects.list(list(EffectStatus))
    return found


class Away:
    """Vaults that cannot be reached."""

    def put(self, key: str, data: bytes) -> None:
        raise UnavailableError("away")

    def get(self, key: str) -> bytes:
        raise UnavailableError("away")


def crash(ledger: Ledger, task: Task, tool: RecordingTool, *, acted: bool, key: str = "") -> None:
    """The worker dies in the middle of a call, after the tool acted or before: an intent is left."""

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    setattr(tool, "after" if acted else "before", raising(Killed()))
    with pytest.raises(Killed):
        living(ledger, task).effect(tool, REQUEST, key=key)
    tool.before = tool.after = lambda: None


class TestOnce:
    """An effect happens at most once."""

    def test_an_effect_happens_once(self, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects) -> None:
        """Whoever asks again gets the response, in this life and in later ones; the tool gets the key."""
        run = living(ledger, task)
        first = run.effect(tool, REQUEST)
        assert run.effect(tool, REQUEST) == first
        assert living(ledger, next_life(ledger, task)).effect(tool, REQUEST) == first
        key = effect_key("mail", REQUEST, task_id=task.id)
        assert tool.sent == [(key, REQUEST)]
        found = effects.get(key)
        assert found is not None
        assert (found.status, found.response, found.request) == (EffectStatus.DONE, first, REQUEST)
        assert (found.task_id, found.tool, found.sending) == (task.id, "mail", 1)

    def test_what_is_asked_for_at_once_is_done_once(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when threads of one task do the same effect at once: one sends, the others are told."""
        run = living(ledger, task)
        found = together(*[partial(run.effect, tool, REQUEST)] * 6)
        assert len(tool.sent) == 1
        assert all(isinstance(item, ConflictError) or item == {"id": tool.sent[0][0][:8]} for item in found)
        assert living(ledger, next_life(ledger, task)).effect(tool, REQUEST) == {"id": tool.sent[0][0][:8]}

    def test_lives_at_once_send_once(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when two runs of one task (a worker that was given two messages) do the same effect at once."""
        runs = [living(ledger, task) for _ in range(4)]
        found = together(*[partial(run.effect, tool, REQUEST) for run in runs])
        assert len(tool.sent) == 1
        assert all(isinstance(item, TooSoonError) or item == {"id": tool.sent[0][0][:8]} for item in found)

    def test_other_requests_are_other_effects(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """What differs in a letter, in a type, or in its tool, is another action."""
        run, other = living(ledger, task), RecordingTool(name="other")
        for request in ({"n": 1}, {"n": 1.0}, {"n": "1"}, {"n": True}, {"n": 1, "m": None}):
            run.effect(tool, request)
        run.effect(other, {"n": 1})
        assert (len(tool.sent), len(other.sent)) == (5, 1)

    def test_the_same_request_in_two_tasks_is_two_actions(
        self, ledger: Ledger, task: Task, tool: RecordingTool
    ) -> None:
        """Two tasks that send the same words both meant to."""
        living(ledger, task).effect(tool, REQUEST)
        living(ledger, claimed(ledger, "b")).effect(tool, REQUEST)
        assert len(tool.sent) == 2


class TestKeys:
    """What the action is."""

    def test_the_key_is_what_the_action_is(self) -> None:
        """The order of a request's fields does not change the key; its content, the tool and the task do."""
        key = effect_key("t", {"a": 1, "b": "ü"}, task_id="x")
        assert effect_key("t", {"b": "ü", "a": 1}, task_id="x") == key
        others = [
            effect_key("t", {"a": 2, "b": "ü"}, task_id="x"),
            effect_key("u", {"a": 1, "b": "ü"}, task_id="x"),
            effect_key("t", {"a": 1, "b": "ü"}, task_id="y"),
            effect_key("t", {"a": 1, "b": "ü"}, business_key="x"),
        ]
        assert len({key, *others}) == 5

    def test_the_key_is_of_what_is_stored(self) -> None:
        """fails when a request that a later life reads back from JSON gets another key: tuples are lists, numbers as
        keys are text, halves of a character are one."""
        pairs: list[tuple[Any, Any]] = [
            ((1, (2, 3)), [1, [2, 3]]),
            ({9: "a", 10: "b"}, {"9": "a", "10": "b"}),
            ({None: 1, "a": 2}, {"null": 1, "a": 2}),
            ("\ud83d\ude00", "\U0001f600"),
        ]
        for first, later in pairs:
            assert effect_key("t", first, task_id="x") == effect_key("t", later, task_id="x")

    def test_parts_do_not_run_into_each_other(self) -> None:
        """fails when a tool's or a task's name with a line break makes two actions one."""
        keys = {
            effect_key("t\nx", 1, task_id="y"),
            effect_key("t", 1, task_id="x\ny"),
            effect_key("t", 1, task_id="key"),
            effect_key("t", 1, business_key="1"),
            effect_key("t\nkey", 1, task_id="k"),
            effect_key("t", 1, business_key="k\n1"),
            effect_key("t", 1, task_id="key\nk"),
        }
        assert len(keys) == 7

    @pytest.mark.parametrize("key", ["\0", "\ud800", "🦉" * 1000, "a\nb"])
    def test_business_keys_are_any_text(self, ledger: Ledger, task: Task, tool: RecordingTool, key: str) -> None:
        """Whatever names the action names it."""
        run = living(ledger, task)
        first = run.effect(tool, 1, key=key)
        assert run.effect(tool, 2, key=key) == first
        assert len(tool.sent) == 1

    @pytest.mark.parametrize(
        "request_", [{1, 2}, b"x", float("nan"), {"a": {"b": object()}}, {(1,): 2}], ids=["set", "b", "nan", "o", "k"]
    )
    def test_a_request_that_is_not_json_is_refused(
        self, ledger: Ledger, task: Task, tool: RecordingTool, request_: Any
    ) -> None:
        """fails when a request cannot be stored: nothing is sent or recorded, and it is not tried again and again."""
        before = books(ledger.database)
        for key in ("", "a business key"):
            with pytest.raises(UnstorableError, match="request to mail"):
                living(ledger, task).effect(tool, request_, key=key)
        assert tool.sent == []
        assert books(ledger.database) == before

    def test_a_request_has_a_limit(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when a request does not fit a row: it is refused before it is sent."""
        living(ledger, task).effect(tool, "x" * (INLINE_BYTES - 2))
        with pytest.raises(UnstorableError, match="request to mail has 65537 bytes of JSON"):
            living(ledger, task).effect(tool, "x" * (INLINE_BYTES - 1))
        assert len(tool.sent) == 1

    @pytest.mark.parametrize("name", ["", "a\0", "\ud800", "x" * 600])
    def test_a_tool_with_an_odd_name_is_refused(self, ledger: Ledger, task: Task, name: str) -> None:
        """fails when a tool's name cannot be stored: nothing is sent."""
        odd = RecordingTool(name=name)
        with pytest.raises(PermanentError, match="cannot be an id or a key"):
            living(ledger, task).effect(odd, 1)
        assert odd.sent == []


class TestFailing:
    """A call that raises."""

    def test_what_was_not_sent_may_be_sent(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """A tool that says it did not act is called again by whoever tries again, at once, and not asked."""
        run = living(ledger, task)
        for sending in (1, 2):
            tool.before = raising(NotSentError("connection refused"))
            with pytest.raises(NotSentError):
                run.effect(tool, REQUEST)
            found = only(Effects(ledger))
            assert (found.status, found.sending, found.error) == (EffectStatus.FAILED, sending, "connection refused")
        tool.before = lambda: None
        assert run.effect(tool, REQUEST)
        assert (len(tool.acted), tool.asked) == (1, [])
        assert only(Effects(ledger)).error is None

    def test_what_was_refused_is_failed(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """A tool that refuses for good: the effect certainly did not happen, and its task says why."""
        tool.before = raising(RefusedError("no such address"))
        with pytest.raises(RefusedError):
            living(ledger, task).effect(tool, REQUEST)
        assert only(Effects(ledger)).status is EffectStatus.FAILED

    @pytest.mark.parametrize("exc", [UnavailableError("no answer"), ValueError("a\0\ud800"), ConnectionResetError()])
    def test_whatever_else_is_raised_leaves_it_open(
        self, ledger: Ledger, task: Task, tool: RecordingTool, exc: Exception
    ) -> None:
        """After any other error nobody knows, and nothing is sent again before the tool was asked."""
        tool.after = raising(exc)
        with pytest.raises(UnansweredError, match="may or may not have acted") as caught:
            living(ledger, task).effect(tool, REQUEST)
        assert caught.value.__cause__ is exc
        found = only(Effects(ledger))
        assert found.status is EffectStatus.UNKNOWN
        assert found.error is not None
        assert found.error.startswith(type(exc).__name__)
        tool.after = lambda: None
        with pytest.raises(TooSoonError) as soon:
            living(ledger, task).effect(tool, REQUEST)
        assert 0 < soon.value.wait_s <= BEGIN_WITHIN_S + tool.timeout_s
        assert (len(tool.sent), tool.asked) == (1, [])
        make_final(ledger)
        assert living(ledger, task).effect(tool, REQUEST) == {"id": found.key[:8]}
        assert (len(tool.acted), len(tool.sent), len(tool.asked)) == (1, 1, 1)

    def test_a_response_that_is_not_json(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when a tool answers with what cannot be stored: it acted, and is not called again."""
        tool.response = {1, 2}
        with pytest.raises(UnstorableError, match="the response to effect"):
            living(ledger, task).effect(tool, REQUEST)
        make_final(ledger)
        with pytest.raises(UnstorableError):
            living(ledger, next_life(ledger, task)).effect(tool, REQUEST)
        assert len(tool.acted) == 1
        assert effects_of(ledger) != [(task.id, EffectStatus.FAILED)]

    @pytest.mark.parametrize("response", [None, "", {"a": "\0\ud800"}, [1e20, (1, 2)], "x" * (INLINE_BYTES - 2)])
    def test_responses_come_back_as_they_were(
        self, ledger: Ledger, task: Task, tool: RecordingTool, response: Any
    ) -> None:
        """A response is the same in the first life and in later ones; None is one too."""
        tool.send = lambda request, *, key: response  # type: ignore[method-assign]
        first = living(ledger, task).effect(tool, REQUEST)
        later = living(ledger, next_life(ledger, task)).effect(RecordingTool(), REQUEST)
        assert repr(first) == repr(later)


class TestAfterACrash:
    """A worker died between the call and its record."""

    @pytest.mark.parametrize("acted", [True, False])
    def test_the_tool_is_asked(self, ledger: Ledger, task: Task, tool: RecordingTool, acted: bool) -> None:
        """What happened is taken over, what did not is sent; either way it has happened once."""
        crash(ledger, task, tool, acted=acted)
        again = next_life(ledger, task)
        with pytest.raises(TooSoonError):
            living(ledger, again).effect(tool, REQUEST)
        assert (len(tool.sent), tool.asked) == (1, [])
        make_final(ledger)
        assert living(ledger, again).effect(tool, REQUEST) == {"id": tool.sent[0][0][:8]}
        assert (len(tool.acted), len(tool.asked)) == (1, 1)
        found = only(Effects(ledger))
        assert (found.status, found.sending) == (EffectStatus.DONE, 1 if acted else 2)

    @pytest.mark.parametrize("acted", [True, False])
    def test_who_cannot_tell_leaves_it_to_a_person(
        self, ledger: Ledger, task: Task, tool: RecordingTool, acted: bool
    ) -> None:
        """An effect of which nobody can tell is unknown, is never retried, and its error says how to find out."""
        tool.says = Answer.CANNOT_TELL
        crash(ledger, task, tool, acted=acted)
        make_final(ledger)
        for _ in range(3):
            task = next_life(ledger, task)
            with pytest.raises(UnknownEffectError, match=r"may or may not have happened.*effects resolve"):
                living(ledger, task).effect(tool, REQUEST)
        assert len(tool.sent) == 1
        assert effects_of(ledger) == [(task.id, EffectStatus.UNKNOWN)]

    def test_a_tool_that_cannot_be_asked_is_asked_later(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when the tool is away when it is asked: nothing is sent, and the question is put again."""
        crash(ledger, task, tool, acted=True)
        make_final(ledger)
        tool.says = UnavailableError("away")
        task = next_life(ledger, task)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="away"):
                living(ledger, task).effect(tool, REQUEST)
            assert only(Effects(ledger)).status is EffectStatus.UNKNOWN
        tool.says = None
        living(ledger, task).effect(tool, REQUEST)
        assert (len(tool.acted), len(tool.sent)) == (1, 1)

    def test_a_tool_whose_question_raises_anything(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when `find` raises what nobody expected: the effect stays open, and nothing is sent."""
        crash(ledger, task, tool, acted=False)
        make_final(ledger)
        tool.says = KeyError("id")
        task = next_life(ledger, task)
        with pytest.raises(KeyError):
            living(ledger, task).effect(tool, REQUEST)
        assert len(tool.sent) == 1
        assert only(Effects(ledger)).status in (EffectStatus.INTENT, EffectStatus.UNKNOWN)

    @pytest.mark.parametrize("acted", [True, False])
    def test_a_tool_that_honours_keys_is_sent_the_same_again(self, ledger: Ledger, task: Task, acted: bool) -> None:
        """Within the time for which it honours keys it is not asked: the same key makes it one."""
        tool = RecordingTool(honours_keys_s=3600)
        tool.says = Answer.CANNOT_TELL
        crash(ledger, task, tool, acted=acted)
        again = next_life(ledger, task)
        with pytest.raises(TooSoonError):
            living(ledger, again).effect(tool, REQUEST)
        make_final(ledger)
        living(ledger, again).effect(tool, REQUEST)
        assert (len(tool.acted), len(tool.sent), tool.asked) == (1, 2, [])
        assert tool.sent[0] == tool.sent[1]

    @pytest.mark.parametrize("age_s", [3600 - BEGIN_WITHIN_S - 1.0, 4000])
    def test_a_key_that_may_be_forgotten_is_not_relied_on(self, ledger: Ledger, task: Task, age_s: float) -> None:
        """fails when the tool may have forgotten the key by the time that a second call reaches it: it is asked, and
        where it cannot tell, nothing is sent."""
        tool = RecordingTool(honours_keys_s=3600)
        tool.says = Answer.CANNOT_TELL
        crash(ledger, task, tool, acted=True)
        make_final(ledger)
        sql(ledger.database, "update relight.effects set intended_at = now() - %s * interval '1 s'", [age_s])
        with pytest.raises(UnknownEffectError):
            living(ledger, next_life(ledger, task)).effect(tool, REQUEST)
        assert (len(tool.acted), len(tool.sent), len(tool.asked)) == (1, 1, 1)

    @pytest.mark.parametrize("exc", [NotSentError("closed"), RefusedError("no")], ids=repr)
    def test_a_second_sending_that_was_not_made_says_nothing_of_the_first(
        self, ledger: Ledger, task: Task, exc: Exception
    ) -> None:
        """fails when an effect that happened is taken for one that did not, because the same under its key could not be
        sent again: once the key is forgotten it would be done twice."""
        tool = RecordingTool(honours_keys_s=3600)
        tool.says = Answer.CANNOT_TELL
        crash(ledger, task, tool, acted=True)
        make_final(ledger)
        tool.before = raising(exc)
        with pytest.raises(type(exc)):
            living(ledger, next_life(ledger, task)).effect(tool, REQUEST)
        assert only(Effects(ledger)).status is EffectStatus.UNKNOWN
        tool.before = lambda: None
        make_final(ledger)
        sql(ledger.database, "update relight.effects set intended_at = intended_at - interval '2 h'")
        with pytest.raises(UnknownEffectError):
            living(ledger, next_life(ledger, task)).effect(tool, REQUEST)
        assert len(tool.acted) == 1

    def test_the_age_of_a_key_is_that_of_its_first_sending(self, ledger: Ledger, task: Task) -> None:
        """fails when each sending under a key lengthens the time for which the tool is trusted to know it."""
        tool = RecordingTool(honours_keys_s=3600)
        tool.says = Answer.CANNOT_TELL
        for hours in (0, 0.5):
            sql(ledger.database, "update relight.effects set intended_at = intended_at - %s * interval '1 h'", [hours])
            crash(ledger, task, tool, acted=True)
            make_final(ledger)
            task = next_life(ledger, task)
        sql(ledger.database, "update relight.effects set intended_at = intended_at - interval '0.6 h'")
        with pytest.raises(UnknownEffectError):
            living(ledger, task).effect(tool, REQUEST)
        assert (len(tool.acted), len(tool.sent)) == (1, 2)

    @pytest.mark.parametrize("end", ["finish", "park"])
    def test_intents_that_are_left_behind_are_unknown(self, ledger: Ledger, task: Task, end: str) -> None:
        """A task that ends while nobody knows what became of an effect leaves it listed for a person."""
        tool, effects = RecordingTool(), Effects(ledger)
        crash(ledger, task, tool, acted=True)
        living(ledger, task).effect(tool, "another")
        task = next_life(ledger, task)
        if end == "finish":
            ledger.finish(task, 1)
        else:
            ledger.park(task, reason="r")
        assert [found.request for found in effects.list()] == [REQUEST]
        assert only_status(effects, "another") is EffectStatus.DONE

    def test_a_release_leaves_intents_as_they_are(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """A task that comes again settles its effects itself."""
        crash(ledger, task, tool, acted=True)
        ledger.release(task, error="e")
        assert effects_of(ledger) == [(task.id, EffectStatus.INTENT)]


def only_status(effects: Effects, request: Any) -> EffectStatus:
    [found] = [item.status for item in effects.list(list(EffectStatus)) if item.request == request]
    return found


class TestBusinessKeys:
    """One action in several tasks."""

    def test_an_action_that_is_named_is_one_in_every_task(
        self, ledger: Ledger, task: Task, tool: RecordingTool
    ) -> None:
        """The invoice is paid once, whichever task pays it, and whatever else the request says."""
        first = living(ledger, task).effect(tool, {"amount": 1}, key="invoice 7")
        assert living(ledger, claimed(ledger, "b")).effect(tool, {"amount": 2}, key="invoice 7") == first
        assert len(tool.sent) == 1
        living(ledger, claimed(ledger, "c")).effect(tool, {"amount": 1}, key="invoice 8")
        assert len(tool.sent) == 2

    def test_the_second_task_waits_for_the_first(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """While one task does it, another is told when to come again; then it gets the response."""
        entered, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            entered.set()
            assert go_on.wait(20)

        tool.before = wait
        second = claimed(ledger, "b")
        sql(ledger.database, "update relight.tasks set lease_until = now() + interval '1 h'")
        with in_thread(lambda: living(ledger, task).effect(tool, REQUEST, key="k")) as found:
            wait_for(entered.is_set, "the first task to begin")
            with pytest.raises(TooSoonError) as soon:
                living(ledger, second).effect(tool, REQUEST, key="k")
            assert 0 < soon.value.wait_s <= BEGIN_WITHIN_S + tool.timeout_s
            go_on.set()
        assert living(ledger, second).effect(tool, REQUEST, key="k") == found[0]
        assert len(tool.sent) == 1

    def test_what_one_task_left_open_another_settles(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """A task that needs the action finds out what became of it, also when the first one has ended."""
        crash(ledger, task, tool, acted=False, key="k")
        ledger.park(next_life(ledger, task), reason="r")
        make_final(ledger)
        assert living(ledger, claimed(ledger, "b")).effect(tool, REQUEST, key="k")
        assert len(tool.acted) == 1
        assert effects_of(ledger) == [("b", EffectStatus.DONE)]

    def test_eight_tasks_at_once(self, ledger: Ledger, tool: RecordingTool) -> None:
        """Eight tasks that want the same action at once do it once."""
        tasks = [claimed(ledger, f"t{n}") for n in range(8)]
        sql(ledger.database, "update relight.tasks set lease_until = now() + interval '1 h'")
        found = together(*[partial(living(ledger, task).effect, tool, REQUEST, key="k") for task in tasks])
        assert len(tool.sent) == 1
        assert all(isinstance(item, TooSoonError) or item == {"id": tool.sent[0][0][:8]} for item in found)


class TestAPerson:
    """Who finds out what no tool can tell."""

    @pytest.fixture
    def unknown(self, ledger: Ledger, task: Task, tool: RecordingTool) -> Effect:
        """An effect of a parked task that waits for a person; it did happen."""
        tool.says = Answer.CANNOT_TELL
        crash(ledger, task, tool, acted=True)
        make_final(ledger)
        again = next_life(ledger, task)
        with pytest.raises(UnknownEffectError) as caught:
            living(ledger, again).effect(tool, REQUEST)
        ledger.park(again, reason="r", waits_for=caught.value.key)
        return only(Effects(ledger))

    def test_all_that_wait_for_it_go_on(
        self, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects
    ) -> None:
        """A person is asked once for an action that two tasks need; a task that is parked for another reason stays."""
        tool.says = Answer.CANNOT_TELL
        crash(ledger, task, tool, acted=True, key="invoice 7")
        make_final(ledger)
        for waiting in (next_life(ledger, task), claimed(ledger, "second")):
            with pytest.raises(UnknownEffectError) as caught:
                living(ledger, waiting).effect(tool, REQUEST, key="invoice 7")
            ledger.park(waiting, reason="r", waits_for=caught.value.key)
        ledger.park(claimed(ledger, "other"), reason="r")
        effects.resolve(only(effects), happened=True, response=7, who="ops")
        assert {ledger.task(id_).status for id_ in (task.id, "second")} == {Status.PENDING}
        assert ledger.task("other").status is Status.PARKED

    def test_a_response_that_is_not_json(self, ledger: Ledger, task: Task, effects: Effects) -> None:
        """fails when a person is asked whether something happened that the tool said had happened: what is asked for is
        its response."""
        tool = RecordingTool()
        tool.response = {1, 2}
        with pytest.raises(UnstorableError):
            living(ledger, task).effect(tool, REQUEST)
        found = only(effects)
        assert (found.kept, len(tool.acted)) == (False, 1)
        tool.says = Answer.CANNOT_TELL
        with pytest.raises(ResponseLostError, match="its response was not kept") as caught:
            living(ledger, task).effect(tool, REQUEST)
        ledger.park(task, reason="r", waits_for=caught.value.key)
        effects.resolve(only(effects), happened=True, response=[1, 2], who="ops")
        assert living(ledger, next_life(ledger, task)).effect(tool, REQUEST) == [1, 2]
        assert len(tool.acted) == 1

    def test_a_response_that_no_vault_took(self, ledger: Ledger, task: Task, effects: Effects) -> None:
        """A large response that could not be kept is asked for again, and the effect is not repeated."""
        tool = RecordingTool()
        tool.response = "x" * (INLINE_BYTES + 1)
        ledger.results = Away()
        with pytest.raises(UnavailableError):
            living(ledger, task).effect(tool, REQUEST)
        tool.response = "small"
        assert living(ledger, task).effect(tool, REQUEST) == "small"
        assert len(tool.acted) == 1

    def test_it_happened(self, ledger: Ledger, unknown: Effect, tool: RecordingTool, effects: Effects) -> None:
        """The task goes on with the response that the person found, and nothing is sent."""
        effects.resolve(unknown, happened=True, response={"id": "found"}, who="ops\0")
        assert living(ledger, next_life(ledger, ledger.task("a task"))).effect(tool, REQUEST) == {"id": "found"}
        assert len(tool.sent) == 1
        found = only(effects)
        assert (found.status, found.error) == (EffectStatus.DONE, "resolved by ops\ufffd")

    def test_it_did_not_happen(self, ledger: Ledger, unknown: Effect, tool: RecordingTool, effects: Effects) -> None:
        """The task goes on and sends it."""
        effects.resolve(unknown, happened=False, who="ops")
        assert ledger.task("a task").status is Status.PENDING
        assert living(ledger, next_life(ledger, ledger.task("a task"))).effect(tool, REQUEST)
        assert (len(tool.sent), only(effects).sending) == (2, 2)

    def test_it_is_resolved_once(self, unknown: Effect, effects: Effects) -> None:
        """fails when two people resolve the same effect, one of them otherwise: the first word counts."""
        effects.resolve(unknown, happened=True, response=1, who="a")
        with pytest.raises(ConflictError, match="waits for nobody"):
            effects.resolve(only(effects), happened=False, who="b")
        with pytest.raises(ConflictError):
            effects.resolve(unknown, happened=False, who="b")
        assert (only(effects).status, only(effects).response) == (EffectStatus.DONE, 1)

    def test_what_was_sent_anew_meanwhile_is_not_resolved(
        self, ledger: Ledger, unknown: Effect, tool: RecordingTool, effects: Effects
    ) -> None:
        """fails when a person resolves what they read an hour ago, and a new sending is on its way since."""
        effects.resolve(unknown, happened=False, who="a")
        crash(ledger, next_life(ledger, ledger.task("a task")), tool, acted=True)
        with pytest.raises(ConflictError):
            effects.resolve(unknown, happened=False, who="b")
        assert only(effects).status is EffectStatus.INTENT
        with pytest.raises(TooSoonError):
            effects.resolve(only(effects), happened=True, who="b")

    def test_a_person_is_told_when_it_is_too_soon(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """fails when somebody says `did not happen` of a call that is still on its way."""
        crash(ledger, task, tool, acted=False)
        with pytest.raises(TooSoonError, match=r"final in \d"):
            Effects(ledger).resolve(only(Effects(ledger)), happened=False, who="a")
        assert only(Effects(ledger)).status is EffectStatus.INTENT

    def test_a_task_that_is_not_parked_is_left_alone(
        self, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects
    ) -> None:
        """Resolving an effect of a task that ended, or runs, changes the effect alone."""
        crash(ledger, task, tool, acted=True)
        make_final(ledger)
        effects.resolve(only(effects), happened=True, who="a")
        assert ledger.task(task.id).status is Status.RUNNING

    def test_effects_are_found_by_how_their_key_begins(self, ledger: Ledger, task: Task, effects: Effects) -> None:
        """fails when what a person types names no effect, or more than one."""
        for n in range(40):
            effects.intend(task, key=effect_key("t", n), tool="t", request=n, final_s=0)
        key = effect_key("t", 7)
        assert effects.named(key[:12]).request == 7
        assert effects.named(key).request == 7
        with pytest.raises(NotFoundError, match="more than one"):
            effects.named(key[:1])
        for odd in ("", "%", "_", "g" * 12, "\0", "0" * 64):
            with pytest.raises(NotFoundError):
                effects.named(odd)

    def test_what_waits_is_listed_oldest_first(self, ledger: Ledger, task: Task, effects: Effects) -> None:
        """Open effects are listed by age, as many as are asked for."""
        for n in range(4):
            effects.intend(task, key=effect_key("t", n), tool="t", request=n, final_s=0)
        effects.settle(effect_key("t", 1), EffectStatus.DONE, sending=1)
        assert [found.request for found in effects.list(limit=2)] == [0, 2]


class TestTheRightToAct:
    """Who may send, and when."""

    def test_the_intent_is_in_the_standby_before_anything_is_sent(
        self, state_pair: StatePair, ledger: Ledger, task: Task, tool: RecordingTool
    ) -> None:
        """fails when the standby is silent: nothing is sent, and it is certain that nothing was."""
        impatient = Database(state_pair.primary.dsn("effects_tests"), confirm_timeout_s=0.3)
        hasty = Ledger(impatient, epoch=lambda: 1)
        tool.says = Answer.CANNOT_TELL
        state_pair.standby.process.freeze()
        try:
            for _ in range(2):
                with pytest.raises((UnconfirmedError, TooSoonError)):
                    living(hasty, task).effect(tool, REQUEST)
        finally:
            state_pair.standby.process.thaw()
            impatient.close()
        assert (tool.sent, tool.asked) == ([], [])

    def test_the_intent_reaches_the_standby(
        self, state_pair: StatePair, ledger: Ledger, task: Task, tool: RecordingTool
    ) -> None:
        """When the tool is called, the standby has the intent, whatever else the environment trades."""
        standby = Database(state_pair.standby.dsn("effects_tests"))
        seen: list[Any] = []

        def look() -> None:
            # Written there before the call; replayed a moment later.
            seen.extend(wait_for(lambda: sql_there(standby), "the intent to be in the standby"))

        tool.before = look
        living(ledger, task).effect(tool, REQUEST)
        assert seen == [("intent",)]
        standby.close()

    def test_no_effect_without_a_lease(
        self, ledger: Ledger, task: Task, tool: RecordingTool, lease: Held, effects: Effects
    ) -> None:
        """A region whose lease ran out after the intent sends nothing, and says so: the next life need not ask."""
        lease.lost = True
        with pytest.raises(LeaseLostError):
            living(ledger, task, lease=lease).effect(tool, REQUEST)
        assert (tool.sent, only(effects).status) == ([], EffectStatus.FAILED)
        lease.lost = False
        tool.says = Answer.CANNOT_TELL
        assert living(ledger, next_life(ledger, task)).effect(tool, REQUEST)
        assert (len(tool.sent), tool.asked) == (1, [])

    def test_no_effect_without_a_claim(
        self,
        ledger: Ledger,
        task: Task,
        tool: RecordingTool,
        clock: FakeClock,
        effects: Effects,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A worker that was held up until its claim ran out sends nothing, though the database has not noticed."""
        intend = Effects.intend

        def held_up(*args: Any, **named: Any) -> Any:
            sending = intend(*args, **named)
            clock.sleep(29.5)
            return sending

        monkeypatch.setattr(Effects, "intend", held_up)
        with pytest.raises(LeaseLostError, match="the claim on task"):
            living(ledger, task, clock).effect(tool, REQUEST)
        assert (tool.sent, only(effects).status) == ([], EffectStatus.FAILED)

    def test_no_effect_long_after_its_intent(
        self,
        ledger: Ledger,
        task: Task,
        tool: RecordingTool,
        clock: FakeClock,
        effects: Effects,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """fails when a worker sleeps between the intent and the call: others count on a call beginning soon."""
        intend = Effects.intend

        def held_up(*args: Any, **named: Any) -> Any:
            sending = intend(*args, **named)
            clock.sleep(BEGIN_WITHIN_S + 0.1)
            return sending

        monkeypatch.setattr(Effects, "intend", held_up)
        with pytest.raises(NotSentError, match="held up"):
            living(ledger, task, clock).effect(tool, REQUEST)
        assert (tool.sent, only(effects).status) == ([], EffectStatus.FAILED)
        monkeypatch.undo()
        assert living(ledger, task, clock).effect(tool, REQUEST)

    @pytest.mark.parametrize("timeout_s", [5.0, 25.0, 90.0])
    @pytest.mark.parametrize("thinking_s", [0.0, 14.0, 29.0])
    def test_a_slow_tool_has_its_time(
        self, ledger: Ledger, task: Task, clock: FakeClock, timeout_s: float, thinking_s: float
    ) -> None:
        """However long the task thought before, and however long its tool may take, the claim is live for as long."""
        tool = RecordingTool(timeout_s=timeout_s)
        run = living(ledger, task, clock)
        clock.sleep(thinking_s or 0.001)
        tool.before = lambda: run.check(timeout_s)
        run.effect(tool, REQUEST)
        assert len(tool.acted) == 1

    def test_no_effect_of_a_zombie(self, ledger: Ledger, task: Task, tool: RecordingTool) -> None:
        """A worker whose task went to another intends and sends nothing, old effect or new."""
        tool.before = raising(NotSentError("n"))
        with pytest.raises(NotSentError):
            living(ledger, task).effect(tool, "old")
        tool.before, tool.sent = (lambda: None), []
        next_life(ledger, task)
        before = books(ledger.database)
        for request in ("old", "new"):
            with pytest.raises(LeaseLostError, match="no longer claimed"):
                living(ledger, task).effect(tool, request)
        assert tool.sent == []
        assert books(ledger.database) == before

    def test_what_a_zombie_knows_to_have_happened_is_recorded(
        self, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects
    ) -> None:
        """A call that ends after the claim was lost happened all the same, and is not repeated by anybody."""
        tool.says = Answer.CANNOT_TELL
        lives: list[Task] = []
        tool.before = lambda: lives.append(next_life(ledger, task))
        response = living(ledger, task).effect(tool, REQUEST)
        tool.before = lambda: None
        assert only(effects).status is EffectStatus.DONE
        assert living(ledger, lives[0]).effect(tool, REQUEST) == response
        assert len(tool.sent) == 1

    def test_what_a_zombie_knows_not_to_have_happened_is_of_its_own_sending(
        self, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects
    ) -> None:
        """fails when a late `failed` or `unknown` of an earlier sending overwrites what a later one did, or is
        doing."""
        crash(ledger, task, tool, acted=False)
        make_final(ledger)
        again = next_life(ledger, task)

        def late() -> None:
            key = only(effects).key
            for status in (EffectStatus.FAILED, EffectStatus.UNKNOWN):
                effects.settle(key, status, sending=1, error="late")
                assert (only(effects).status, only(effects).sending) == (EffectStatus.INTENT, 2)

        tool.before = late
        living(ledger, again).effect(tool, REQUEST)
        effects.settle(only(effects).key, EffectStatus.FAILED, sending=2, error="later still")
        found = only(effects)
        assert (found.status, found.error) == (EffectStatus.DONE, None)

    def test_one_of_two_sends_anew(self, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects) -> None:
        """fails when two find at once that an effect did not happen: one sends it, the other is told."""
        crash(ledger, task, tool, acted=False)
        make_final(ledger)
        again = next_life(ledger, task)
        found = together(*[partial(living(ledger, again).effect, tool, REQUEST) for _ in range(6)])
        assert len(tool.acted) == 1
        assert all(
            isinstance(item, (TooSoonError, ConflictError)) or item == {"id": tool.sent[0][0][:8]} for item in found
        )


def sql_there(standby: Database) -> list[Any]:
    return standby.execute("select status from relight.effects").rows


def test_an_intent_that_the_standby_did_not_confirm_is_known_not_to_have_been_sent(
    state_pair: StatePair, ledger: Ledger, task: Task, tool: RecordingTool, effects: Effects
) -> None:
    """fails when a standby that was away for a while leaves effects for a person, of which this worker knows that it
    sent nothing."""
    impatient = Database(state_pair.primary.dsn("effects_tests"), confirm_timeout_s=0.3)
    tool.says = Answer.CANNOT_TELL
    state_pair.standby.process.freeze()
    try:
        with pytest.raises(UnconfirmedError):
            living(Ledger(impatient, epoch=lambda: 1), task).effect(tool, REQUEST)
    finally:
        state_pair.standby.process.thaw()
        impatient.close()
    make_final(ledger)
    assert living(ledger, next_life(ledger, task)).effect(tool, REQUEST)
    assert (len(tool.sent), tool.asked) == (1, [])

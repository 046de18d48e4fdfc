"""What a drill says about an outage of an LLM provider."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from relight_drill.llm import Asked, Billed
from relight_drill.outage import Account, Fault, InVain, Summary, Try, judge
from relight_drill.questions import question, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_drill.outage import Findings

FAULT, BACK = 100.0, 135.0
A, B = "anthropic", "openai"


class Story:
    """What providers and ledger saw, told answer by answer."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Asked]] = {A: [], B: []}
        self.bill: dict[str, list[Billed]] = {A: [], B: []}
        self.summaries: dict[str, Summary] = {}
        self.delivered: dict[str, dict[int, float]] = {A: {}, B: {}}
        self.in_vain: list[InVain] = []
        self.fault = Fault(at=FAULT, back_at=BACK, resets=False, failures=3, open_s=60.0, silence_s=10.0)

    def ask(self, provider: str, task: str, at: float, whole_at: float | None = None) -> str:
        """A request, and the id of its answer where it was whole."""
        number = len(self.asked[provider])
        self.asked[provider].append(Asked(number=number, at=at, model="m", tag=task, body={}, headers={}))
        id_ = f"{provider}-{number}"
        if whole_at is not None:
            if provider != A or not at < FAULT <= whole_at:
                self.delivered[provider][number] = whole_at
            self.bill[provider].append(
                Billed(
                    at=whole_at,
                    asked=number,
                    tag=task,
                    model="m",
                    id=id_,
                    stop="end",
                    input_tokens=1,
                    output_tokens=1,
                )
            )
        return id_

    def answer(self, provider: str, task: str, at: float, whole_at: float, *, vain_s: float | None = None) -> None:
        """A whole answer that became the task's summary, after `vain_s` with the first provider."""
        id_ = self.ask(provider, task, at, whole_at)
        vain = [] if vain_s is None else [Try(provider=A, outcome="silence", seconds=vain_s)]
        tries = [*vain, Try(provider=provider, outcome="answered", seconds=whole_at - at)]
        self.summaries[task] = Summary(provider=provider, answer=id_, began_at=at - 0.05 - (vain_s or 0.0), tries=tries)

    def judge(self, afterwards: tuple[str, ...] = ("late",)) -> Findings:
        """What is made of it."""
        return judge(
            first=A,
            accounts={
                name: Account(asked=self.asked[name], bill=self.bill[name], delivered=self.delivered[name])
                for name in (A, B)
            },
            summaries=self.summaries,
            afterwards=afterwards,
            in_vain=self.in_vain,
            fault=self.fault,
        )


def figures(found: Findings) -> Mapping[str, float | None]:
    return {item.name: item.value for item in found.figures}


@pytest.fixture
def story() -> Story:
    """One task before, two that wait when the provider falls silent, one meanwhile, one probe, one afterwards."""
    told = Story()
    told.answer(A, "early", 98.0, 99.0)
    told.ask(A, "x", 99.5)
    told.ask(A, "y", 99.9, 100.1)
    told.answer(B, "x", 110.0, 111.0, vain_s=10.4)
    told.answer(B, "y", 110.5, 112.0, vain_s=10.5)
    told.answer(B, "meanwhile", 120.0, 120.5)
    told.answer(A, "probe", 171.0, 172.0)
    told.answer(A, "late", 175.5, 176.0)
    told.in_vain = [InVain(at=at, ended_at=at + 10.5) for at in (99.5, 99.9, 100.2)]
    return told


@pytest.fixture
def refused() -> Story:
    """The same with a provider that refuses connections: everything goes on at once."""
    told = Story()
    told.fault = replace(told.fault, resets=True)
    told.answer(A, "early", 98.0, 99.0)
    told.ask(A, "x", 99.5)
    told.ask(A, "y", 99.9)
    told.answer(B, "x", 100.1, 101.0, vain_s=0.55)
    told.answer(B, "y", 100.1, 101.5, vain_s=0.15)
    told.answer(B, "z", 100.9, 102.0, vain_s=0.01)
    told.answer(A, "probe", 161.0, 162.0)
    told.answer(A, "late", 167.5, 168.0)
    told.in_vain = [InVain(at=99.5, ended_at=100.0), InVain(at=99.9, ended_at=100.0), InVain(at=100.8, ended_at=100.8)]
    return told


def test_an_outage_that_went_well(story: Story) -> None:
    """The last that waited decides the time; what was cut is no payment; one probe brings traffic back."""
    found = story.judge()
    assert found.problems == ()
    assert found.rto_s == pytest.approx(12.0)
    assert found.phases == pytest.approx({"leave": 10.0, "vain": 0.45, "switch": 0.05, "answer": 1.5})
    assert sum(found.phases.values()) == pytest.approx(found.rto_s)
    assert found.ours_s == pytest.approx(0.5)
    assert figures(found) == pytest.approx(
        {
            "waiting_tasks": 2,
            "first_answer_s": 11.0,
            "longest_gap_s": 12.0,
            "paid_twice": 0,
            "cut_answers": 2,
            "sent_in_vain": 1,
            "sent_against_breaker": 0,
            "probes": 1,
            "returned_s": 37.0,
            "late_s": 0.0,
        }
    )
    assert [moment.event for moment in found.moments] == [
        "next provider answered",
        "all went on",
        "anthropic answered the probe",
    ]


def test_who_was_sent_there_in_vain_afterwards_waits_too(story: Story) -> None:
    """fails when a task that met the silence later does not count: the provider never knew of it."""
    story.answer(B, "z", 115.0, 116.0, vain_s=10.0)
    found = story.judge()
    assert found.rto_s == pytest.approx(16.0)
    assert figures(found)["waiting_tasks"] == 3
    assert figures(found)["longest_gap_s"] == pytest.approx(12.0)


def test_an_answer_that_came_through_at_the_last_moment_is_the_tasks(story: Story) -> None:
    """An answer that was whole just after the fault and is in the ledger was paid once, and nobody waited for it."""
    story.answer(A, "lucky", 99.0, 100.05)
    found = story.judge()
    assert found.problems == ()
    assert figures(found)["waiting_tasks"] == 2


def test_a_summary_that_was_paid_twice(story: Story) -> None:
    """fails when two whole answers to one task are on the bills and neither was cut: it is said, and counted."""
    story.ask(B, "meanwhile", 121.0, 121.5)
    found = story.judge()
    assert found.problems == ("the summary of task meanwhile was paid 2 times",)
    assert figures(found)["paid_twice"] == 1


def test_a_summary_that_nobody_billed(story: Story) -> None:
    """fails when the ledger names an answer that its provider never sent whole."""
    story.summaries["meanwhile"] = replace(story.summaries["meanwhile"], answer="made up")
    assert "the summary of task meanwhile is on no bill of openai" in story.judge().problems


def test_a_task_that_never_went_on(story: Story) -> None:
    """fails when a task that waited has no summary: there is no recovery time then."""
    del story.summaries["y"]
    found = story.judge()
    assert found.rto_s is None
    assert found.phases == {}
    assert "task y waited for anthropic and has no summary" in found.problems


def test_more_than_one_probe(story: Story) -> None:
    """fails when a second request goes to the provider before the probe's answer is whole."""
    story.ask(A, "eager", 171.5, 172.5)
    found = story.judge()
    assert found.problems[0] == "anthropic was asked 2 times before its first answer, where one probe was enough"
    assert figures(found)["probes"] == 2


def test_a_provider_that_is_never_asked_again(story: Story) -> None:
    """fails when the provider came back and no traffic did."""
    story.asked[A], story.bill[A] = story.asked[A][:3], story.bill[A][:2]
    del story.summaries["probe"], story.summaries["late"]
    found = story.judge()
    assert found.problems == ("anthropic was never asked again after it had come back",)
    assert figures(found)["returned_s"] is None


def test_traffic_that_stays_on_the_fallback(story: Story) -> None:
    """fails when tasks go elsewhere though the first provider answers again; a moment is given to learn of it."""
    story.answer(B, "a moment later", 173.0, 173.5)
    assert story.judge().problems == ()
    story.answer(B, "later", 177.5, 178.0)
    assert story.judge().problems == ("task later was sent elsewhere, though anthropic was back",)


def test_a_fault_that_nobody_met() -> None:
    """fails when nobody waited: such an outage proves nothing, and is not passed."""
    told = Story()
    told.answer(A, "early", 98.0, 99.0)
    told.answer(A, "late", 171.0, 172.0)
    found = told.judge()
    assert found.rto_s is None
    assert any("0 calls of anthropic failed" in problem for problem in found.problems)
    assert "no task waited for anthropic when it was cut off: the fault proved nothing" in found.problems


def test_a_refusal_takes_no_time_of_the_providers(refused: Story) -> None:
    """fails when the time until the last task was sent elsewhere counts as the provider's, which said no at once."""
    found = refused.judge()
    assert found.problems == ()
    assert found.phases == pytest.approx({"leave": 0.0, "vain": 0.85, "switch": 0.05, "answer": 1.1})
    assert found.ours_s == pytest.approx(0.9)


def test_no_more_than_one_silence_is_the_providers(story: Story) -> None:
    """fails when what was sent in vain late, before the breaker was open, is counted as what must be waited for."""
    story.answer(B, "z", 120.5, 121.5, vain_s=10.1)
    found = story.judge()
    assert found.phases == pytest.approx({"leave": 10.0, "vain": 10.45, "switch": 0.05, "answer": 1.0})
    assert found.ours_s == pytest.approx(10.5)


@pytest.mark.parametrize("kind", ["story", "refused"])
def test_a_router_that_ignores_its_breaker(kind: str, request: pytest.FixtureRequest) -> None:
    """fails when every call goes to the dead provider first, and the tasks go on all the same: the network saw it."""
    told: Story = request.getfixturevalue(kind)
    took_s = 0.0 if told.fault.resets else 10.0
    told.in_vain += [InVain(at=101.0 + i, ended_at=101.0 + i + took_s) for i in range(30)]
    found = told.judge()
    assert found.rto_s is not None
    assert found.rto_s <= 30
    [problem] = found.problems
    assert problem.startswith("anthropic was tried ")
    assert "though its breaker was open" in problem
    assert (figures(found)["sent_against_breaker"] or 0) >= 15


@pytest.mark.parametrize("kind", ["story", "refused"])
def test_a_worker_that_has_not_learned_yet(kind: str, request: pytest.FixtureRequest) -> None:
    """What goes there a moment after the opening came from a worker that could not know; a late machine knows later."""
    told: Story = request.getfixturevalue(kind)
    opened_at = 100.8 if told.fault.resets else 110.7
    told.in_vain += [InVain(at=opened_at + 4.0, ended_at=opened_at + 4.0)]
    assert told.judge().problems == ()
    told.in_vain += [InVain(at=opened_at + 6.0, ended_at=opened_at + 6.0)]
    assert len(told.judge().problems) == 1
    told.fault = replace(told.fault, late_s=2.0)
    assert told.judge().problems == ()


def test_a_machine_that_is_too_late_to_tell(story: Story) -> None:
    """fails when the allowance for a slow machine is so large that nothing is checked, and nobody says so."""
    story.fault = replace(story.fault, late_s=25.0)
    assert any("too slow to tell whether the breaker was heeded" in problem for problem in story.judge().problems)


def test_a_probe_before_its_time(story: Story) -> None:
    """fails when the provider is asked as soon as it is back, and not when the breaker has been open for its time."""
    story.answer(A, "soon", 136.0, 137.0)
    story.asked[A].sort(key=lambda asked: asked.at)
    assert "anthropic was asked 25.3 s after its breaker should have opened for 60 s" in story.judge().problems


def test_a_burst_when_the_probe_is_due(story: Story) -> None:
    """fails when others went along with the probe, and arrived when it was billed but its answer was not delivered."""
    probe = next(asked.number for asked in story.asked[A] if asked.tag == "probe")
    story.delivered[A][probe] = 172.02
    story.answer(A, "along", 172.01, 173.0)
    found = story.judge()
    assert found.problems == ("anthropic was asked 2 times before its first answer, where one probe was enough",)


def test_probes_of_a_provider_that_is_still_away(story: Story) -> None:
    """While it is away one probe for each time that the breaker is open may fail; a second one is against it."""
    story.fault = replace(story.fault, open_s=20.0)
    story.in_vain.append(InVain(at=131.5, ended_at=None))
    assert figures(story.judge())["sent_against_breaker"] == 0
    story.in_vain.append(InVain(at=131.6, ended_at=None))
    assert figures(story.judge())["sent_against_breaker"] == 1


def test_an_answer_that_was_billed_and_never_handed_over(story: Story) -> None:
    """fails when an answer that was billed long before the cut, and was still on a slow wire, counts as paid twice; or
    one that was handed over does not."""
    number = int(story.ask(A, "slow", 98.0, 98.5).partition("-")[2])
    story.answer(B, "slow", 110.0, 111.0, vain_s=10.4)
    del story.delivered[A][number]
    assert story.judge().problems == ()
    story.delivered[A][number] = 99.9
    assert story.judge().problems == ("the summary of task slow was paid 2 times",)
    story.fault = replace(story.fault, resets=True)  # which may lose what nobody has read yet
    assert "the summary of task slow was paid 2 times" not in story.judge().problems
    story.delivered[A][number] = 98.6
    assert "the summary of task slow was paid 2 times" in story.judge().problems


def test_a_question_is_read_as_it_was_asked() -> None:
    """The played model finds the task, the topic and every text in the agent's words; others are no question."""
    asked = question("t-1", "json.decoder\nJSONDecoder", ["One.\n\nTwo.", "Three\n---\nfour."])
    found = read(str(asked))
    assert found == replace(asked, topic="json.decoder JSONDecoder")
    assert read("Hello.") is None

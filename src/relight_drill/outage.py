"""What became of the agent's model calls when a provider was cut off, from what providers, wires and ledger know.

Pure: it reads no setting and no clock. All times are seconds on the drill's clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight_drill.result import Figure, Moment

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from relight_drill.llm import Asked, Billed

# An answer that a provider had sent out so shortly before it was cut off may still have been on the wire.
ON_THE_WIRE_S = 0.25
# Workers that share a breaker learn of its closing once a second.
LEARNED_WITHIN_S = 2.0
AIM_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One provider's try at a summary; `outcome` is `answered`, or what went wrong."""

    provider: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the ledger has of a task's summary: whose answer it is, by its id, and the tries of the call that began at
    `began_at`, of which the last one answered."""

    provider: str
    answer: str
    began_at: float
    tries: Sequence[Try]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One provider's own account of its answers to tasks, in the order of arrival."""

    asked: Sequence[Asked]
    bill: Sequence[Billed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `judge` found. `rto_s` is None when a task that waited for the provider got no answer from another."""

    rto_s: float | None
    phases: dict[str, float]
    ours_s: float
    figures: tuple[Figure, ...]
    moments: tuple[Moment, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """A task's summary, and the request and the bill that it came from."""

    task: str
    summary: Summary
    asked: Asked
    bill: Billed


def judge(
    *,
    first: str,
    accounts: Mapping[str, Account],
    summaries: Mapping[str, Summary],
    afterwards: Collection[str],
    fault_at: float,
    back_at: float,
) -> Findings:
    """What became of the tasks' summaries when the provider `first` was cut off at `fault_at`, and came back at
    `back_at`.

    `afterwards` are the tasks that were begun once traffic should have been on the first provider again.
    """
    problems: list[str] = []
    answers = _answers(accounts, summaries, problems)
    stuck = _stuck(first, accounts[first], summaries, fault_at=fault_at)
    going_on = {task: answers[task] for task in stuck if task in answers}
    problems += [f"task {task} waited for {first} and has no summary" for task in sorted(stuck - going_on.keys())]
    paid_twice, cut = _paid(first, accounts, summaries, fault_at=fault_at)
    problems += [f"the summary of task {task} was paid {count + 1} times" for task, count in sorted(paid_twice.items())]
    others = [bill for name, account in accounts.items() if name != first for bill in account.bill]
    first_answer = min((bill.at for bill in others if bill.at > fault_at), default=None)
    if not stuck:
        problems.append(f"no task waited for {first} when it was cut off: the fault proved nothing")
    last = max(going_on.values(), key=lambda item: item.bill.at, default=None)
    rto_s = None if last is None or stuck - going_on.keys() else last.bill.at - fault_at
    phases, switch_s = ({}, 0.0) if last is None or rto_s is None else _phases(last, fault_at=fault_at)
    closed_at, probes = _probes(accounts[first], back_at)
    if closed_at is None:
        problems.append(f"{first} was never asked again after it had come back")
    elif probes != 1:
        problems.append(f"{first} was asked {probes} times before its first answer, where one probe was enough")
    problems += _not_back(first, accounts, summaries, afterwards, closed_at)
    gaps = [item.bill.at - max(fault_at, item.summary.began_at) for item in going_on.values()]
    figures = (
        Figure(name="waiting_tasks", words=f"tasks that waited for {first}", value=len(stuck)),
        Figure(
            name="first_answer_s",
            words="fault to the next provider's first answer",
            value=None if first_answer is None else first_answer - fault_at,
            wanted=f"aim {AIM_S:.0f} s",
        ),
        Figure(name="longest_gap_s", words="the longest that one task stood still", value=max(gaps, default=None)),
        Figure(name="paid_twice", words="summaries paid twice", value=len(paid_twice), wanted="0"),
        Figure(name="cut_answers", words=f"answers cut on their way from {first}", value=len(cut)),
        Figure(name="probes", words=f"requests to {first} before it was trusted again", value=probes, wanted="1"),
        Figure(
            name="returned_s",
            words=f"{first} back to its first answer",
            value=None if closed_at is None else closed_at - back_at,
        ),
    )
    return Findings(
        rto_s=rto_s,
        phases=phases,
        ours_s=switch_s,
        figures=figures,
        moments=_moments(first, first_answer, last, closed_at, fault_at),
        problems=tuple(problems),
    )


def _answers(
    accounts: Mapping[str, Account], summaries: Mapping[str, Summary], problems: list[str]
) -> dict[str, _Answered]:
    """Each summary with the request and the bill of its answer; one that is on nobody's bill is a problem."""
    bills = {(name, bill.id): bill for name, account in accounts.items() for bill in account.bill}
    requests = {(name, asked.number): asked for name, account in accounts.items() for asked in account.asked}
    found = {}
    for task, summary in sorted(summaries.items()):
        bill = bills.get((summary.provider, summary.answer))
        if bill is None or bill.tag != task:
            problems.append(f"the summary of task {task} is on no bill of {summary.provider}")
            continue
        asked = requests[summary.provider, bill.asked]
        found[task] = _Answered(task=task, summary=summary, asked=asked, bill=bill)
    return found


def _stuck(first: str, account: Account, summaries: Mapping[str, Summary], *, fault_at: float) -> set[str]:
    """The tasks that waited for the first provider when it was cut off, or were sent to it in vain afterwards."""
    whole = {bill.asked for bill in account.bill if bill.at < fault_at}
    used = {summary.answer for summary in summaries.values() if summary.provider == first}
    whole |= {bill.asked for bill in account.bill if bill.id in used}
    waiting = {asked.tag for asked in account.asked if asked.at < fault_at and asked.number not in whole}
    in_vain = {
        task
        for task, summary in summaries.items()
        if any(item.provider == first for item in summary.tries[:-1])
        and summary.began_at + sum(item.seconds for item in summary.tries[:-1]) >= fault_at
    }
    return waiting | in_vain


def _paid(
    first: str, accounts: Mapping[str, Account], summaries: Mapping[str, Summary], *, fault_at: float
) -> tuple[dict[str, int], set[str]]:
    """By task, how many whole answers were paid for beside the one that it has; and the tasks whose answer was cut.

    What the first provider was sending when it was cut off never arrived: that was no payment for an answer, though a
    real provider may charge for what it had written.
    """
    twice: Counter[str] = Counter()
    cut = set()
    for name, account in accounts.items():
        began = {asked.number: asked.at for asked in account.asked}
        for bill in account.bill:
            summary = summaries.get(bill.tag)
            if summary is not None and (summary.provider, summary.answer) == (name, bill.id):
                continue
            if name == first and began[bill.asked] < fault_at <= bill.at + ON_THE_WIRE_S:
                cut.add(bill.tag)
            elif summary is not None:
                twice[bill.tag] += 1
        if name == first:
            billed = {bill.asked for bill in account.bill}
            cut |= {asked.tag for asked in account.asked if asked.at < fault_at and asked.number not in billed}
    return dict(twice), cut


def _phases(last: _Answered, *, fault_at: float) -> tuple[dict[str, float], float]:
    """Where the time went of the task that went on last: until its call was given up, until the next provider had its
    request, and until that one's answer was whole."""
    in_vain_s = sum(item.seconds for item in last.summary.tries[:-1])
    given_up = min(max(fault_at, last.summary.began_at + in_vain_s), last.asked.at)
    switch_s = last.asked.at - given_up
    return {"leave": given_up - fault_at, "switch": switch_s, "answer": last.bill.at - last.asked.at}, switch_s


def _probes(account: Account, back_at: float) -> tuple[float | None, int]:
    """When the first provider gave its first answer after it came back, and how often it was asked until then."""
    since = [asked for asked in account.asked if asked.at >= back_at]
    numbers = {asked.number for asked in since}
    closed_at = min((bill.at for bill in account.bill if bill.asked in numbers), default=None)
    until = float("inf") if closed_at is None else closed_at
    return closed_at, sum(asked.at <= until for asked in since)


def _not_back(
    first: str,
    accounts: Mapping[str, Account],
    summaries: Mapping[str, Summary],
    afterwards: Collection[str],
    closed_at: float | None,
) -> list[str]:
    if closed_at is None:
        return []
    late = [
        asked
        for name, account in accounts.items()
        if name != first
        for asked in account.asked
        if asked.at > closed_at + LEARNED_WITHIN_S
    ]
    found = [f"task {asked.tag} was sent elsewhere, though {first} was back" for asked in late]
    return found + [
        f"task {task} was begun when {first} was back, and {summaries[task].provider} answered it"
        for task in sorted(afterwards)
        if task in summaries and summaries[task].provider != first and task not in {asked.tag for asked in late}
    ]


def _moments(
    first: str, first_answer: float | None, last: _Answered | None, closed_at: float | None, fault_at: float
) -> tuple[Moment, ...]:
    found = []
    if first_answer is not None:
        found.append(Moment(at_s=first_answer - fault_at, event="next provider answered"))
    if last is not None:
        name = last.summary.provider
        found.append(Moment(at_s=last.bill.at - fault_at, event="all went on", detail=f"{last.task} by {name}"))
    if closed_at is not None:
        found.append(Moment(at_s=closed_at - fault_at, event=f"{first} answered the probe"))
    return tuple(found)

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

# What was handed over so shortly before a connection was reset may have been lost with it: nobody had to have read it.
READ_WITHIN_S = 0.25
# Workers that share a breaker look once a second, and trust what they saw for five: what they do later, they know.
LEARNED_WITHIN_S = 5.0
# A failure is seen on the wire a moment after the worker had it, and its breaker opened.
SEEN_WITHIN_S = 1.0
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
    """One provider's own account of its answers to tasks, in the order of arrival, and its wire's: `delivered` has by
    the number of the request when the last of a whole answer was handed over to who asked."""

    asked: Sequence[Asked]
    bill: Sequence[Billed]
    delivered: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InVain:
    """Something that was sent to the first provider and never answered, as the network saw it. It was given up, or
    refused, at `ended_at`; None: the caller still waited when the provider came back."""

    at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done to the first provider, and what the agent's settings say of such a provider.

    `resets` is whether connections were reset and refused, and not silenced. A breaker opens after `failures`, for
    `open_s`. `silence_s` is how long a provider may be silent. `late_s` is how late the drill itself was at most: all
    that must be done within a time is given as much more.
    """

    at: float
    back_at: float
    resets: bool
    failures: int
    open_s: float
    silence_s: float
    late_s: float = 0.0

    @property
    def patience_s(self) -> float:
        """What must be waited before one can know that the provider is away; a refusal says so at once."""
        return 0.0 if self.resets else self.silence_s


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
    in_vain: Sequence[InVain],
    fault: Fault,
) -> Findings:
    """What became of the tasks' summaries when the provider `first` was cut off and came back.

    `afterwards` are the tasks that were begun once traffic should have been on the first provider again. `in_vain` is
    what was on its way to the first provider when it was cut off, or was sent to it until it came back.
    """
    problems: list[str] = []
    fault_at, back_at = fault.at, fault.back_at
    answers = _answers(accounts, summaries, problems)
    stuck = _stuck(first, accounts[first], summaries, fault_at=fault_at)
    going_on = {task: answers[task] for task in stuck if task in answers}
    problems += [f"task {task} waited for {first} and has no summary" for task in sorted(stuck - going_on.keys())]
    paid_twice, cut = _paid(first, accounts, summaries, fault)
    problems += [f"the summary of task {task} was paid {count + 1} times" for task, count in sorted(paid_twice.items())]
    others = [bill for name, account in accounts.items() if name != first for bill in account.bill]
    first_answer = min((bill.at for bill in others if bill.at > fault_at), default=None)
    if not stuck:
        problems.append(f"no task waited for {first} when it was cut off: the fault proved nothing")
    last = max(going_on.values(), key=lambda item: item.bill.at, default=None)
    rto_s = None if last is None or stuck - going_on.keys() else last.bill.at - fault_at
    phases, ours_s = ({}, 0.0) if last is None or rto_s is None else _phases(last, fault)
    closed_at, probes = _probes(accounts[first], back_at)
    if closed_at is None:
        problems.append(f"{first} was never asked again after it had come back")
    elif probes != 1:
        problems.append(f"{first} was asked {probes} times before its first answer, where one probe was enough")
    opened_at = opened(in_vain, failures=fault.failures)
    ignored = _ignored(in_vain, opened_at, fault)
    problems += _unheeded(first, accounts[first], in_vain, ignored, opened_at, fault)
    problems += _not_back(first, accounts, summaries, afterwards, closed_at, late_s=fault.late_s)
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
        Figure(name="sent_in_vain", words=f"tries of {first} while it was away", value=_sent(in_vain, fault)),
        Figure(name="sent_against_breaker", words="of these with the breaker open", value=len(ignored), wanted="0"),
        Figure(name="probes", words=f"requests to {first} before it was trusted again", value=probes, wanted="1"),
        Figure(
            name="returned_s",
            words=f"{first} back to its first answer",
            value=None if closed_at is None else closed_at - back_at,
        ),
        Figure(name="late_s", words="how late the drill was at most: allowed to all", value=fault.late_s),
    )
    return Findings(
        rto_s=rto_s,
        phases=phases,
        ours_s=ours_s,
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
    first: str, accounts: Mapping[str, Account], summaries: Mapping[str, Summary], fault: Fault
) -> tuple[dict[str, int], set[str]]:
    """By task, how many whole answers were paid for beside the one that it has; and the tasks whose answer was cut.

    What the first provider was sending when it was cut off never arrived: that was no payment for an answer, though a
    real provider may charge for what it had written.
    """
    twice: Counter[str] = Counter()
    cut = set()
    for name, account in accounts.items():
        under_way = [asked for asked in account.asked if name == first and asked.at < fault.at]
        unheard = {asked.number for asked in under_way if not _heard(asked, account, fault)}
        for bill in account.bill:
            summary = summaries.get(bill.tag)
            if summary is not None and (summary.provider, summary.answer) == (name, bill.id):
                continue
            if bill.asked in unheard:
                cut.add(bill.tag)
            elif summary is not None:
                twice[bill.tag] += 1
        billed = {bill.asked for bill in account.bill}
        cut |= {asked.tag for asked in under_way if asked.number not in billed}
    return dict(twice), cut


def _heard(asked: Asked, account: Account, fault: Fault) -> bool:
    """Whether who asked must have had the whole answer before the provider was cut off."""
    delivered_at = account.delivered.get(asked.number)
    # A silence loses nothing that was handed over before it.
    lost_s = READ_WITHIN_S + fault.late_s if fault.resets else 0.0
    return delivered_at is not None and delivered_at <= fault.at - lost_s


def _phases(last: _Answered, fault: Fault) -> tuple[dict[str, float], float]:
    """Where the time went of the task that went on last: until its call was given up, of which no more than one
    provider's silence is the provider's; until the next provider had its request; and until that one's answer was
    whole. And how much of it is ours."""
    vain_s = sum(item.seconds for item in last.summary.tries[:-1])
    given_up = min(max(fault.at, last.summary.began_at + vain_s), last.asked.at)
    leave_s = min(given_up - fault.at, fault.patience_s)
    queue_s, switch_s = given_up - fault.at - leave_s, last.asked.at - given_up
    phases = {"leave": leave_s, "vain": queue_s, "switch": switch_s, "answer": last.bill.at - last.asked.at}
    return phases, queue_s + switch_s


def opened(in_vain: Sequence[InVain], *, failures: int) -> float | None:
    """When a provider had failed often enough for its breaker to open, all workers taken together; None: not yet."""
    ended = sorted(item.ended_at for item in in_vain if item.ended_at is not None)
    return ended[failures - 1] if len(ended) >= failures else None


def _sent(in_vain: Sequence[InVain], fault: Fault) -> int:
    return sum(item.at >= fault.at for item in in_vain)


def _ignored(in_vain: Sequence[InVain], opened_at: float | None, fault: Fault) -> list[InVain]:
    """What was sent to the first provider though its breaker was open and every worker had had the time to learn it.

    While it is away, one probe for each `open_s` may fail.
    """
    if opened_at is None:
        return []
    early_s = SEEN_WITHIN_S + fault.late_s
    due_at = opened_at + fault.open_s - early_s
    known_at = opened_at + LEARNED_WITHIN_S + fault.late_s
    ignored = [item for item in in_vain if known_at < item.at < due_at]
    probes = sorted((item for item in in_vain if item.at >= due_at), key=lambda item: item.at)
    allowed = 1 + int((fault.back_at - due_at) / fault.open_s) if fault.back_at > due_at else 0
    return [*ignored, *probes[allowed:]]


def _unheeded(
    first: str,
    account: Account,
    in_vain: Sequence[InVain],
    ignored: Sequence[InVain],
    opened_at: float | None,
    fault: Fault,
) -> list[str]:
    """What was wrong with who was let through and when, as the wire tells it."""
    if opened_at is None:
        failed = sum(item.ended_at is not None for item in in_vain)
        return [f"{failed} calls of {first} failed, and its breaker opens after {fault.failures}: it was not proved"]
    problems = []
    if fault.back_at - opened_at <= LEARNED_WITHIN_S + fault.late_s:
        problems.append(
            f"{first} was back {fault.back_at - opened_at:.1f} s after its breaker should have opened, and the drill "
            f"was {fault.late_s:.1f} s late: too slow to tell whether the breaker was heeded"
        )
    if ignored:
        seconds = ", ".join(f"{item.at - fault.at:.1f}" for item in ignored[:5])
        more = ", …" if len(ignored) > 5 else ""
        problems.append(
            f"{first} was tried {len(ignored)} times though its breaker was open: {seconds}{more} s after the fault"
        )
    since = [asked.at for asked in account.asked if asked.at >= fault.back_at]
    due_at = opened_at + fault.open_s
    if since and since[0] < due_at - SEEN_WITHIN_S - fault.late_s and fault.back_at < due_at:
        problems.append(
            f"{first} was asked {since[0] - opened_at:.1f} s after its breaker should have opened for "
            f"{fault.open_s:g} s"
        )
    return problems


def _probes(account: Account, back_at: float) -> tuple[float | None, int]:
    """When the first provider's first answer after it came back was with who had asked, and how often it was asked
    until then: who asked before cannot have known of that answer."""
    since = [asked for asked in account.asked if asked.at >= back_at]
    numbers = {asked.number for asked in since}
    closed = [
        max(bill.at, account.delivered.get(bill.asked, bill.at)) for bill in account.bill if bill.asked in numbers
    ]
    closed_at = min(closed, default=None)
    until = float("inf") if closed_at is None else closed_at
    return closed_at, sum(asked.at <= until for asked in since)


def _not_back(
    first: str,
    accounts: Mapping[str, Account],
    summaries: Mapping[str, Summary],
    afterwards: Collection[str],
    closed_at: float | None,
    *,
    late_s: float,
) -> list[str]:
    if closed_at is None:
        return []
    late = [
        asked
        for name, account in accounts.items()
        if name != first
        for asked in account.asked
        if asked.at > closed_at + LEARNED_WITHIN_S + late_s
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

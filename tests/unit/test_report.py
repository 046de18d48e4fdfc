"""What a drill reports: the JSON that is a contract, the table, and the exit code."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from relight.errors import ConfigError
from relight.objectives import Objectives, Tier
from relight.recovery.timeline import Event
from relight_cli.drill import SCENARIO_NAMES
from relight_cli.main import main
from relight_drill.audit import Books, Sent, audit, memories_expected, unacknowledged
from relight_drill.corpus import documents
from relight_drill.processes import DrillError
from relight_drill.report import EXPLAINED, write
from relight_drill.result import Figure, Moment, Outcome, Tally, drill_json
from relight_drill.run import run_drill
from relight_drill.scenarios import SCENARIOS, STATE_OF_PHASE, _failures, run_that_opened
from relight_drill.workload import Ask, Record, Write, green_since, working_since
from relight_stacks.loading import load_named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relight_drill.audit import Audit
    from relight_stacks.environment import Environment

GOOD = Outcome(
    name="region-loss",
    tier=Tier.INTERNAL,
    rto_s=41.25,
    rpo_s=0.0,
    acknowledged=Tally(tasks=3, memories=2, effects=1),
    lost=Tally(),
    duplicated_effects=0,
    divergence={"tasks": ["a"], "memories": [], "effects": []},
    phases={"detect": 26.0, "gate": 8.0, "dns": 7.25},
    ours_s=8.0,
    timeline=[Moment(at_s=0.0, event="fault", detail="us-east-1: dead"), Moment(at_s=41.25, event="served")],
)
BAD: dict[str, dict[str, Any]] = {
    "it never came back": {"rto_s": None},
    "it came back too late": {"rto_s": 900.1},
    "it lost too much": {"rpo_s": 300.1},
    "a task is lost": {"lost": Tally(tasks=1)},
    "an effect is lost": {"lost": Tally(effects=1)},
    "an effect happened twice": {"duplicated_effects": 1},
    "something else was wrong": {"problems": ["a point was passed over"]},
    "it misses what it is held to itself": {"own_objectives": Objectives(rto_s=30.0, rpo_s=0.0)},
}
FIGURES = (
    Figure(name="first_answer_s", words="fault to the first answer", value=1.26, wanted="aim 5 s"),
    Figure(name="probes", words="probes", value=1, wanted="1"),
    Figure(name="returned_s", words="back to trusted", value=None),
)


def test_what_is_good_is_met() -> None:
    """Divergence is reported and is no miss: nobody had been told of it."""
    assert GOOD.met


@pytest.mark.parametrize("why", BAD)
def test_what_is_bad_is_not_met(why: str) -> None:
    """Every single thing that is wrong makes the scenario missed."""
    assert not replace(GOOD, **BAD[why]).met


def test_the_json_is_the_contract() -> None:
    """The object has the documented fields with the documented shapes, and survives JSON."""
    value = json.loads(json.dumps(drill_json([GOOD], seed=7)))
    assert value.keys() == {"relight", "seed", "scenarios"}
    assert value["seed"] == 7
    (scenario,) = value["scenarios"]
    assert scenario == {
        "name": "region-loss",
        "tier": "internal",
        "met": True,
        "rto_s": 41.25,
        "rpo_s": 0.0,
        "objectives": {"rto_s": 900.0, "rpo_s": 300.0},
        "acknowledged": {"tasks": 3, "memories": 2, "effects": 1},
        "lost": {"tasks": 0, "memories": 0, "effects": 0},
        "duplicated_effects": 0,
        "divergence": {"tasks": ["a"], "memories": [], "effects": []},
        "phases": {"detect_s": 26.0, "gate_s": 8.0, "dns_s": 7.25},
        "floor_s": 33.25,
        "ours_s": 8.0,
        "figures": {},
        "problems": [],
        "timeline": [
            {"at_s": 0.0, "event": "fault", "detail": "us-east-1: dead"},
            {"at_s": 41.25, "event": "served"},
        ],
    }


def test_the_report_says_it_in_words() -> None:
    """The table has what was measured, where the time went, and every problem in full."""
    out = io.StringIO()
    write([replace(GOOD, problems=["x" * 200])], seed=7, file=out, width=100)
    told = out.getvalue()
    for words in (
        "region-loss  tier internal, seed 7: OBJECTIVES MISSED",
        "41.2 s",
        "900 s",
        "3 / 0",
        "1 tasks",
        "33.2",
    ):
        assert words in told
    assert told.replace("\n", "").count("x" * 200) == 1


def test_a_scenarios_own_figures_and_objectives_are_reported() -> None:
    """What it is held to itself stands in place of the tier's, and its figures stand in the table and in the JSON."""
    own = replace(GOOD, rto_s=1.7, own_objectives=Objectives(rto_s=30.0, rpo_s=0.0), figures=FIGURES)
    assert own.met
    value = own.to_json()
    assert value["objectives"] == {"rto_s": 30.0, "rpo_s": 0.0}
    assert value["figures"] == {"first_answer_s": 1.26, "probes": 1, "returned_s": None}
    out = io.StringIO()
    write([own], seed=7, file=out, width=100)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines()]
    assert ["fault to the first answer", "1.3 s", "aim 5 s"] in rows
    assert ["probes", "1", "1"] in rows
    assert ["back to trusted", "never", ""] in rows
    assert ["recovery time (RTO)", "1.7 s", "30 s"] in rows


def test_every_phase_is_explained() -> None:
    """No phase appears in the table without words for it."""
    phases = {"detect", *STATE_OF_PHASE, "dns", "notice", "hydrate", "serve", "leave", "vain", "switch", "answer"}
    assert EXPLAINED.keys() >= phases


@pytest.mark.parametrize(
    ("outcome", "code"), [(GOOD, 0), (replace(GOOD, rto_s=None), 3), (DrillError("no server", hint="look"), 1)]
)
def test_exit_codes(outcome: Outcome | Exception, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """0 when everything was met, 3 when not, 1 when the drill itself failed; the files are written when it ended."""

    def run_drill(**_: object) -> list[Outcome]:
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome]

    monkeypatch.setattr("relight_drill.run.run_drill", run_drill)
    paths = tmp_path / "out.json", tmp_path / "report.txt"
    assert main(["drill", "--json", str(paths[0]), "--report", str(paths[1])]) == code
    if code != 1:
        assert json.loads(paths[0].read_text())["scenarios"][0]["met"] is (code == 0)
        assert "region-loss" in paths[1].read_text()


def test_what_was_measured_is_reported_when_the_rest_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when a scenario that cannot be run takes the earlier one's measurements with it: exit code 1, both said."""

    def run_drill(**_: object) -> Iterator[Outcome]:
        yield GOOD
        raise DrillError("no server", hint="look")

    monkeypatch.setattr("relight_drill.run.run_drill", run_drill)
    path = tmp_path / "out.json"
    assert main(["drill", "--json", str(path)]) == 1
    assert [scenario["name"] for scenario in json.loads(path.read_text())["scenarios"]] == ["region-loss"]
    told = capsys.readouterr()
    assert "region-loss" in told.out
    assert "DrillError: no server; look" in told.err


def test_a_failure_beside_others_is_told_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """fails when an error of what is done side by side ends in a traceback of a group."""

    async def fail(*_: object, **__: object) -> Outcome:
        raise ExceptionGroup("a", [ExceptionGroup("b", [DrillError("no server", hint="look")]), OSError("gone")])

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("relight_drill.run._run", fail)
    with pytest.raises(DrillError, match="no server; look"):
        list(run_drill(names=["region-loss"], tiers=None, seed=1, keep=False))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--scenario", "earthquake"], "there is no scenario 'earthquake'; choose from standby-boot, region-loss"),
        (
            ["--tier", "sandbox"],
            "tier 'sandbox' has no standby that could be relit: it is restored by hand; choose from",
        ),
        (["--tier", "batch", "--scenario", "standby-boot"], "standby-boot needs a vector store in the standby"),
    ],
)
def test_what_there_is_not_is_usage(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a scenario or a tier is not there: exit code 2, and what there is."""
    assert main(["drill", *argv]) == 2
    assert says in capsys.readouterr().err
    assert tuple(SCENARIOS) == SCENARIO_NAMES == ("standby-boot", "region-loss", "provider-outage")


def test_a_scenario_that_the_environment_is_too_small_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when an outage of a provider is drilled without a second one: left out, or said when it is named."""
    small = replace(load_named("demo"), providers=())
    monkeypatch.setattr("relight_drill.run._environment", lambda _: small)
    ran = noted(monkeypatch)
    with pytest.raises(ConfigError, match="provider-outage needs 2 LLM providers, and demo has 0"):
        run_drill(names=["provider-outage"], tiers=None, seed=1, keep=False)
    assert len(list(run_drill(names=None, tiers=[Tier.INTERNAL], seed=1, keep=False))) == 2
    assert ran == [("standby-boot", "internal"), ("region-loss", "internal")]


def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The scenarios that run, none of which does anything, and their tiers."""
    ran: list[tuple[str, str]] = []

    async def note(name: str, environment: Environment, **_: object) -> Outcome:
        ran.append((name, environment.tier.value))
        return GOOD

    monkeypatch.setattr("relight_drill.run._run", note)
    return ran


WHOLE = [("standby-boot", "internal"), ("region-loss", "internal"), ("provider-outage", "internal")]
PLANS: dict[str, tuple[list[str] | None, list[Tier] | None, list[tuple[str, str]]]] = {
    "nothing": (None, None, [*WHOLE, ("region-loss", "batch"), ("region-loss", "customer-facing")]),
    "a scenario": (["region-loss"], None, [("region-loss", "internal")]),
    "a tier": (None, [Tier.BATCH], [("region-loss", "batch"), ("provider-outage", "batch")]),
    "both, and twice": (["region-loss"], [Tier.BATCH, Tier.INTERNAL, Tier.BATCH], [("region-loss", "batch"), WHOLE[1]]),
}


@pytest.mark.parametrize("said", PLANS)
def test_what_is_drilled_when_not_all_is_said(said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each tier has what differs by tier, and the first one all that it can have; what is named is all there is."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names, tiers, plan = PLANS[said]
    ran = noted(monkeypatch)
    list(run_drill(names=names, tiers=tiers, seed=1, keep=False))
    assert ran == plan


def audited(
    record: Record, books: Books, outbox: list[Sent], *, recalled: set[str], corpus: float | None = None
) -> Audit:
    """The audit of a fault at 20 s; `corpus` is when the one document that the world began with was acknowledged."""
    memories = memories_expected(record, corpus={} if corpus is None else {"doc/x": corpus}, books=books)
    return audit(record, memories=memories, books=books, recalled=frozenset(recalled), outbox=outbox, fault_at=20.0)


def test_the_audit_counts_what_callers_were_told() -> None:
    """Lost is what was acknowledged and is not there; RPO goes back to the oldest of it; duplicates are by task."""
    record = Record(tasks={"a": 10.0, "b": 12.0, "c": 14.0}, memories={"m": 9.0, "n": 13.0})
    books = Books(tasks={"a": "done", "b": "running"}, memories={}, effects={"a": "done"})
    outbox = [Sent(digest="1", task="a"), Sent(digest="1", task="a"), Sent(digest="2", task="b")]
    found = audited(record, books, outbox, recalled={"n", "report/a"})
    assert found.acknowledged == Tally(tasks=3, memories=3, effects=2)
    assert found.lost == Tally(tasks=1, memories=1, effects=1)
    assert found.missing == {"tasks": {"c": 14.0}, "memories": {"m": 9.0}, "effects": {"b": 12.0}}
    assert found.unfinished == ("b",)
    assert found.duplicated_effects == 1
    assert found.rpo_s == 11.0


def test_an_audit_that_finds_nothing() -> None:
    """Nothing missing is an achieved RPO of zero."""
    record = Record(tasks={"a": 10.0})
    books = Books(tasks={"a": "done"}, memories={}, effects={"a": "done"})
    found = audited(record, books, [Sent(digest="1", task="a")], recalled={"report/a"})
    assert (found.lost.total, found.rpo_s, found.duplicated_effects) == (0, 0.0, 0)


def test_an_effect_that_was_never_sent_is_lost() -> None:
    """fails when a task is done, its effect stands in the ledger as done, and nobody outside ever saw it."""
    books = Books(tasks={"a": "done"}, memories={}, effects={"a": "done"})
    found = audited(Record(tasks={"a": 10.0}), books, [], recalled={"report/a"})
    assert (found.acknowledged.effects, found.lost, found.rpo_s) == (1, Tally(effects=1), 10.0)


def test_two_different_messages_of_one_task_are_a_duplicate() -> None:
    """fails when a task that ran twice, and worded its report otherwise, counts as one effect each."""
    books = Books(tasks={"a": "done"}, memories={}, effects={"a": "done"})
    outbox = [Sent(digest="1", task="a"), Sent(digest="2", task="a")]
    assert audited(Record(tasks={"a": 10.0}), books, outbox, recalled={"report/a"}).duplicated_effects == 1


@pytest.mark.parametrize(("recalled", "missing"), [({"report/a"}, "doc/x"), ({"doc/x"}, "report/a")])
def test_memories_are_more_than_the_callers_notes(recalled: set[str], missing: str) -> None:
    """fails when what came from the snapshot, or what the agent itself learned, is gone and counts as nothing."""
    books = Books(tasks={"a": "done"}, memories={}, effects={"a": "done"})
    found = audited(Record(tasks={"a": 10.0}), books, [Sent(digest="1", task="a")], recalled=recalled, corpus=3.0)
    assert found.acknowledged.memories == 2
    assert found.missing["memories"].keys() == {missing}


def test_divergence_is_what_nobody_had_been_told_of() -> None:
    """What callers had been told of before the fault and is lost is taken out: it is no divergence but a loss."""
    record = Record(tasks={"told": 10.0, "told-after": 30.0, "again": 31.0}, memories={"m": 9.0})
    books = Books(tasks={"again": "done"}, memories={}, effects={"again": "done"})
    outbox = [Sent(digest="1", task="again"), Sent(digest="2", task="acted")]
    found = audited(record, books, outbox, recalled={"report/again"})
    diverged = {"tasks": ["again", "told", "told-after", "untold"], "memories": ["m", "n"], "effects": ["acted", "e"]}
    assert unacknowledged(diverged, found, fault_at=20.0) == {
        "tasks": ["again", "told-after", "untold"],
        "memories": ["n"],
        "effects": ["e"],
    }


def test_the_corpus_is_as_large_as_it_says() -> None:
    """fails when two documents have one name, and are one memory: 600 that are loaded are 600 points."""
    found = documents(600, seed=1)
    assert len({document.name for document in found}) == len({document.text for document in found}) == 600


def ask(at: float, *, answered: bool = True, region: str = "west", took_s: float = 0.25) -> Ask:
    return Ask(at=at, ended_at=at + took_s, answered=answered, region=region)


def test_green_is_from_when_on_everything_was_answered() -> None:
    """A single miss, or an answer from the other region, starts it again; order of arrival does not matter.

    It begins with the answer to the first good question, and not when that was asked.
    """
    asks = [ask(1, region="east"), ask(2, answered=False), ask(4), ask(3), ask(5, answered=False), ask(7), ask(6)]
    assert green_since(asks, after=1.5, region="west") == 6.25
    assert green_since([*asks, ask(5.5, took_s=3)], after=1.5, region="west") == 8.5
    assert green_since([*asks, ask(8, answered=False)], after=1.5, region="west") is None
    assert green_since([*asks, ask(8, region="east")], after=1.5, region="west") is None
    assert green_since([], after=0, region="west") is None


def test_a_region_works_from_when_on_everything_is_acknowledged() -> None:
    """By when a try was made, and told from the answer of the first good one; tries before the fault do not count."""

    def tried(at: float, acknowledged: bool = True, took_s: float = 0.25) -> Write:
        return Write(at=at, ended_at=at + took_s, acknowledged=acknowledged)

    writes = [tried(1), tried(2, acknowledged=False, took_s=3), tried(4), tried(3)]
    assert working_since(writes, after=0.5) == 3.25
    assert working_since(writes, after=3.5) == 4.25
    assert working_since([*writes, tried(5, acknowledged=False)], after=0.5) is None
    assert working_since(writes, after=6) is None


def event(at_s: float, state: str, status: str, **detail: Any) -> Event:
    return Event(at=datetime.fromtimestamp(at_s, UTC), state=state, status=status, detail=detail)


def test_a_recovery_that_failed_is_a_problem_though_a_later_one_went_well() -> None:
    """The phases are of the run that opened the gate; every run's last words are looked at."""
    first = [event(1, "fence", "started"), event(2, "fence", "failed", error="ConflictError: too late")]
    second = [
        event(3, "fence", "failed", error="tried again"),
        event(4, "fence", "done"),
        event(5, "open-gate", "done"),
    ]
    third = [event(6, "assess", "started")]
    assert run_that_opened([first, second, third]) == second
    assert run_that_opened([first, third]) == third
    assert run_that_opened([]) == []
    assert _failures([first, second, third]) == ["fence: ConflictError: too late", "assess: did not end"]
    assert _failures([second]) == []
    assert "nothing was started" in _failures([])[0]

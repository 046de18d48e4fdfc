"""What a drill reports: the JSON that is a contract, the table, and the exit code."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from relight.objectives import Tier
from relight_cli.main import main
from relight_drill.audit import Books, Sent, audit
from relight_drill.processes import DrillError
from relight_drill.report import EXPLAINED, write
from relight_drill.result import Moment, Outcome, Tally, drill_json
from relight_drill.scenarios import SCENARIOS, STATE_OF_PHASE
from relight_drill.workload import Ask, Record, green_since

if TYPE_CHECKING:
    from pathlib import Path

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
}


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


def test_every_phase_is_explained() -> None:
    """No phase appears in the table without words for it."""
    assert EXPLAINED.keys() >= {"detect", *STATE_OF_PHASE, "dns", "notice", "hydrate", "serve"}


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
    paths = tmp_path / "deep" / "out.json", tmp_path / "report.txt"
    assert main(["drill", "--json", str(paths[0]), "--report", str(paths[1])]) == code
    if code != 1:
        assert json.loads(paths[0].read_text())["scenarios"][0]["met"] is (code == 0)
        assert "region-loss" in paths[1].read_text()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--scenario", "earthquake"], "there is no scenario 'earthquake'; choose from standby-boot, region-loss"),
        (["--tier", "batch"], "no environment is of tier 'batch'; there are environments of: internal"),
    ],
)
def test_what_there_is_not_is_usage(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a scenario or a tier is not there: exit code 2, and what there is."""
    assert main(["drill", *argv]) == 2
    assert says in capsys.readouterr().err
    assert set(SCENARIOS) == {"standby-boot", "region-loss"}


def test_the_audit_counts_what_callers_were_told() -> None:
    """Lost is what was acknowledged and is not there; RPO goes back to the oldest of it; duplicates are by content."""
    record = Record(tasks={"a": 10.0, "b": 12.0, "c": 14.0}, memories={"m": 9.0, "n": 13.0})
    books = Books(tasks={"a": "done", "b": "running"}, memories={}, effects={"a": "done"})
    outbox = [Sent(digest="1", task="a"), Sent(digest="1", task="a"), Sent(digest="2", task="b")]
    found = audit(record, books=books, recalled=frozenset({"n"}), outbox=outbox, fault_at=20.0)
    assert found.acknowledged == Tally(tasks=3, memories=2, effects=2)
    assert found.lost == Tally(tasks=1, memories=1, effects=1)
    assert found.lost_ids == ("b", "c", "m")
    assert found.unfinished == ("b",)
    assert found.duplicated_effects == 1
    assert found.rpo_s == 11.0


def test_an_audit_that_finds_nothing() -> None:
    """Nothing missing is an achieved RPO of zero."""
    record = Record(tasks={"a": 10.0})
    books = Books(tasks={"a": "done"}, memories={}, effects={"a": "done"})
    found = audit(record, books=books, recalled=frozenset(), outbox=[Sent(digest="1", task="a")], fault_at=20.0)
    assert (found.lost.total, found.rpo_s, found.duplicated_effects) == (0, 0.0, 0)


def ask(at: float, *, answered: bool = True, region: str = "west") -> Ask:
    return Ask(at=at, answered=answered, region=region)


def test_green_is_from_when_on_everything_was_answered() -> None:
    """A single miss, or an answer from the other region, starts it again; order of arrival does not matter."""
    asks = [ask(1, region="east"), ask(2, answered=False), ask(4), ask(3), ask(5, answered=False), ask(7), ask(6)]
    assert green_since(asks, after=1.5, region="west") == 6
    assert green_since([*asks, ask(8, answered=False)], after=1.5, region="west") is None
    assert green_since([*asks, ask(8, region="east")], after=1.5, region="west") is None
    assert green_since([], after=0, region="west") is None

"""The commands of the runbook, run as a person runs them, in the drill's world. The tests go from top to bottom."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relight.config import Role
from relight.errors import RelightError
from relight.memory.store import IndexState
from relight.tasks.database import Database
from relight.tasks.ledger import Ledger
from relight_drill.corpus import documents
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drill.conftest import Stage

    from relight.memory.store import Collection
    from relight_drill.world import World

pytestmark = pytest.mark.drill

SCRIPTS = Path(__file__).parents[2] / "scripts"
ID = r"\d{8}T\d{6}Z"
CHECKS = (
    *("connections", "vault", "lease", "state", "acknowledged", "memory", "queue"),
    *("service", "primary endpoint", "standby endpoint"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command left: its exit code, its lines, and its talk."""

    code: int
    out: list[str]
    err: list[str]

    def values(self) -> dict[str, str]:
        """Its `name: value` lines."""
        return dict(line.split(": ", 1) for line in self.out)


class Operator:
    """A person with the credentials of the account, in front of the project."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.world: World = stage.world
        self._setup = runpy.run_path(str(SCRIPTS / "setup.py"))

    def runs(self, script: str, *arguments: str, role: Role = Role.STANDBY, by_name: bool = False) -> Done:
        """Run one of the scripts on a region, which the environment variables describe or, `by_name`, the options."""
        assert self._setup["is_current"](), "the script would refresh .venv: run scripts/test, which does so first"
        env = {**self.world.operator_env(role), "PYTHON": sys.executable}
        if by_name:
            env = {name: value for name, value in env.items() if not name.startswith("RELIGHT_")}
            arguments = ("--environment", self.world.environment.name, "--role", str(role), *arguments)
        done = subprocess.run(
            [SCRIPTS / script, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Done(code=done.returncode, out=done.stdout.splitlines(), err=done.stderr.splitlines())

    def memory(self) -> tuple[Collection | None, list[str]]:
        """The standby's collection, whose index may be being built, and the names under which former ones are kept."""
        store = self.world.store(Role.STANDBY)
        found = store.describe(self.world.collection)
        return found and replace(found, index=IndexState.READY), store.kept(self.world.collection)


@pytest.fixture(scope="module")
def operator(stage: Stage) -> Operator:
    """Whoever was woken."""
    return Operator(stage)


@pytest.fixture(scope="module")
def ledger(stage: Stage) -> Iterator[Ledger]:
    """The primary's ledger, written to behind the queue's back."""
    database = Database(stage.world.state_dsn(Role.PRIMARY))
    yield Ledger(database, epoch=lambda: 1)
    database.close()


# -- scripts/dr-smoke-test.sh


@pytest.mark.parametrize(
    ("role", "state", "acknowledged"),
    [
        (
            Role.STANDBY,
            r"a replica at [0-9A-F/]+, last commit at [0-9:]+Z",
            "commits are confirmed by this replica, where the primary waits for it",
        ),
        (
            Role.PRIMARY,
            "accepts writes",
            r"the standby confirms commits by commit in [0-9.]+ ms, at most [0-9.]+ ms of 5; nothing is acknowledged"
            " while it is away",
        ),
    ],
)
def test_a_healthy_region_passes(operator: Operator, role: Role, state: str, acknowledged: str) -> None:
    """Every check is one line that says what was found; the exit code is 0."""
    done = operator.runs("dr-smoke-test.sh", role=role, by_name=True)
    assert (done.code, done.err) == (0, ["all checks passed"])
    says = {
        "connections": "the secret relight/demo/connections has all it needs",
        "vault": rf"the newest eligible recovery point is {ID}, \d+ s old, of \d+ vectors",
        "lease": r"epoch 1 of us-east-1, live for \d+ s",
        "state": state,
        "acknowledged": acknowledged,
        # Agents index what was hydrated, within seconds.
        "memory": r"memory: \d+ vectors, journal applied to \d+:\d+(, searched exactly until its index is built)?",
        "queue": "answers",
        "service": r"https://agent\.demo\.relight\.example answers",
        "primary endpoint": r"https://primary\.agent\.demo\.relight\.example answers",
        "standby endpoint": r"https://standby\.agent\.demo\.relight\.example answers",
    }
    assert len(done.out) == len(says)
    for line, (name, found) in zip(done.out, says.items(), strict=True):
        assert re.fullmatch(rf"ok    {name:<17} {found}", line), line


def test_the_smoke_test_can_be_read_by_a_program(operator: Operator) -> None:
    """With `--json`, stdout is the list of checks and nothing else."""
    done = operator.runs("dr-smoke-test.sh", "--json")
    checks: list[dict[str, Any]] = json.loads("\n".join(done.out))
    assert [check["name"] for check in checks] == list(CHECKS)
    assert all(check["ok"] for check in checks)


# -- scripts/restore-vector-snapshot.sh


def test_a_dry_run_shows_what_would_be_restored_over_what(operator: Operator) -> None:
    """`--dry-run` says which point would go over what, and changes nothing."""
    before = operator.memory()
    done = operator.runs("restore-vector-snapshot.sh", "--dry-run", by_name=True)
    assert (done.code, done.out, done.err[-1]) == (0, [], "dry run: nothing was done")
    plan = "\n".join(done.err)
    over = r"  over memory +\d+ vectors, which are kept\n  takes about +1 s"
    assert re.search(rf"  restore +{ID}, \d+ vectors\n{over}", plan)
    assert operator.memory() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--snapshot=20200101T000000Z", "--yes"], 1, "holds no sealed point 20200101T000000Z; `relight points list`"),
        (["--snapshot=latest", "--yes"], 1, "'latest' does not name a recovery point; ids look like 20260419T020000Z"),
        ([], 2, "there is no terminal to ask on; look at the plan above and add --yes"),
    ],
)
def test_nothing_is_restored_that_was_not_named_and_agreed_to(
    operator: Operator, arguments: list[str], code: int, says: str
) -> None:
    """fails when the point does not exist, or nobody can be asked: the last line says so, and nothing is changed."""
    before = operator.memory()
    done = operator.runs("restore-vector-snapshot.sh", *arguments)
    assert (done.code, done.out) == (code, [])
    assert done.err[-1].startswith("relight restore: ")
    assert says in done.err[-1]
    assert operator.memory() == before


@pytest.mark.parametrize("named", [True, False])
def test_a_point_is_restored_and_the_former_memory_is_kept(operator: Operator, named: bool) -> None:
    """The point that is named, or the newest, goes into a new table; what was there stays under another name."""
    world = operator.world
    newest = operator.stage.run(world.invoke("snapshot", role=Role.PRIMARY))["id"] if not named else None
    before, kept_before = operator.memory()
    assert before is not None
    point = newest or before.restored_from
    arguments = [f"--snapshot={point}"] if named else []
    done = operator.runs("restore-vector-snapshot.sh", *arguments, "--yes")
    assert done.code == 0
    said = done.values()
    after, kept = operator.memory()
    assert after is not None
    assert (after.points, after.restored_from) == (before.points, point)
    assert len(kept) == len(kept_before) + 1
    assert said == {
        "collection": "memory",
        "restored": point,
        "points": str(before.points),
        "recall": "1.0",
        "kept": kept[0],
        "entries applied": said["entries applied"],
        "position": str(before.position),
    }
    assert world.memory_lacks(Role.STANDBY) == ""


# -- scripts/replay-tasks.sh


def test_a_replay_beside_a_working_region_repeats_nothing(operator: Operator, ledger: Ledger) -> None:
    """The plan is shown and nothing done; then whatever the workers had not published is, and each report is sent
    once."""
    topics = [document.name for document in documents(2, seed=7)]
    for name, topic in zip(("older", "newer"), topics, strict=True):
        ledger.start_task({"topic": topic}, id_=name)
    since = operator.world.clock.now().isoformat()
    done = operator.runs("replay-tasks.sh", f"--since={since}", "--dry-run", role=Role.PRIMARY, by_name=True)
    assert (done.code, done.out, done.err[-1]) == (0, [], "dry run: nothing was done")
    [publish] = [line for line in done.err if line.startswith("  publish ")]
    assert re.fullmatch(r"  publish +0 tasks, made since [0-9T:-]+Z", publish)
    first, second = (operator.runs("replay-tasks.sh", "--yes", role=Role.PRIMARY) for _ in range(2))
    assert (first.code, second.code, second.values()["published"]) == (0, 0, "0")
    assert "held" not in first.values()

    def settled() -> bool:
        return all(ledger.task(name).status == "done" for name in ("older", "newer"))

    operator.stage.run(wait_until(settled, what="the tasks to be done", timeout_s=60))
    assert sorted(sent.task for sent in operator.world.outbox.sent()) == ["newer", "older"]


def test_a_time_that_is_none_is_usage(operator: Operator) -> None:
    """fails when `--since` cannot be read: exit code 2, and how to write it."""
    done = operator.runs("replay-tasks.sh", "--since=yesterday", "--yes", role=Role.PRIMARY)
    assert (done.code, done.out) == (2, [])
    says = "argument --since: 'yesterday' is not a time with an offset; write it as 2026-04-19T02:00:00Z"
    assert done.err[-1] == f"relight replay: error: {says}"


def test_a_queue_that_nobody_works_off_is_not_filled(operator: Operator) -> None:
    """fails when the other region holds the newest epoch, and says which."""
    done = operator.runs("replay-tasks.sh", "--yes", role=Role.STANDBY, by_name=True)
    assert (done.code, done.out) == (1, [])
    assert "us-east-1 holds epoch 1, so nobody works off the queue of us-west-2; give the other --role" in done.err[-1]


# -- and when something is wrong


def test_a_lost_memory_is_named_and_mended(operator: Operator) -> None:
    """Without its vector memory the standby fails the smoke test by that one check; a restore makes it pass again."""
    world = operator.world
    events = world.emulator.client("events", world.region(Role.STANDBY))
    events.disable_rule(Name=f"{world.environment.names.prefix}-hydrate-on-boot")
    operator.stage.run(world.lose_volume(Role.STANDBY))

    def empty() -> bool:
        try:
            return operator.memory()[0] is None
        except RelightError:
            return False

    operator.stage.run(wait_until(empty, what="an empty vector store in the standby", timeout_s=60))
    done = operator.runs("dr-smoke-test.sh")
    assert (done.code, done.err) == (1, ["1 of 10 checks failed: memory"])
    (failed,) = [line for line in done.out if not line.startswith("ok    ")]
    assert re.fullmatch("FAIL  memory +no collection 'memory': it is hydrated on boot, or by `relight restore`", failed)
    assert operator.runs("restore-vector-snapshot.sh", "--yes").code == 0
    assert world.memory_lacks(Role.STANDBY) == ""
    assert operator.runs("dr-smoke-test.sh").code == 0

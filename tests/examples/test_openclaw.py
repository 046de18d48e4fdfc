"""The agent on checkpointed steps, killed wherever one of its lives can end.

All first lives run side by side, then all second ones: each test looks at one of them.
"""

from __future__ import annotations

import os
import runpy
import secrets
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from example_lives import PATIENCE_S, ROOT, Scene, at_once
from examples.openclaw.research import Researcher

from relight.errors import AgainLaterError, UnavailableError, UnconfirmedError
from relight.tasks.effects import EffectStatus
from relight.tasks.ledger import Status
from relight_drill.llm import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from relight.tasks.ledger import Task
    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

AGENT = "examples.openclaw.research"
TASK = "report/today"
# The steps, and where in a life the mail server is when it ends.
BOUNDARIES = ("claim", "search", "summarise", "sending", "mail")
HELD = ("arrived", "kept")


class Story:
    """A scene, what its first life left in the ledger, and what its second life said."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.left: dict[str, Any] = {}

    def first_life(self) -> None:
        """Ends as by a power cut."""
        life = self.scene.start(AGENT, "json encoding", "--id", TASK, name="first")
        if not self.scene.place.crash_after:
            assert self.scene.holding.wait(PATIENCE_S)
            life.kill()
        assert life.wait(timeout_s=PATIENCE_S) == -signal.SIGKILL
        self.scene.release.set()
        self.left = self.scene.results(TASK)

    def second_life(self) -> None:
        """Nobody tells it what to do."""
        assert self.scene.start(AGENT, name="second", crashes=False).wait(timeout_s=PATIENCE_S) == 0


@pytest.fixture(scope="module")
def stories(server_group: ProcessGroup, vector_server: PostgresServer, server_dir: Path) -> Iterator[dict[str, Story]]:
    """Every end of a first life, and a second life after it."""
    make = partial(Scene, server_group, vector_server)
    found = {name: Story(make(server_dir / f"openclaw-{name}", crash_after=name)) for name in BOUNDARIES}
    for name in HELD:
        found[name] = Story(make(server_dir / f"openclaw-{name}", hold=name))
        found[f"{name}, and nobody to ask"] = Story(make(server_dir / f"openclaw-{name}-mute", hold=name, imap=False))
    at_once([story.first_life for story in found.values()])
    at_once([story.second_life for story in found.values()])
    yield found
    for story in found.values():
        story.scene.close()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_second_life_goes_on_behind_the_last_finished_step(stories: dict[str, Story], boundary: str) -> None:
    """Fails when a step that was finished is done again, its result is another one, or the mail is not sent once."""
    story = stories[boundary]
    finished = {"claim": 0, "search": 1}.get(boundary, 2)
    assert [*story.left] == ["search", "summarise"][:finished]
    results = story.scene.results(TASK)
    assert {key: results[key] for key in story.left} == story.left
    summary = story.scene.check_mailed_once(TASK)
    task = story.scene.ledger.task(TASK)
    assert (task.status, task.attempts, task.result["summary"]) == (Status.DONE, 2, summary)
    story.scene.check_remembered(TASK)
    said = story.scene.said("second")
    assert ("reading the web" in said) == (finished < 1)
    assert ("summarise: (draft" in said) == (finished < 2)


def test_a_model_is_paid_once_in_all_lives(stories: dict[str, Story]) -> None:
    """fails when a life asks a model for what an earlier one has stored, wherever that one ended."""
    paid = {name: story.scene.models.paid for name, story in stories.items()}
    assert paid == {name: ["anthropic"] for name in stories}


@pytest.mark.parametrize("moment", HELD)
def test_a_life_that_ends_inside_the_mail_call_is_asked_after(stories: dict[str, Story], moment: str) -> None:
    """The next life asks the mailbox: what was kept is not sent again, and what was lost is."""
    story = stories[moment]
    assert [*story.left] == ["search", "summarise"]
    assert story.scene.check_mailed_once(TASK) == story.left["summarise"]
    assert story.scene.ledger.task(TASK).status is Status.DONE


@pytest.mark.parametrize("moment", HELD)
def test_where_nobody_can_be_asked_a_person_is(stories: dict[str, Story], moment: str) -> None:
    """Nothing is sent on a guess: the effect is listed as unknown, its task waits, and goes on when it is resolved."""
    story = stories[f"{moment}, and nobody to ask"]
    scene, before = story.scene, len(story.scene.mail.messages())
    assert before == (1 if moment == "kept" else 0)
    assert scene.ledger.task(TASK).status is Status.PARKED
    [effect] = scene.effects(EffectStatus.UNKNOWN)
    answer = "--happened" if moment == "kept" else "--did-not-happen"
    assert f"run {answer} {effect.key[:12]}" in scene.said("second")
    life = scene.start(AGENT, answer, effect.key[:12], name="third", crashes=False)
    assert life.wait(timeout_s=PATIENCE_S) == 0
    assert scene.ledger.task(TASK).status is Status.DONE
    assert scene.check_mailed_once(TASK) == story.left["summarise"]


def test_a_report_that_is_done_is_not_done_again(stories: dict[str, Story]) -> None:
    """Asking for the same report again sends nothing."""
    scene = stories["mail"].scene
    life = scene.start(AGENT, "json encoding", "--id", TASK, name="again", crashes=False)
    assert life.wait(timeout_s=PATIENCE_S) == 0
    assert "done already" in scene.said("again")
    scene.check_mailed_once(TASK)


@pytest.fixture
def scene(server_group: ProcessGroup, vector_server: PostgresServer, server_dir: Path) -> Iterator[Scene]:
    """A world with one task."""
    scene = Scene(server_group, vector_server, server_dir / f"openclaw-{secrets.token_hex(4)}")
    scene.ledger.start_task({"topic": "json encoding"}, id_=TASK)
    yield scene
    scene.close()


@pytest.fixture
def researcher(scene: Scene) -> Iterator[Researcher]:
    """The agent, in this process."""
    with closing(Researcher(scene.place, scene.database)) as researcher:
        yield researcher


def test_a_model_that_is_out_does_not_keep_a_report_from_being_mailed(
    scene: Scene, researcher: Researcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """The local model writes it, once, and the agent knows that it did."""
    scene.models.cloud.trouble = Trouble.SERVER_ERROR
    researcher.work()
    assert scene.ledger.task(TASK).status is Status.DONE
    assert scene.check_mailed_once(TASK).count("(draft ") == 1
    assert scene.models.paid == ["local"]
    assert "pages, by local, a fallback" in capsys.readouterr().out


def test_while_no_model_can_be_asked_the_report_waits(scene: Scene, researcher: Researcher) -> None:
    """fails when an outage of all models counts as a failure of the task: one is back, and it goes on."""
    scene.models.cloud.trouble = scene.models.local.trouble = Trouble.SERVER_ERROR
    [task] = researcher.ledger.claim_due(1, worker="w", lease_s=30.0)
    researcher.live(task, time.monotonic())
    found = scene.ledger.task(TASK)
    assert (found.status, found.attempts, found.waits_for) == (Status.PENDING, 0, "providers")
    scene.models.local.trouble = None
    researcher.work()
    assert scene.ledger.task(TASK).status is Status.DONE
    assert scene.models.paid == ["local"]


def live(researcher: Researcher, raising: Exception) -> Task:
    """One life of the task, whose work raises that; the task afterwards."""
    [task] = researcher.ledger.claim_due(1, worker="w", lease_s=30.0)
    researcher.report = Mock(side_effect=raising)  # type: ignore[method-assign]
    researcher.live(task, time.monotonic())
    return researcher.ledger.task(TASK)


@pytest.mark.parametrize(
    "raising",
    [UnconfirmedError("the standby is away"), AgainLaterError("not yet", wait_s=60.0)],
    ids=lambda exc: type(exc).__name__,
)
def test_a_life_that_only_waited_does_not_count(researcher: Researcher, raising: Exception) -> None:
    """fails when a standby that is away, or a step that waits, uses up the lives of a task."""
    task = live(researcher, raising)
    assert (task.status, task.attempts) == (Status.PENDING, 0)


def test_a_life_that_failed_counts(researcher: Researcher) -> None:
    """It comes again, and is parked one day."""
    task = live(researcher, RuntimeError("no such page"))
    assert (task.status, task.attempts, task.error) == (Status.PENDING, 1, "RuntimeError: no such page")


def test_a_ledger_that_is_away_does_not_end_the_agent(
    researcher: Researcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when a task that cannot be given back ends the process: its claim runs out by itself."""
    away = UnavailableError("the state database broke the connection")
    monkeypatch.setattr(researcher.ledger, "release", Mock(side_effect=away))
    task = live(researcher, RuntimeError("no such page"))
    assert (task.status, task.attempts) == (Status.RUNNING, 1)
    assert f"{TASK}: could not be given back: the state database broke the connection" in capsys.readouterr().out


def test_a_stranger_runs_it_twice(server_dir: Path) -> None:
    """The command raises its own servers; killed with them after the summary, it mails that summary when run again."""
    folder = server_dir / "openclaw-run"
    command = [sys.executable, "-P", "-m", "examples.run", "openclaw", "--data", str(folder), "--claim", "5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    first = run("json encoding", "--crash-after", "summarise")
    assert first.returncode == 128 + signal.SIGKILL, first.stderr
    assert list((folder / "mail" / "new").iterdir()) == []
    second = run()
    assert second.returncode == 0, second.stderr
    assert "search: an earlier life did it" in second.stdout
    [mail] = (folder / "mail" / "new").iterdir()
    [draft] = [line.split()[2] for line in first.stdout.splitlines() if "summarise: (draft" in line]
    assert draft in mail.read_text()


@pytest.mark.parametrize("example", ["openclaw", "hermes"])
def test_the_command_finds_the_project_from_anywhere(example: str, tmp_path: Path) -> None:
    """`examples/NAME/run` works from any folder."""
    assert runpy.run_path(str(ROOT / "scripts" / "setup.py"))["is_current"](), "run scripts/test, which refreshes .venv"
    done = subprocess.run(
        [ROOT / "examples" / example / "run", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--crash-after STEP" in done.stdout

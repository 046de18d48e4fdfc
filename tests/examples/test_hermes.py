"""The agent on JetStream workers: one of two is killed wherever it can be, and the other takes over.

All scenes are played side by side: each test looks at one of them.
"""

from __future__ import annotations

import importlib
import json
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from example_lives import PATIENCE_S, Scene, at_once

from relight.tasks.effects import Effects, EffectStatus
from relight.tasks.ledger import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from relight_drill.nats import NatsServer
    from relight_drill.postgres import PostgresServer
    from relight_drill.processes import Process, ProcessGroup

pytestmark = pytest.mark.servers

WORKER = "examples.hermes.worker"
TASK = "report/today"
MAIL = f"{TASK}/mail"
ANSWERS = [f"{TASK}/{number}" for number in (1, 2, 3)]
BOUNDARIES = ("delegate", "search", "answer", "summarise", "mail")


class Story:
    """A scene with two workers, of which one dies; what it left in the ledger, and who was left."""

    def __init__(self, scene: Scene, *, end: Status = Status.DONE) -> None:
        self.scene = scene
        self.end = end
        self.left: dict[str, dict[str, Any]] = {}
        self.workers: list[Process] = []

    def play(self) -> None:
        """Until the report is mailed, or waits for a person."""
        scene = self.scene
        scene.ledger.start_task({"do": "report", "topic": "json encoding"}, id_=TASK)
        self.workers = [scene.start(WORKER, name, name=name) for name in ("one", "two")]
        if not scene.place.crash_after:
            assert scene.holding.wait(PATIENCE_S)
            [sender] = [worker for worker in self.workers if "mail: sending" in scene.said(worker.name)]
            sender.kill()
            scene.release.set()
        until = time.monotonic() + PATIENCE_S
        while all(worker.alive for worker in self.workers):
            assert time.monotonic() < until, "no worker died"
            time.sleep(0.05)
        self.left = {
            task.id: scene.results(task.id) for task in scene.ledger.tasks([*Status]) if scene.results(task.id)
        }
        scene.wait_for(MAIL, self.end)

    def codes(self) -> list[int]:
        """How the workers ended, the survivor after SIGTERM."""
        for worker in self.workers:
            worker.send(signal.SIGTERM)
        return sorted(worker.wait(timeout_s=PATIENCE_S) for worker in self.workers)


@pytest.fixture(scope="module")
def stories(
    server_group: ProcessGroup, vector_server: PostgresServer, nats_server: NatsServer, server_dir: Path
) -> Iterator[dict[str, Story]]:
    """Every end of a worker, and what the other made of it."""
    make = partial(Scene, server_group, vector_server, queue_url=nats_server.url())
    found = {name: Story(make(server_dir / f"hermes-{name}", crash_after=name)) for name in BOUNDARIES}
    found["kept"] = Story(make(server_dir / "hermes-kept", hold="kept"))
    found["mute"] = Story(make(server_dir / "hermes-mute", hold="kept", imap=False), end=Status.PARKED)
    at_once([story.play for story in found.values()])
    yield found
    for story in found.values():
        story.codes()
        story.scene.close()


@pytest.mark.parametrize("boundary", [*BOUNDARIES, "kept"])
def test_another_worker_takes_over(stories: dict[str, Story], boundary: str) -> None:
    """Fails when a finished step is done again or its result is another one, a sub-task is done twice or not at all, or
    the report is not mailed once."""
    story = stories[boundary]
    scene = story.scene
    scene.check_mailed_once(MAIL)
    for task_id, results in story.left.items():
        now = scene.results(task_id)
        assert {key: now[key] for key in results} == results
    tasks = {task.id: task for task in scene.ledger.tasks([*Status]) if task.id.startswith(TASK)}
    assert sorted(tasks) == sorted([TASK, MAIL, *ANSWERS])
    assert {task.status for task in tasks.values()} == {Status.DONE}
    scene.check_remembered(MAIL, *ANSWERS)
    said = scene.said("one") + scene.said("two")
    assert "life 2" in said
    for answer in ANSWERS:  # the one that was under way may be searched for again, until its search is stored
        assert said.count(f"{answer}: search:") <= 1 + (answer not in story.left)
    if boundary in ("summarise", "mail", "kept"):
        assert said.count("summarise: (draft") == 1
    assert story.codes() == [-signal.SIGKILL, 0]


def test_a_mail_that_nobody_can_be_asked_about_waits_for_a_person(stories: dict[str, Story]) -> None:
    """Its task is parked and the effect unknown; resolved, the worker that is left ends the task and sends nothing."""
    story = stories["mute"]
    scene = story.scene
    [effect] = scene.effects(EffectStatus.UNKNOWN)
    assert len(scene.mail.messages()) == 1
    Effects(scene.ledger).resolve(effect, happened=True, who="a test")
    scene.wait_for(MAIL, Status.DONE)
    scene.check_mailed_once(MAIL)


class Hermes:
    """As much of Hermes Agent as a plugin sees when it is loaded: its registry of tools."""

    def __init__(self) -> None:
        self.tools: dict[str, dict[str, Any]] = {}

    def register_tool(self, *, name: str, toolset: str, schema: dict[str, Any], handler: Any) -> None:
        assert toolset
        self.tools[name] = {"schema": schema, "handler": handler}


def test_the_plugin_starts_a_report_once(stories: dict[str, Story], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that asks twice gets one task; what it gets is always JSON, and so is an error."""
    stories["mail"].codes()
    scene = stories["mail"].scene
    monkeypatch.setenv("EXAMPLE_STATE_DSN", scene.place.state_dsn)
    plugin = importlib.import_module("examples.hermes.plugin")
    plugin._ledger.cache_clear()
    hermes = Hermes()
    plugin.register(hermes)
    assert [*hermes.tools] == ["research_report", "research_status"]
    for name, tool in hermes.tools.items():
        assert tool["schema"]["name"] == name
        assert tool["schema"]["parameters"]["type"] == "object"
    report, status = (tool["handler"] for tool in hermes.tools.values())
    first, second = (json.loads(report({"topic": "email"}, task_id="a session")) for _ in range(2))
    assert first == second
    assert json.loads(status({"task_id": first["task_id"]}))["status"] == "pending"
    done = json.loads(status({"task_id": TASK}))
    assert (done["status"], done["result"]["summary"]) == ("done", scene.check_mailed_once(MAIL))
    assert "there is no task" in json.loads(status({"task_id": "another"}))["error"]
    assert "no topic" in json.loads(report({}))["error"]
    plugin._ledger.cache_clear()

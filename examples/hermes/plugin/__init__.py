"""A Hermes Agent plugin: the model asks for a report, the workers do it, and a restart of either loses nothing.

The tools only read and write the ledger. A report that was asked for is in it before the model is told so; a model, or
a cron job, that asks again on the same day for the same gets the same report.
"""

from __future__ import annotations

import functools
import json
import os
from datetime import UTC, datetime
from typing import Any

from relight.errors import RelightError
from relight.tasks.database import Database
from relight.tasks.ledger import Ledger, Status

REPORT = {
    "name": "research_report",
    "description": (
        "Research a topic in the background and mail a report. Returns the id of the task at once, for research_status."
        " Calling it again for the same topic on the same day is harmless: it is the same report."
    ),
    "parameters": {
        "type": "object",
        "properties": {"topic": {"type": "string", "description": "What to look into"}},
        "required": ["topic"],
    },
}
STATUS = {
    "name": "research_status",
    "description": "How far a report is: pending, running, done (with its summary), or parked: it waits for a person.",
    "parameters": {
        "type": "object",
        "properties": {"task_id": {"type": "string", "description": "What research_report returned"}},
        "required": ["task_id"],
    },
}


def research_report(args: dict[str, Any], **_: Any) -> str:
    """Start the task; JSON for the model, also of an error."""
    topic = str(args.get("topic", "")).strip()
    if not topic:
        return json.dumps({"error": "there is no topic"})
    try:
        task = _ledger().start_task(
            {"do": "report", "topic": topic}, id_=f"report/{datetime.now(UTC):%Y-%m-%d}/{topic}"
        )
    except RelightError as exc:
        return json.dumps({"error": str(exc)})
    return json.dumps({"task_id": task.id, "status": task.status})


def research_status(args: dict[str, Any], **_: Any) -> str:
    """Read the tasks of the report; JSON for the model, also of an error."""
    try:
        ledger = _ledger()
        task = ledger.task(str(args.get("task_id", "")))
        if task.status is Status.DONE:
            answers = [ledger.task(id_) for id_ in task.result["answers"]]
            task = next((answer for answer in answers if answer.status is not Status.DONE), None) or ledger.task(
                task.result["then"]
            )
    except RelightError as exc:
        return json.dumps({"error": str(exc)})
    return json.dumps({"status": task.status, "at": task.id, "last_error": task.error, "result": task.result})


def register(ctx: Any) -> None:
    """What Hermes calls when it loads the plugin."""
    for schema, handler in ((REPORT, research_report), (STATUS, research_status)):
        ctx.register_tool(name=schema["name"], toolset="relight", schema=schema, handler=handler)


@functools.cache
def _ledger() -> Ledger:
    return Ledger(Database(os.environ["EXAMPLE_STATE_DSN"]), epoch=lambda: 1)

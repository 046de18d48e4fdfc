"""A recovery that asks people first: the question, kept where the standby keeps its runs, and their answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import NotFoundError
from relight.recovery.telling import News, Severity, key_of, tell

if TYPE_CHECKING:
    from relight.recovery.timeline import Timeline
    from relight.vault.store import Vault

STATE = "approve"
# What a refused execution fails with.
REFUSED = "Refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a run asks. `token` is the state machine's name for whoever waits; it is of use only to those who may answer
    by their own permissions."""

    run_id: str
    reason: str
    asked_at: datetime
    until: datetime
    token: str


def question_key(run_id: str) -> str:
    """Where a run's question is, beside its timeline."""
    return f"runs/{run_id}/approval/question.json"


def ask(
    question: Question, *, vault: Vault, sns: Any, topic_arn: str, timeline: Timeline, environment: str
) -> dict[str, Any]:
    """Keep the question, and tell people how to answer it. Asked again, the newer question counts."""
    vault.put_json(question_key(question.run_id), asdict(question) | _times(question))
    message = {
        "environment": environment,
        "run_id": question.run_id,
        "reason": question.reason,
        "answer_until": question.until.isoformat(),
        "recover": f"relight approve {question.run_id} --environment {environment}",
        "do_not": f"relight approve {question.run_id} --environment {environment} --refuse",
    }
    tell(
        sns,
        topic_arn,
        News(
            subject=f"Relight {environment}: shall the standby take over?",
            text=json.dumps(message, indent=2),
            keys=(key_of(environment, "recovery", question.run_id),),
            severity=Severity.CRITICAL,
        ),
    )
    timeline.record(STATE, "started", {"reason": question.reason, "until": question.until.isoformat()})
    return {"asked": question.run_id, "until": question.until.isoformat()}


def asked(vault: Vault, run_id: str) -> Question:
    """The question of a run; NotFoundError when it has asked nothing."""
    try:
        found = vault.get_json(question_key(run_id))
    except NotFoundError as exc:
        raise NotFoundError(
            f"the run {run_id!r} has asked for no approval", hint="the incidents topic names the runs that do"
        ) from exc
    return Question(**found | {name: datetime.fromisoformat(found[name]) for name in ("asked_at", "until")})


def answer(question: Question, *, approve: bool, stepfunctions: Any, timeline: Timeline) -> dict[str, Any]:
    """Let the run go on, or end it; NotFoundError or ConflictError when nobody waits for the answer any more."""
    with aws.translating():
        if approve:
            stepfunctions.send_task_success(taskToken=question.token, output=json.dumps({"approved": True}))
        else:
            stepfunctions.send_task_failure(
                taskToken=question.token, error=REFUSED, cause="a person refused that the standby takes over"
            )
    timeline.record(STATE, "done" if approve else "failed", {"approved": approve})
    return {"run_id": question.run_id, "approved": approve}


def _times(question: Question) -> dict[str, str]:
    return {"asked_at": question.asked_at.isoformat(), "until": question.until.isoformat()}

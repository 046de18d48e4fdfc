"""The sentinel: watch the primary for a while, and start the recovery when it is lost."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import ConflictError
from relight.recovery.decide import Decision, Policy, Verdict, decide
from relight.recovery.evidence import HistoryStore, gather

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from relight.clock import Clock
    from relight.recovery.epoch import LeaseStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How one invocation of the sentinel ended."""

    verdict: Verdict
    probes: int
    reasons: tuple[str, ...]
    run_id: str = ""


def watch(
    *,
    url: str,
    history: HistoryStore,
    leases: LeaseStore,
    policy: Policy,
    recover: Callable[[str, Decision, datetime], None],
    page: Callable[[Decision], None],
    interval_s: float,
    timeout_s: float,
    for_s: float,
    clock: Clock,
) -> Watch:
    """Probe every `interval_s` for `for_s` seconds; start one recovery and return when the primary is lost.

    A page is sent when the threshold is reached under a live lease, and then once for every tenfold of it.
    """
    began = clock.monotonic()
    count = 0
    while True:
        found = leases.read()
        evidence = gather(url=url, history=history, lease=found[0] if found else None, timeout_s=timeout_s, clock=clock)
        decision = decide(evidence, policy)
        count += 1
        _log.info("decision", extra={"verdict": decision.verdict.value, "reasons": decision.reasons})
        if decision.verdict is Verdict.RECOVER:
            # Named by minute: a run that fails before it has fenced is followed by another, a minute later.
            run_id = f"epoch-{decision.next_epoch}-{evidence.at:%Y%m%dT%H%MZ}"
            recover(run_id, decision, evidence.at)
            return Watch(verdict=decision.verdict, probes=count, reasons=decision.reasons, run_id=run_id)
        if decision.verdict is Verdict.PAGE and evidence.probes.failures % (10 * policy.probe_threshold) in (
            policy.probe_threshold,
            0,
        ):
            page(decision)
        next_at = count * interval_s
        if next_at >= for_s:
            return Watch(verdict=decision.verdict, probes=count, reasons=decision.reasons)
        clock.sleep(began + next_at - clock.monotonic())


def start_execution(stepfunctions: Any, state_machine_arn: str) -> Callable[[str, Decision, datetime], None]:
    """A `recover` that starts the state machine; starting the same run twice starts it once."""

    def start(run_id: str, decision: Decision, at: datetime) -> None:
        event = {"run_id": run_id, "reason": "; ".join(decision.reasons), "at": at.isoformat()}
        try:
            with aws.translating():
                stepfunctions.start_execution(stateMachineArn=state_machine_arn, name=run_id, input=json.dumps(event))
        except ConflictError:
            _log.info("recovery_already_started", extra={"run_id": run_id})

    return start


def publish_page(sns: Any, topic_arn: str, environment: str) -> Callable[[Decision], None]:
    """A `page` that writes to the incidents topic."""

    def send(decision: Decision) -> None:
        with aws.translating():
            sns.publish(
                TopicArn=topic_arn,
                Subject=f"Relight {environment}: the primary cannot be reached and is alive"[:100],
                Message="\n".join(decision.reasons),
            )

    return send

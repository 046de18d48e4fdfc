"""The sentinel: watch the primary for a while, and start the recovery when it is lost."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import ConflictError, TransientError
from relight.recovery.decide import Decision, Policy, Verdict, decide
from relight.recovery.evidence import HistoryStore, gather
from relight.recovery.telling import News, Severity, key_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from relight.clock import Clock
    from relight.recovery.epoch import LeaseStore

_log = logging.getLogger(__name__)

# A run that has not fenced by then has failed: until it has fenced, the primary still looks lost.
START_AGAIN_S = 120.0
PAGE_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How one invocation of the sentinel ended."""

    verdict: Verdict
    probes: int
    reasons: tuple[str, ...]
    run_id: str = ""


def watch(
    *,
    urls: Mapping[str, str],
    history: HistoryStore,
    leases: LeaseStore,
    policy: Policy,
    recover: Callable[[str, Decision, datetime], None],
    page: Callable[[Decision], None],
    interval_s: float,
    timeout_s: float,
    for_s: float,
    clock: Clock,
    start_again_s: float = START_AGAIN_S,
    must_work: bool = False,
) -> Watch:
    """Probe the region that holds the lease every `interval_s` for `for_s` seconds, and act on what is decided.

    With `must_work`, for active-active, an answer counts only when it says that the region works: one that has lost its
    right to act may serve reads on.

    Returns early when a recovery was started. Started again, or paged again about the same trouble, it is only after a
    while. A passing error of the lease's own store costs one look and not the watch.
    """

    def look() -> tuple[Decision, str]:
        """What is decided now, and the id of the run that was started for it, if one was."""
        found = leases.read()
        region = found[0].region if found else policy.primary_region
        evidence = gather(
            url=urls[region],
            region=region,
            history=history,
            lease=found[0] if found else None,
            timeout_s=timeout_s,
            clock=clock,
            must_work=must_work,
        )
        decision = decide(evidence, policy)
        run_id = ""
        _log.info("decision", extra={"verdict": decision.verdict.value, "reasons": decision.reasons})
        if decision.verdict is Verdict.RECOVER and _is_over(evidence.probes.started_at, evidence.at, start_again_s):
            run_id = f"epoch-{decision.next_epoch}-{evidence.at:%Y%m%dT%H%M%SZ}"
            recover(run_id, decision, evidence.at)
            history.write(replace(evidence.probes, started_at=evidence.at))
        if decision.verdict is Verdict.PAGE and _is_over(evidence.probes.paged_at, evidence.at, PAGE_AGAIN_S):
            page(decision)
            history.write(replace(evidence.probes, paged_at=evidence.at))
        return decision, run_id

    began = clock.monotonic()
    count = 0
    while True:
        count += 1
        try:
            decision, run_id = look()
            done = Watch(verdict=decision.verdict, probes=count, reasons=decision.reasons, run_id=run_id)
        except TransientError as exc:
            _log.warning("look_failed", extra={"error": str(exc)})
            done = Watch(verdict=Verdict.HOLD, probes=count, reasons=("the lease could not be read",))
        next_at = count * interval_s
        if done.run_id or next_at >= for_s:
            return done
        clock.sleep(began + next_at - clock.monotonic())


def _is_over(moment: datetime | None, now: datetime, wait_s: float) -> bool:
    return moment is None or (now - moment).total_seconds() >= wait_s


def start_execution(stepfunctions: Any, state_machine_arn: str) -> Callable[[str, Decision, datetime], None]:
    """A `recover` that starts the state machine; starting the same run twice starts it once."""

    def start(run_id: str, decision: Decision, at: datetime) -> None:
        event = {
            "run_id": run_id,
            "next_epoch": decision.next_epoch,
            "reason": "; ".join(decision.reasons),
            "at": at.isoformat(),
        }
        try:
            with aws.translating():
                stepfunctions.start_execution(stateMachineArn=state_machine_arn, name=run_id, input=json.dumps(event))
        except ConflictError:
            _log.info("recovery_already_started", extra={"run_id": run_id})

    return start


def publish_page(sns: Any, topic_arn: str, environment: str) -> Callable[[Decision], None]:
    """A `page` that writes to the incidents topic."""

    def send(decision: Decision) -> None:
        tell(
            sns,
            topic_arn,
            News(
                subject=f"Relight {environment}: nobody is served, and no recovery was started",
                text="\n".join(decision.reasons),
                keys=(key_of(environment, "unserved"),),
                severity=Severity.CRITICAL,
            ),
        )

    return send

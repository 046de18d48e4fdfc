"""Runs a state of the recovery in a region, with its timeline. Handlers and the CLI both come through here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from relight.errors import AgainLaterError, ConfigError, TransientError
from relight.objectives import Pattern
from relight.queue.queues import open_queue
from relight.recovery import states
from relight.recovery.approval import Question, answer, ask
from relight.recovery.capacity import scale
from relight.recovery.decide import START_AGAIN_S, Policy
from relight.recovery.sentinel import Sentinel, Watch, publish_page, running_executions, start_execution
from relight.tasks.ledger import Ledger
from relight.tasks.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from relight.wiring import Region

# A schedule's shortest rate is a minute, and EventBridge Scheduler calls within 60 s of it: two minutes may pass until
# the next watch begins. Ten seconds more are for a cold start.
WATCH_S = 130.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of the recovery state machine. Every state gets the same.

    `failed` and `error` are for the page. `until` is when, by the clock's `monotonic`, a state that can go on later
    must stop, because its process ends.
    """

    run_id: str
    decided_at: str = ""
    next_epoch: int | None = None
    failed: bool = False
    reason: str = ""
    error: str = ""
    until: float | None = None

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> Run:
        """Read a state's input; ConfigError when it names no run."""
        run_id = event.get("run_id")
        if event.get("source") == "aws.ecs":
            # A store's task turned RUNNING outside of any recovery: its hydration has a timeline of its own.
            run_id = "boot-" + str(event.get("detail", {}).get("taskArn", "")).rpartition("/")[2]
        if not isinstance(run_id, str) or not run_id:
            raise ConfigError(f"the event has run_id={run_id!r}", hint='start the state machine with {"run_id": "..."}')
        next_epoch = event.get("next_epoch")
        if next_epoch is not None and not isinstance(next_epoch, int):
            raise ConfigError(f"the event has next_epoch={next_epoch!r}", hint="leave it out, or give a whole number")
        return cls(
            run_id=run_id,
            decided_at=str(event.get("at", "")),
            next_epoch=next_epoch,
            failed=bool(event.get("failed")),
            reason=str(event.get("reason", "")),
            error=str(event.get("error", "")),
        )


def run_state(name: str, region: Region, run: Run) -> dict[str, Any]:
    """Run one state by its name and return what it found and did, which its timeline has too.

    A transient error is tried again for about eight seconds, here and not by the caller: an operator's shell has no
    state machine around it. What was tried is in the detail. One that says itself when to come again is the caller's.
    """
    with region.timeline(run.run_id).state(name) as detail:
        for pause_s in (*PAUSES_S, None):
            try:
                detail.update(STATES[name](region, run))
                break
            except AgainLaterError:
                raise
            except TransientError as exc:
                if pause_s is None:
                    raise
                detail.setdefault("tried", []).append(str(exc))
                region.clock.sleep(pause_s)
    return detail


def ask_approval(region: Region, run: Run, *, token: str, within_s: float) -> dict[str, Any]:
    """Ask people whether the run may go on, and leave the waiting to the state machine."""
    settings, now = region.settings, region.clock.now()
    question = Question(
        run_id=run.run_id, reason=run.reason, asked_at=now, until=now + timedelta(seconds=within_s), token=token
    )
    return ask(
        question,
        vault=region.vault,
        sns=region.aws("sns"),
        topic_arn=settings.incidents_topic_arn,
        timeline=region.timeline(run.run_id),
        environment=settings.environment,
    )


def answer_approval(region: Region, question: Question, *, approve: bool) -> dict[str, Any]:
    """Give a person's answer to the run that waits for it."""
    return answer(
        question,
        approve=approve,
        stepfunctions=region.aws("stepfunctions"),
        timeline=region.timeline(question.run_id),
    )


def watch_primary(region: Region) -> Watch:
    """One invocation of the sentinel: watch until the next has begun, so that there is no gap between two."""
    settings = region.settings
    sentinel = Sentinel(
        name=uuid4().hex,
        urls={
            settings.primary_region: f"{settings.primary_url}/ready",
            settings.standby_region: f"{settings.standby_url}/ready",
        },
        history=region.probe_history,
        leases=region.leases,
        policy=Policy(
            probe_threshold=settings.probe_threshold,
            primary_region=settings.primary_region,
            recovery_s=settings.objectives.rto_s / 2,
            lease_margin_s=settings.lease_margin_s,
        ),
        recover=start_execution(region.aws("stepfunctions"), settings.state_machine_arn),
        runs=running_executions(region.aws("stepfunctions"), settings.state_machine_arn),
        tell_people=publish_page(region.aws("sns"), settings.incidents_topic_arn, settings.environment),
        interval_s=settings.probe_interval_s,
        timeout_s=settings.probe_timeout_s,
        clock=region.clock,
        # Whoever refused is not asked again for as long as they had for their answer.
        start_again_s=START_AGAIN_S + settings.approval_s,
        must_work=settings.pattern is Pattern.ACTIVE_ACTIVE,
    )
    return sentinel.watch(for_s=WATCH_S)


def _assess(region: Region, run: Run) -> dict[str, Any]:
    found = states.assess(
        vault=region.vault, leases=region.leases, replica=region.replica, region=region.settings.region
    )
    return {"decided_at": run.decided_at, **found}


def _fence(region: Region, run: Run) -> dict[str, Any]:
    return states.fence(
        leases=region.leases,
        region=region.settings.region,
        run_id=run.run_id,
        next_epoch=run.next_epoch,
        ttl_s=region.settings.lease_ttl_s,
        margin_s=region.settings.lease_margin_s,
        clock=region.clock,
    )


def _promote(region: Region, run: Run) -> dict[str, Any]:
    return states.promote(replica=region.replica, epochs=region.epochs, lease=_lease(region, run))


def _scale(region: Region, _: Run) -> dict[str, Any]:
    return scale(region.needs, clock=region.clock)


def _hydrate(region: Region, _: Run) -> dict[str, Any]:
    with region.state() as state:
        return states.hydrate(
            store=region.store,
            vault=region.vault,
            state=state,
            specs=region.specs,
            clock=region.clock,
            recall_floor=region.settings.recall_floor,
            peer=region.restores_beside,
        )


def _verify(region: Region, run: Run) -> dict[str, Any]:
    with region.state() as state:
        return states.verify(
            store=region.store, state=state, specs=region.specs, epochs=region.epochs, lease=_lease(region, run)
        )


def _replay(region: Region, run: Run) -> dict[str, Any]:
    lease = _lease(region, run)

    async def publish() -> dict[str, Any]:
        async with open_queue(region.connections.queue_url, environment=region.settings.environment) as queue:
            ledger = Ledger(region.database, epoch=lambda: lease.epoch)
            return await states.replay(
                ledger=ledger,
                queue=queue,
                epochs=region.epochs,
                lease=lease,
                policy=TimeTravel.of(region.settings),
                clock=region.clock,
                until=run.until,
            )

    return asyncio.run(publish())


def _open_gate(region: Region, run: Run) -> dict[str, Any]:
    return states.open_gate(epochs=region.epochs, lease=_lease(region, run), clock=region.clock)


def _announce(region: Region, run: Run) -> dict[str, Any]:
    return states.announce(
        sns=region.aws("sns"),
        topic_arn=region.settings.incidents_topic_arn,
        timeline=region.timeline(run.run_id),
        environment=region.settings.environment,
        failed=run.failed,
        error=run.error,
    )


def _lease(region: Region, run: Run) -> Any:
    return states.held_by_run(region.leases, region=region.settings.region, run_id=run.run_id)


STATES: dict[str, Callable[[Region, Run], dict[str, Any]]] = {
    "assess": _assess,
    "fence": _fence,
    "promote": _promote,
    "scale": _scale,
    "hydrate": _hydrate,
    "verify": _verify,
    "replay": _replay,
    "open-gate": _open_gate,
    "announce": _announce,
}

"""The states of a recovery: each a core function that is idempotent and can be run again by itself.

assess → fence → promote → [scale ‖ hydrate] → verify → replay → open gate → announce
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from relight.clock import looks
from relight.errors import AgainLaterError, ConflictError, PermanentError, UnavailableError
from relight.memory.hydrate import hydrate as hydrate_memory
from relight.memory.hydrate import verify_memory
from relight.recovery.epoch import take_next
from relight.recovery.telling import News, Severity, key_of, tell
from relight.tasks.replay import replay as replay_tasks
from relight.vault.points import NoPointError, newest_eligible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.adapters.postgres import Connection
    from relight.clock import Clock
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.queue.port import TaskQueue
    from relight.recovery.epoch import Lease, LeaseStore
    from relight.recovery.replica import Replica
    from relight.recovery.timeline import Timeline
    from relight.tasks.epochs import EpochLog
    from relight.tasks.ledger import Ledger
    from relight.tasks.timetravel import TimeTravel
    from relight.vault.store import Vault


# How long one call waits for a vector store that is being started, and how often it looks.
STORE_WAIT_S = 20.0
STORE_LOOK_S = 1.0


def held_by_run(leases: LeaseStore, *, region: str, run_id: str) -> Lease:
    """The lease that this run's fence took; ConflictError when another run or region has it."""
    found = leases.read()
    if found is None or found[0].region != region or found[0].run_id != run_id:
        holder = "nobody" if found is None else f"{found[0].region}, by run {found[0].run_id}"
        raise ConflictError(f"run {run_id} does not hold the lease: {holder} does", hint="start a new recovery")
    return found[0]


def assess(*, vault: Vault, leases: LeaseStore, replica: Replica, region: str) -> dict[str, Any]:
    """What there is to recover from; changes nothing.

    The replica must answer, and be one: a database that accepts writes while another region holds the lease is a former
    primary, and acting on it would drop all that happened since. Having no eligible point is not an error here: a store
    that holds data needs none.
    """
    position = replica.position()
    found = leases.read()
    if position.promoted and found is not None and found[0].region != region:
        raise ConflictError(
            f"the database of {region} accepts writes, and epoch {found[0].epoch} is held by {found[0].region}",
            hint="it is no replica of the holder: build a new one from it before going back",
        )
    try:
        newest = newest_eligible(vault).id
    except NoPointError:
        newest = None
    return {
        "replica_replayed_lsn": position.replayed_lsn,
        "replica_last_commit_at": position.last_commit_at.isoformat() if position.last_commit_at else None,
        "newest_eligible_point": newest,
        "lease": None if found is None else {"epoch": found[0].epoch, "region": found[0].region},
    }


def fence(
    *,
    leases: LeaseStore,
    region: str,
    run_id: str,
    next_epoch: int | None,
    ttl_s: float,
    margin_s: float,
    clock: Clock,
) -> dict[str, Any]:
    """Take the next epoch for `region` and wait the old lease out: from here on the old primary cannot act."""
    waits: list[float] = []
    lease = take_next(
        leases,
        region=region,
        run_id=run_id,
        next_epoch=next_epoch,
        ttl_s=ttl_s,
        margin_s=margin_s,
        clock=clock,
        waiting=waits.append,
    )
    return {"epoch": lease.epoch, "waited_s": round(sum(waits), 3)}


def promote(*, replica: Replica, epochs: EpochLog, lease: Lease) -> dict[str, Any]:
    """Make the replica the primary, and let its database refuse every older epoch.

    ConflictError on a database that accepts writes and does not know the epoch before this one: that is no replica of
    its holder.
    """
    if replica.position().promoted:
        newest = epochs.newest()
        if newest is None or newest.number < lease.epoch - 1:
            raise ConflictError(
                f"the database accepts writes and knows {newest.number if newest else 'no epoch'} as its newest epoch,"
                f" and {lease.epoch} is to be taken",
                hint="it is no replica of the last holder: build a new one from it first",
            )
    newly = replica.promote()
    epochs.take(lease.epoch, region=lease.region, run_id=lease.run_id)
    return {"epoch": lease.epoch, "newly_promoted": newly}


def wait_for_store(store: VectorStore, specs: Sequence[CollectionSpec], *, clock: Clock) -> None:
    """Wait a while for a vector store that is being started; AgainLaterError when it needs more time.

    A cold standby's is started beside this, and a task that has turned RUNNING need not answer yet.
    """
    problem = ""
    for _ in looks(clock, every_s=STORE_LOOK_S, within_s=STORE_WAIT_S):
        try:
            store.position(specs[0].name)
        except PermanentError:
            return  # it answers, be it that it is empty; what is wrong the hydration says
        except UnavailableError as exc:
            problem = exc.problem
        else:
            return
    raise AgainLaterError(
        f"the vector store does not answer yet: {problem}",
        hint="it may be starting: run the state again",
        wait_s=STORE_LOOK_S,
    )


def hydrate(
    *,
    store: VectorStore,
    vault: Vault,
    state: Connection,
    specs: Sequence[CollectionSpec],
    clock: Clock,
    recall_floor: float,
    peer: Vault | None = None,
) -> dict[str, Any]:
    """Fill the vector store: from the newest eligible point when it is empty, and then from the journal.

    Points of `peer` count too, where there is one. AgainLaterError while it does not answer.
    """
    wait_for_store(store, specs, clock=clock)
    done = hydrate_memory(
        store=store, vault=vault, state=state, specs=specs, clock=clock, recall_floor=recall_floor, peer=peer
    )
    return {"collections": [item.to_json() for item in done]}


def verify(
    *, store: VectorStore, state: Connection, specs: Sequence[CollectionSpec], epochs: EpochLog, lease: Lease
) -> dict[str, Any]:
    """Prove that memory holds all that the journal promises, and record it; IntegrityError otherwise."""
    found = {spec.name: verify_memory(store=store, state=state, spec=spec) for spec in specs}
    epochs.mark_verified(lease.epoch)
    return {
        "collections": [
            {"collection": name, "points": item.points, "position": str(item.position)} for name, item in found.items()
        ]
    }


async def replay(
    *,
    ledger: Ledger,
    queue: TaskQueue,
    epochs: EpochLog,
    lease: Lease,
    policy: TimeTravel,
    clock: Clock,
    until: float | None = None,
) -> dict[str, Any]:
    """Hold what is too old to be done unseen, rebuild the queue from the ledger, and record it once all is published.

    AgainLaterError at `until`: what was published stays so, and it goes on when it is called again.
    """
    done = await replay_tasks(ledger=ledger, queue=queue, policy=policy, clock=clock, until=until)
    await asyncio.to_thread(epochs.mark_replayed, lease.epoch)
    return done.to_json()


def open_gate(*, epochs: EpochLog, lease: Lease, clock: Clock) -> dict[str, Any]:
    """Let traffic in. Refused unless memory is verified and tasks are replayed under this very epoch; AgainLaterError
    while no agent renews the lease."""
    newest = epochs.newest()
    if newest is None or newest.number != lease.epoch:
        raise ConflictError(f"the database is at {newest}, the lease at epoch {lease.epoch}", hint="run promote again")
    if newest.verified_at is None or newest.replayed_at is None:
        missing = "verify" if newest.verified_at is None else "replay"
        raise ConflictError(f"the gate stays closed: {missing} is not done under epoch {lease.epoch}")
    if lease.expires_at <= clock.now():
        # It is still this run's, until another takes the next epoch. An agent that has just started renews it.
        raise AgainLaterError(
            f"the lease of {lease.region} ran out at {lease.expires_at:%H:%M:%SZ}: no agent there renews it",
            hint="agents may be starting: run the state again; else see why none of the standby runs",
        )
    epochs.mark_opened(lease.epoch)
    return {"epoch": lease.epoch}


def announce(
    *, sns: Any, topic_arn: str, timeline: Timeline, environment: str, failed: bool, error: str = ""
) -> dict[str, Any]:
    """Tell people what happened, from the run's own timeline; `error` is what the state machine knows beside it."""
    events = timeline.events()
    ends = [event for event in events if event.status in ("done", "failed")]
    took_s = (ends[-1].at - events[0].at).total_seconds() if ends else 0.0
    outcome = "FAILED" if failed else "done"
    message = {
        "environment": environment,
        "run_id": timeline.run_id,
        "outcome": outcome,
        "seconds": round(took_s, 1),
        **({"error": error} if error else {}),
        "states": [{"state": event.state, "status": event.status, **event.detail} for event in ends],
    }
    tell(
        sns,
        topic_arn,
        News(
            subject=f"Relight {environment}: recovery {outcome} after {took_s:.0f} s",
            text=json.dumps(message, indent=2, default=str),
            keys=(key_of(environment, "recovery", timeline.run_id),),
            severity=Severity.CRITICAL if failed else Severity.WARNING,
        ),
    )
    return {"outcome": outcome, "seconds": round(took_s, 1)}

"""What is too large for a function: the same core is run by an ECS task, which has more time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.clock import parse_time
from relight.errors import ConflictError, RelightError, UnavailableError
from relight.memory.estimate import snapshot_bytes
from relight.recovery.first_day import not_begun
from relight.recovery.metrics import DAMAGED, VERIFY_LAG
from relight.recovery.points import may_seal, take_point, verify_region
from relight.recovery.run import Run, run_state
from relight.recovery.states import wait_for_store
from relight.vault.points import survey_both

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.memory.store import CollectionSpec, VectorStore
    from relight.vault.store import Vault
    from relight.wiring import Region

CONTAINER = "work"


class EcsTasks:
    """Starts tasks on Fargate that run a verb of `relight_lambdas.task`, which is in their `startedBy`."""

    def __init__(self, ecs: Any, *, cluster: str, family: str, subnets: Sequence[str], groups: Sequence[str]) -> None:
        self._ecs = ecs
        self._cluster = cluster
        self._family = family
        self._subnets = list(subnets)
        self._groups = list(groups)

    def start(self, verb: str, *arguments: str, alone: bool) -> str:
        """Start one and return its name, without waiting for its end.

        ConflictError while another of the same verb runs that was started here, and this one has to be `alone`;
        UnavailableError when there is no capacity for it now.
        """
        started_by = f"{self._family}-{verb}"
        with aws.translating():
            if alone and (running := self._ecs.list_tasks(cluster=self._cluster, startedBy=started_by)["taskArns"]):
                raise ConflictError(f"{running[0]} runs {verb} already", hint="it is done when that task has ended")
            answer = self._ecs.run_task(
                cluster=self._cluster,
                taskDefinition=self._family,
                launchType="FARGATE",
                startedBy=started_by,
                networkConfiguration={
                    "awsvpcConfiguration": {
                        "subnets": self._subnets,
                        "securityGroups": self._groups,
                        "assignPublicIp": "DISABLED",
                    }
                },
                overrides={"containerOverrides": [{"name": CONTAINER, "command": [verb, *arguments]}]},
            )
        if not answer["tasks"]:
            why = "; ".join(str(item.get("reason", "no reason")) for item in answer.get("failures", []))
            raise UnavailableError(f"no task of {self._family} was started: {why}", hint="it is tried again")
        return str(answer["tasks"][0]["taskArn"])


def is_large(size: int, *, above: int) -> bool:
    """Whether a function would not end in time; never where `above` is 0."""
    return 0 < above < size


def bytes_to_restore(
    store: VectorStore, vault: Vault, specs: Sequence[CollectionSpec], *, peer: Vault | None = None
) -> int:
    """What a hydration would read of the newest eligible point: all that belongs into collections which are empty."""
    lacking = set()
    for spec in specs:
        found = store.describe(spec.name)
        if found is None or found.is_empty:
            lacking.add(spec.name)
    if not lacking:
        return 0
    for _, status in survey_both(vault, peer):
        if status.manifest is not None and status.eligible:
            return sum(part.bytes for part in status.manifest.collections if part.name in lacking)
    return 0


def bytes_to_take(store: VectorStore, specs: Sequence[CollectionSpec]) -> int:
    """What a snapshot of all collections has at least."""
    found = [store.describe(spec.name) for spec in specs]
    return sum(snapshot_bytes(points=item.points, dimension=item.spec.dimension) for item in found if item is not None)


def hydrate_or_hand_over(region: Region, run: Run, *, in_recovery: bool) -> dict[str, Any]:
    """Run the state hydrate here, unless the memory is too large for a function.

    Then nothing is done here. `large` tells the state machine to run the task and to wait for its end; outside of a
    recovery, where nobody waits, the task is started and named. A store that starts before the first day is left alone.
    """
    if not in_recovery and (why := not_begun(region)):
        return {"large": False, "skipped": why}
    size = _bytes_for(region, run)
    if not is_large(size, above=region.settings.large_bytes):
        return {**run_state("hydrate", region, run), "large": False}
    if in_recovery:
        return {"large": True, "bytes": size}
    # One that still fills a store which has just gone must not keep the next store from being filled.
    task = region.tasks.start("hydrate", "--run-id", run.run_id, alone=False)
    return {"large": False, "bytes": size, "task": task}


def _bytes_for(region: Region, run: Run) -> int:
    """What the state would read, where that decides who runs it; that nobody can tell is a failure of the state."""
    if not region.settings.large_bytes:
        return 0
    try:
        wait_for_store(region.store, region.specs, clock=region.clock)
        return bytes_to_restore(region.store, region.vault, region.specs, peer=region.restores_beside)
    except RelightError:
        with region.timeline(run.run_id).state("hydrate"):
            raise


def take_or_hand_over(region: Region) -> dict[str, Any]:
    """Take a recovery point here, or start the task that does where the memory is too large for a function."""
    above = region.settings.large_bytes
    if not (above and may_seal(region)):
        return take_point(region)
    size = bytes_to_take(region.store, region.specs)
    if not is_large(size, above=above):
        return take_point(region)
    return {"bytes": size, **_alone(region, "snapshot")}


def verify_or_hand_over(region: Region) -> dict[str, Any]:
    """Read points in a function's time, publish how far behind that is, and start the task that reads what was left.

    What is too large for a function is left to the task from the beginning, so that it holds up no other point; what
    there was no time for the task reads too, because the next run would begin with the newer ones. IntegrityError,
    after all of that, when a point was found damaged.
    """
    above = region.settings.large_bytes
    done = verify_region(region, largest=above or None)
    now = region.clock.now()
    behind_s = max((now - parse_time(point)).total_seconds() for point in done.left) if done.left else 0.0
    damaged = len(done.damaged) + len(done.known_damaged)
    region.metrics.put({VERIFY_LAG: behind_s, DAMAGED: float(damaged)})
    task = _alone(region, "verify") if done.left and above else {}
    return done.or_raise().to_json() | task


def _alone(region: Region, verb: str) -> dict[str, Any]:
    try:
        return {"task": region.tasks.start(verb, alone=True)}
    except ConflictError as exc:
        return {"skipped": exc.problem}

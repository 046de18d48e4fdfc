"""What a tier gets unless its environment says otherwise: the one table from tier to infrastructure. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from relight.config import Acknowledge, ConfirmBy, Settings
from relight.config import StateKind as StateKind
from relight.objectives import Tier

# The default of a setting is written down once, in `Settings`.
DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(Settings)}


class Waiting(StrEnum):
    """How many agents run in the standby while nothing is wrong."""

    FULL = "full"
    """As many as in the primary."""
    PILOT = "pilot"
    """One, and one vector store: enough to be found alive and to be filled."""
    NONE = "none"
    """No container at all."""


class Routing(StrEnum):
    """How callers find a region."""

    FAILOVER = "failover"
    """The primary while its gate is open, else the standby."""
    WEIGHTED = "weighted"
    """Both, half each, as long as their gates are open."""
    LATENCY = "latency"
    """The nearer one whose gate is open."""
    SINGLE = "single"
    """The primary alone; a person moves the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The infrastructure of an environment. Seconds and minutes as the names say.

    `standby` is whether there is a standby stack, with the sentinel and the recovery machine. `rehearse` is a schedule
    expression of EventBridge Scheduler, or empty for none. `replication_time_control` buys S3's promise of 15 minutes.
    The sentinel probes every `probe_interval_s`, gives up on an answer after `probe_timeout_s`, and believes in a loss
    after `probe_threshold` failures in a row.
    """

    standby: bool
    waiting: Waiting
    state: StateKind
    routing: Routing
    snapshot_minutes: int
    check_interval_s: int
    primary_threshold: int
    standby_threshold: int
    ttl_s: int
    rehearse: str
    replication_time_control: bool
    probe_interval_s: float = DEFAULTS["probe_interval_s"]
    probe_timeout_s: float = DEFAULTS["probe_timeout_s"]
    probe_threshold: int = DEFAULTS["probe_threshold"]

    @property
    def hydrates_on_boot(self) -> bool:
        """Whether a vector store runs in the standby while nothing is wrong, and is filled when it starts empty."""
        return self.standby and self.waiting is not Waiting.NONE


# At four in the morning of the first of each month.
MONTHLY = "cron(0 4 1 * ? *)"

SHAPES: dict[Tier, Shape] = {
    Tier.CUSTOMER_FACING: Shape(
        standby=True,
        waiting=Waiting.FULL,
        state=StateKind.AURORA_GLOBAL,
        routing=Routing.LATENCY,
        snapshot_minutes=5,
        check_interval_s=10,
        primary_threshold=3,
        standby_threshold=1,
        ttl_s=10,
        rehearse=MONTHLY,
        replication_time_control=True,
        # Of two minutes, a promotion may need one.
        probe_interval_s=5.0,
        probe_timeout_s=3.0,
    ),
    Tier.INTERNAL: Shape(
        standby=True,
        waiting=Waiting.PILOT,
        state=StateKind.RDS_REPLICA,
        routing=Routing.FAILOVER,
        snapshot_minutes=5,
        check_interval_s=10,
        primary_threshold=3,
        standby_threshold=1,
        ttl_s=10,
        rehearse=MONTHLY,
        replication_time_control=True,
    ),
    Tier.BATCH: Shape(
        standby=True,
        waiting=Waiting.NONE,
        state=StateKind.SNAPSHOTS,
        routing=Routing.FAILOVER,
        snapshot_minutes=60,
        check_interval_s=30,
        primary_threshold=3,
        standby_threshold=1,
        ttl_s=30,
        rehearse=MONTHLY,
        replication_time_control=True,
    ),
    Tier.SANDBOX: Shape(
        standby=False,
        waiting=Waiting.NONE,
        state=StateKind.SNAPSHOTS,
        routing=Routing.SINGLE,
        snapshot_minutes=1440,
        check_interval_s=30,
        primary_threshold=3,
        standby_threshold=1,
        ttl_s=60,
        rehearse="",
        replication_time_control=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirming:
    """What "acknowledged" means. `confirm_replicas` count where the replicas' positions are looked at."""

    acknowledge: Acknowledge
    confirm_by: ConfirmBy
    confirm_replicas: int


CONFIRMING: dict[StateKind, Confirming] = {
    StateKind.AURORA_GLOBAL: Confirming(
        acknowledge=Acknowledge.REMOTE, confirm_by=ConfirmBy.AURORA, confirm_replicas=1
    ),
    # Such a replica is asynchronous: no commit waits for it.
    StateKind.RDS_REPLICA: Confirming(
        acknowledge=Acknowledge.REMOTE, confirm_by=ConfirmBy.POSITION, confirm_replicas=1
    ),
    # There is no replica that could confirm anything.
    StateKind.SNAPSHOTS: Confirming(acknowledge=Acknowledge.LOCAL, confirm_by=ConfirmBy.POSITION, confirm_replicas=0),
    StateKind.EXISTING: Confirming(acknowledge=Acknowledge.REMOTE, confirm_by=ConfirmBy.COMMIT, confirm_replicas=1),
}

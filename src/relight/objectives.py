"""What each tier promises, and the pattern that keeps it. The one table that stacks, drills and reports read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tier(StrEnum):
    """How much an agent's outage costs its users."""

    CUSTOMER_FACING = "customer-facing"
    INTERNAL = "internal"
    BATCH = "batch"
    SANDBOX = "sandbox"


class Pattern(StrEnum):
    """How the standby region waits."""

    ACTIVE_ACTIVE = "active-active"
    """Both regions serve; one of them, the epoch's holder, runs tasks and side effects."""
    WARM_STANDBY = "warm standby"
    """A pilot light of one agent, with memory and state; scaled by a recovery."""
    COLD_STANDBY = "cold standby"
    """Everything is there but containers; a recovery starts and fills them."""
    SNAPSHOTS = "snapshots"
    """Nothing waits but recovery points; a person restores them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Recovery time and recovery point objectives, in seconds."""

    rto_s: float
    rpo_s: float


_MINUTE = 60.0
_HOUR = 60 * _MINUTE

OBJECTIVES: dict[Tier, Objectives] = {
    Tier.CUSTOMER_FACING: Objectives(rto_s=2 * _MINUTE, rpo_s=30.0),
    Tier.INTERNAL: Objectives(rto_s=15 * _MINUTE, rpo_s=5 * _MINUTE),
    Tier.BATCH: Objectives(rto_s=1 * _HOUR, rpo_s=1 * _HOUR),
    Tier.SANDBOX: Objectives(rto_s=24 * _HOUR, rpo_s=24 * _HOUR),
}

PATTERNS: dict[Tier, Pattern] = {
    Tier.CUSTOMER_FACING: Pattern.ACTIVE_ACTIVE,
    Tier.INTERNAL: Pattern.WARM_STANDBY,
    Tier.BATCH: Pattern.COLD_STANDBY,
    Tier.SANDBOX: Pattern.SNAPSHOTS,
}

# S3 Replication Time Control promises 15 minutes and offers no other value, so a tier with a shorter RPO uploads its
# points to the standby's vault first. Source: Amazon S3 user guide, "Meeting compliance requirements with S3 RTC".
REPLICATION_TIME_CONTROL_S = 15 * _MINUTE


def uploads_to_standby_first(objectives: Objectives) -> bool:
    """Whether replication would bring a point to the standby too late for the RPO."""
    return objectives.rpo_s < REPLICATION_TIME_CONTROL_S

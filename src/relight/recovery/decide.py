"""The decision to recover: a pure function of evidence and policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from relight.recovery.evidence import Evidence


# Until a run has fenced, the primary still looks lost. One that has ended is followed by another no sooner: it may not
# be listed yet, and what made it fail may last.
START_AGAIN_S = 120.0


class Verdict(StrEnum):
    """What to do now."""

    HOLD = "hold"
    RECOVER = "recover"
    PAGE = "page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When the primary counts as lost, and how long a recovery may take before a person is told."""

    probe_threshold: int
    recovery_s: float
    primary_region: str
    lease_margin_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, the reasons for it in words, and the epoch that recovery would take."""

    verdict: Verdict
    reasons: tuple[str, ...]
    next_epoch: int


def decide(evidence: Evidence, policy: Policy) -> Decision:
    """Recover only when two witnesses agree: the public endpoint fails and the lease has run out.

    An endpoint that fails under a live lease is a primary that lives and cannot be reached from outside: taking over
    would fence a region that works, so a person is paged. So it is when the standby took over and its endpoint has
    failed for longer than a recovery takes: nobody is served, and nothing else would say so. A primary that never
    answered is left alone.

    The probes are of the region that holds the lease.
    """
    lease, probes = evidence.lease, evidence.probes
    if lease is None:
        return _hold(0, "no region has taken the first epoch yet")
    if lease.region != policy.primary_region:
        failing_s = (evidence.at - probes.failing_since).total_seconds() if probes.failing_since else 0.0
        held = f"epoch {lease.epoch} is held by {lease.region}: recovery has happened"
        if failing_s < policy.recovery_s:
            return _hold(lease.epoch, held)
        unserved = f"nobody is served there since {_time(probes.failing_since)} ({probes.last_error})"
        return Decision(verdict=Verdict.PAGE, reasons=(held, unserved), next_epoch=lease.epoch + 1)
    if not probes.ever_answered:
        return _hold(lease.epoch, "the primary has never been ready, so it was not lost")
    if probes.failures < policy.probe_threshold:
        return _hold(lease.epoch, f"{probes.failures} of {policy.probe_threshold} probes in a row failed")
    failing = f"{probes.failures} probes in a row failed since {_time(probes.failing_since)} ({probes.last_error})"
    overdue_s = (evidence.at - lease.expires_at).total_seconds()
    if overdue_s <= policy.lease_margin_s:
        live = f"the lease of {lease.region} is live until {_time(lease.expires_at)}"
        return Decision(verdict=Verdict.PAGE, reasons=(failing, live), next_epoch=lease.epoch + 1)
    over = f"the lease of {lease.region} ran out {overdue_s:.0f} s ago"
    return Decision(verdict=Verdict.RECOVER, reasons=(failing, over), next_epoch=lease.epoch + 1)


def _hold(epoch: int, reason: str) -> Decision:
    return Decision(verdict=Verdict.HOLD, reasons=(reason,), next_epoch=epoch + 1)


def _time(moment: datetime | None) -> str:
    return moment.strftime("%H:%M:%SZ") if moment else "the start"

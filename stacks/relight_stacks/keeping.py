"""The functions that make recovery points and keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.access import METRICS
from relight_stacks.functions import LONGEST_S
from relight_stacks.refs import vault_of

if TYPE_CHECKING:
    from relight_stacks.region import AgentStack

PRUNE_RATE = "rate(1 hour)"
VERIFY_RATE = "rate(15 minutes)"


def keep_points(stack: AgentStack) -> None:
    """Seal points on the tier's schedule, keep the ladder of this region's vault, and read its points before they are
    needed. Whoever seals points cannot remove any."""
    if stack.role is Role.PRIMARY:
        _take(stack)
    prune = stack.functions.make("prune", timeout_s=300, networked=False)
    stack.own_vault.grant_prune(prune)
    stack.signing.grant_check(prune)
    verify = stack.functions.make("verify-points", timeout_s=LONGEST_S, networked=False)
    stack.own_vault.grant_restore(verify)
    stack.own_vault.grant_verify(verify)
    stack.signing.grant_check(verify)
    for function, rate, late_s in ((prune, PRUNE_RATE, 3600), (verify, VERIFY_RATE, 900)):
        stack.functions.schedule(function, rate=rate, late_s=late_s)


def _take(stack: AgentStack) -> None:
    # Two snapshots at once would compete for the same name.
    snapshot = stack.functions.make("snapshot", timeout_s=LONGEST_S, networked=True, at_once=1)
    stack.data.connections.grant_read(snapshot)
    # Without the lease it seals nothing: a former primary's points must not reach the standby's vault.
    stack.lease.grant_read(snapshot)
    stack.signing.grant_sign(snapshot)
    stack.signing.grant_check(snapshot)
    other_vault = vault_of(stack.environment, Role.STANDBY)
    stack.own_vault.grant_seal(snapshot)
    other_vault.grant_seal(snapshot)
    # The journal goes to the own vault, and away once the other region has it.
    stack.own_vault.grant_archive(snapshot)
    other_vault.grant_cover(snapshot)
    other_vault.grant_bring_forward(snapshot)
    snapshot.allow_metrics(METRICS)
    minutes = stack.environment.shape.snapshot_minutes
    stack.functions.schedule(snapshot, rate=f"rate({minutes} minutes)", late_s=minutes * 60)

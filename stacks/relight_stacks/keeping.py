"""The functions that make recovery points and keep them, the same in both regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.access import METRICS
from relight_constructs.alarm import MetricAlarm
from relight_constructs.props import MetricAlarmProps
from relight_stacks.functions import LONGEST_S
from relight_stacks.refs import vault_of

if TYPE_CHECKING:
    from relight_constructs.function import Function
    from relight_constructs.work import WorkTask
    from relight_stacks.region import AgentStack

PRUNE_RATE = "rate(1 hour)"
# It lists and deletes; what it did not get to, the next one does.
PRUNE_TIMEOUT_S = 300
VERIFY_RATE = "rate(15 minutes)"
# CloudWatch looks at no more than a day at once.
LONGEST_LOOK_S = 24 * 3600
SHORTEST_LOOK_S = 300


def keep_points(stack: AgentStack) -> None:
    """Seal points on the tier's schedule, keep the ladder of this region's vault, and read its points before they are
    needed. Whoever seals points cannot remove any."""
    _take(stack)
    # Two at once would delete the same objects twice, which does no harm.
    prune = stack.functions.make("prune", timeout_s=PRUNE_TIMEOUT_S, networked=False)
    stack.own_vault.grant_prune(prune)
    stack.signing.grant_check(prune)
    verify = stack.functions.make("verify-points", timeout_s=LONGEST_S, networked=False)
    stack.own_vault.grant_restore(verify)
    stack.own_vault.grant_verify(verify)
    stack.signing.grant_check(verify)
    for function, rate, late_s in ((prune, PRUNE_RATE, 3600), (verify, VERIFY_RATE, 900)):
        stack.functions.schedule(function, rate=rate, late_s=late_s)


def _take(stack: AgentStack) -> None:
    """Also in the standby: once it was relit it takes points, and until then, without the lease, it seals nothing."""
    # Two snapshots at once would compete for the same name.
    snapshot = stack.functions.make(
        "snapshot", timeout_s=LONGEST_S, networked=True, at_once=1, more=stack.work.settings
    )
    for grantee in (snapshot, stack.work):
        _grant_take(stack, grantee)
    stack.data.connections.grant_read(snapshot)
    stack.work.grant_start(snapshot)
    minutes = stack.environment.shape.snapshot_minutes
    stack.functions.schedule(snapshot, rate=f"rate({minutes} minutes)", late_s=minutes * 60)
    MetricAlarm(
        stack,
        "snapshot-errors",
        MetricAlarmProps(
            name=f"{snapshot.name}-errors",
            description="No recovery point was sealed: the log of the snapshot function says why",
            namespace="AWS/Lambda",
            metric="Errors",
            dimensions={"FunctionName": snapshot.name},
            period_s=min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, minutes * 60)),
            topic=stack.incidents,
        ),
    )


def _grant_take(stack: AgentStack, grantee: Function | WorkTask) -> None:
    # Without the lease it seals nothing: a former primary's points must not reach the other's vault.
    stack.lease.grant_read(grantee)
    stack.signing.grant_sign(grantee)
    stack.signing.grant_check(grantee)
    other_vault = vault_of(stack.environment, Role.STANDBY if stack.role is Role.PRIMARY else Role.PRIMARY)
    stack.own_vault.grant_seal(grantee)
    other_vault.grant_seal(grantee)
    # The journal goes to the own vault, and away once the other region has it.
    stack.own_vault.grant_archive(grantee)
    other_vault.grant_cover(grantee)
    other_vault.grant_bring_forward(grantee)
    grantee.allow_metrics(METRICS)

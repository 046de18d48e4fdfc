"""The functions that make recovery points and keep them, the same in both regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.objectives import REPLICATION_TIME_CONTROL_S
from relight.recovery.copying import LAG as COPY_LAG
from relight.recovery.metrics import DAMAGED, NAMESPACE, VERIFY_LAG
from relight_constructs.access import grant_metrics
from relight_constructs.alarm import MetricAlarm, errors_of
from relight_constructs.props import MetricAlarmProps
from relight_stacks.functions import LONGEST_S
from relight_stacks.promises import COPY_EVERY_S
from relight_stacks.refs import vault_of

if TYPE_CHECKING:
    from relight_constructs.access import VaultRef
    from relight_constructs.function import Function
    from relight_constructs.work import WorkTask
    from relight_stacks.region import AgentStack

PRUNE_RATE = "rate(1 hour)"
# It lists and deletes; what it did not get to, the next one does.
PRUNE_TIMEOUT_S = 300
VERIFY_RATE = "rate(15 minutes)"
# A task that reads a terabyte takes hours.
LATE_READ_S = 24 * 3600
COPY_RATE = f"rate({COPY_EVERY_S // 60} minutes)"
# As late as what S3's own replication promises.
LEAST_LAG_S = int(REPLICATION_TIME_CONTROL_S)
# CloudWatch looks at no more than a day at once.
LONGEST_LOOK_S = 24 * 3600
SHORTEST_LOOK_S = 300
# How long Lambda keeps a call that finds its function at work.
SHORTEST_WAIT_S = 60
LONGEST_WAIT_S = 6 * 3600


def keep_points(stack: AgentStack) -> None:
    """Seal points on the tier's schedule, keep the ladder of this region's vault, and read its points before they are
    needed. Whoever seals points cannot remove any."""
    _take(stack)
    # Two at once would delete the same objects twice, which does no harm.
    prune = stack.functions.make("prune", timeout_s=PRUNE_TIMEOUT_S, networked=False)
    stack.own_vault.grant_prune(prune)
    stack.signing.grant_check(prune)
    stack.functions.schedule(prune, rate=PRUNE_RATE, late_s=3600)
    _verify(stack)
    if stack.environment.vaults.other:
        _copy(stack)


def _verify(stack: AgentStack) -> None:
    """Read this region's points before they are needed, and tell when one is damaged, or when that falls behind.

    The task checks signatures as snapshots need it. The function alone publishes: it sees what the task found.
    """
    verify = stack.functions.make("verify-points", timeout_s=LONGEST_S, networked=False, more=stack.work.settings)
    for grantee in (verify, stack.work):
        stack.own_vault.grant_restore(grantee)
        stack.own_vault.grant_verify(grantee)
    stack.signing.grant_check(verify)
    stack.work.grant_start(verify)
    grant_metrics(verify)
    stack.functions.schedule(verify, rate=VERIFY_RATE, late_s=900)
    _alarm_on_points(
        stack,
        "verify-lag",
        name="verify-lag",
        metric=VERIFY_LAG,
        threshold=LATE_READ_S,
        missing_is_bad=True,
        description="A recovery point is older than a day and nobody has read it here, or nothing is read at all: the "
        "logs of the verify-points function and of the work task say why",
    )
    _alarm_on_points(
        stack,
        "points-damaged",
        name="points-damaged",
        metric=DAMAGED,
        threshold=1,
        looks_to_alarm=1,
        description="A recovery point in this region's vault is not what its manifest says: `relight points list` "
        "shows which",
    )


def _alarm_on_points(
    stack: AgentStack,
    id_: str,
    *,
    name: str,
    metric: str,
    threshold: float,
    description: str,
    looks_to_alarm: int = 0,
    missing_is_bad: bool = False,
) -> None:
    MetricAlarm(
        stack,
        id_,
        MetricAlarmProps(
            name=f"{stack.names.prefix}-{name}",
            description=description,
            namespace=NAMESPACE,
            metric=metric,
            dimensions=stack.dimensions,
            statistic="Maximum",
            threshold=threshold,
            # A run may take as long as a function can.
            period_s=LONGEST_S,
            looks=2,
            looks_to_alarm=looks_to_alarm,
            missing_is_bad=missing_is_bad,
            topic=stack.incidents,
        ),
    )


def _copy(stack: AgentStack) -> None:
    """Fetch what only the other region's vault has, where no store replicates, and tell when that falls behind.

    Outside the network: what goes across the internet would pass a NAT gateway, which is paid by the byte.
    """
    # Two at once would fetch the same twice. A call that another has overtaken is none to tell people of.
    copy = stack.functions.make(
        "copy-points",
        timeout_s=LONGEST_S,
        networked=False,
        at_once=1,
        dropped_after_s=COPY_EVERY_S,
        more=stack.work.settings,
    )
    for grantee in (copy, stack.work):
        grant_metrics(grantee)
        _other_vault(stack).grant_copy_from(grantee)
        stack.own_vault.grant_copy_to(grantee)
        if not stack.environment.shape.standby:  # nobody is there to fetch: what the other vault lacks is brought
            stack.own_vault.grant_copy_from(grantee)
            _other_vault(stack).grant_copy_to(grantee)
    stack.signing.grant_check(copy)
    stack.work.grant_start(copy)
    stack.functions.schedule(copy, rate=COPY_RATE, late_s=COPY_EVERY_S)
    _alarm_on_points(
        stack,
        "copy-lag",
        name="copy-points-lag",
        metric=COPY_LAG,
        threshold=max(LEAST_LAG_S, int(stack.environment.objectives.rpo_s / 2)),
        missing_is_bad=True,
        description="This region's vault lacks points that the other's has, or nothing is copied at all: the log of "
        "the copy-points function says why",
    )


def _other_vault(stack: AgentStack) -> VaultRef:
    return vault_of(stack.environment, stack.role.other, at=stack.role)


def _take(stack: AgentStack) -> None:
    """Also in the standby: once it was relit it takes points, and until then, without the lease, it seals nothing."""
    minutes = stack.environment.shape.snapshot_minutes
    # Two at once would compete for the same name. A call that another has overtaken is none to tell people of.
    snapshot = stack.functions.make(
        "snapshot",
        timeout_s=LONGEST_S,
        networked=True,
        at_once=1,
        dropped_after_s=min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, minutes * 60)),
        more=stack.work.settings,
    )
    for grantee in (snapshot, stack.work):
        _grant_take(stack, grantee)
    stack.data.connections.grant_read(snapshot)
    stack.work.grant_start(snapshot)
    stack.functions.schedule(snapshot, rate=f"rate({minutes} minutes)", late_s=minutes * 60)
    MetricAlarm(
        stack,
        "snapshot-errors",
        errors_of(
            snapshot,
            description="No recovery point was sealed: the log of the snapshot function says why",
            period_s=min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, minutes * 60)),
            topic=stack.incidents,
        ),
    )


def _grant_take(stack: AgentStack, grantee: Function | WorkTask) -> None:
    # Without the lease it seals nothing: a former primary's points must not reach the other's vault.
    stack.lease.grant_read(grantee)
    stack.signing.grant_sign(grantee)
    stack.signing.grant_check(grantee)
    other_vault = _other_vault(stack)
    stack.own_vault.grant_seal(grantee)
    other_vault.grant_seal(grantee)
    # The journal goes to the own vault, and away once the other region has it.
    stack.own_vault.grant_archive(grantee)
    other_vault.grant_cover(grantee)
    other_vault.grant_bring_forward(grantee)

"""What a region shows of itself: the function that looks every minute, the dashboard, the alarms on the objectives, and
whom incidents reach."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from relight.config import Role, StateKind
from relight.objectives import PATTERNS, REPLICATION_TIME_CONTROL_S, Pattern
from relight.providers.readiness import METRIC as PROVIDER_READY
from relight.recovery import metrics
from relight.recovery.gauges import EVERY_S, Surface
from relight.recovery.metrics import dimension
from relight.recovery.rehearsal import AGE as REHEARSAL_AGE
from relight_constructs.access import grant_metrics
from relight_constructs.alarm import MetricAlarm, errors_of
from relight_constructs.bindings import CloudwatchMetricAlarm
from relight_constructs.dashboard import Dashboard
from relight_constructs.incidents import SlackChannel
from relight_constructs.props import (
    AlarmsProps,
    DashboardProps,
    GraphProps,
    Metric,
    MetricAlarmProps,
    Note,
    SecretProps,
    SlackProps,
)
from relight_constructs.secret import Secret
from relight_stacks.functions import LONGEST_S
from relight_stacks.keeping import LATE_READ_S
from relight_stacks.promises import REPLICATION_S, SEALING_S, Loss, promises
from relight_stacks.refs import vault_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight_constructs.function import Function
    from relight_stacks.environment import Environment
    from relight_stacks.region import AgentStack

RATE = "rate(1 minute)"
# Servers that are silent are given up one after another, the other region's vault after half a minute at most. Two
# looks at once do no harm.
TIMEOUT_S = 120
LATE_S = EVERY_S
NOTIFY_TIMEOUT_S = 60

# As many minutes in a row without a look that worked: longer than a deployment takes away.
LOOKS = 3
# One look that fails, or comes a little late, is no reason to wake somebody.
AMONG = (3, 2)
# What cannot be looked at for so long stays so by itself no more; nor does it hurry, as what it is about is missing.
BLIND_LOOKS = 15
# Without any provider an agent does nothing, and workers tell of each by itself.
SILENT_LOOKS = 5
# CloudWatch looks at no more than a day at once, and at no more than 100 periods here, of minutes where it can be.
MOST_LOOKS = 100
HOUR_S = 3600

EU_PAGERDUTY = "https://events.eu.pagerduty.com"

# Where Amazon Q Developer in chat applications has endpoints. What is configured at one is the whole account's. Source:
# AWS general reference, "Amazon Q Developer in chat applications endpoints and quotas".
CHAT_REGIONS = ("us-east-2", "eu-west-1", "ap-southeast-1", "us-west-2")


def add_eyes(stack: AgentStack) -> None:
    """Define them last: the dashboard shows all alarms of the stack."""
    observe = _observe(stack)
    for props in objectives(stack):
        MetricAlarm(stack, props.name.removeprefix(f"{stack.names.prefix}-"), props)
    _watch(stack, observe)
    _reach(stack)
    Dashboard(
        stack,
        "dashboard",
        DashboardProps(place=stack.home, name=stack.names.dashboard(stack.home.region), widgets=tuple(_page(stack))),
    )


def _observe(stack: AgentStack) -> Function:
    """It sees what the agents see, and of the vaults which points there are and nothing of what is in them."""
    observe = stack.functions.make("observe", timeout_s=TIMEOUT_S, networked=True)
    stack.data.connections.grant_read(observe)
    stack.data.grant_look(observe)
    stack.lease.grant_read(observe)
    stack.signing.grant_check(observe)
    for role in Role:
        vault_of(stack.environment, role, at=stack.role).grant_survey(observe)
    grant_metrics(observe)
    stack.functions.schedule(observe, rate=RATE, late_s=LATE_S)
    return observe


# -- the alarms


def objectives(stack: AgentStack) -> Iterator[MetricAlarmProps]:
    """An alarm at half of each objective, or where the environment's own arithmetic comes to more, there.

    A metric that is missing is as bad as one that is too large: what would be lost is then everything, or unknown.
    """
    environment = stack.environment
    for surface in alarmed_surfaces(environment):
        yield _gauge(
            stack,
            f"exposure-{surface}",
            metric=metrics.EXPOSURE,
            more={metrics.SURFACE: surface.value},
            threshold=limit_s(environment, surface),
            description=f"With this region more {surface} would be lost than half of the RPO: see `relight status`",
        )
    if environment.shape.standby and (stack.role is Role.STANDBY or not _copied(environment)):
        yield _gauge(
            stack,
            "replication-lag",
            metric=metrics.REPLICATION_LAG,
            threshold=max(limit_s(environment, Surface.STATE), _seen_lag_s(environment)),
            description="What this region would take over is older than half of the RPO, or follows nobody",
        )
    yield _gauge(
        stack,
        "point-age",
        metric=metrics.POINT_AGE,
        threshold=point_age_s(environment),
        description="No recovery point has come for two rounds: a recovery here would have all that since to bring"
        " forward, or to lose",
    )
    yield _served(stack)
    if environment.providers:
        yield MetricAlarmProps(
            name=f"{stack.names.prefix}-providers-available",
            description="No LLM provider can be asked: the breakers of all are open",
            namespace=metrics.NAMESPACE,
            metric=metrics.PROVIDERS_AVAILABLE,
            dimensions=stack.dimensions,
            statistic="Maximum",
            comparison="LessThanThreshold",
            threshold=1,
            looks=SILENT_LOOKS,
            topic=stack.incidents,
        )


def alarmed_surfaces(environment: Environment) -> tuple[Surface, ...]:
    """Those of which the region that acts knows what would be lost.

    What is in copied backups the standby alone knows: there the lag of what it has stands for the state and all that is
    rebuilt from it, and the points for what is not journalled.
    """
    if not _copied(environment):
        return tuple(Surface)
    return () if all(item.journalled for item in environment.memory.collections) else (Surface.MEMORY,)


def limit_s(environment: Environment, surface: Surface) -> float:
    """Half of the RPO, but not less than what the surface may be behind while all is well."""
    loss = Loss.MEMORY if surface is Surface.MEMORY else Loss.STATE
    usual_s = max(item.seconds for item in promises(environment).rpo if item.of is loss)
    return max(environment.objectives.rpo_s / 2, usual_s)


def point_age_s(environment: Environment) -> float:
    """The age that the newest point has once two in a row did not come, made and carried across in their time."""
    shape = environment.shape
    across_s = REPLICATION_TIME_CONTROL_S if shape.replication_time_control else REPLICATION_S
    return 3 * shape.snapshot_minutes * 60 + SEALING_S + across_s


def _served(stack: AgentStack) -> MetricAlarmProps:
    """Half of the RTO without anybody served. Minutes are counted, or hours where they would be too many."""
    half_s = stack.environment.objectives.rto_s / 2
    period_s = EVERY_S if half_s <= MOST_LOOKS * EVERY_S else HOUR_S
    return MetricAlarmProps(
        name=f"{stack.names.prefix}-served",
        description="For half of the RTO no region has served: see whether a recovery is under way, `relight status`",
        namespace=metrics.NAMESPACE,
        metric=metrics.SERVED,
        dimensions=stack.dimensions,
        statistic="Maximum",
        comparison="LessThanThreshold",
        threshold=1,
        period_s=period_s,
        looks=max(1, math.floor(half_s / period_s)),
        missing_is_bad=True,
        topic=stack.incidents,
    )


def _gauge(
    stack: AgentStack,
    what: str,
    *,
    metric: str,
    threshold: float,
    description: str,
    more: dict[str, str] | None = None,
) -> MetricAlarmProps:
    looks, to_alarm = AMONG
    return MetricAlarmProps(
        name=f"{stack.names.prefix}-{what}",
        description=description,
        namespace=metrics.NAMESPACE,
        metric=metric,
        dimensions=stack.dimensions | (more or {}),
        statistic="Maximum",
        threshold=threshold,
        period_s=EVERY_S,
        looks=looks,
        looks_to_alarm=to_alarm,
        missing_is_bad=True,
        topic=stack.incidents,
    )


def _watch(stack: AgentStack, observe: Function) -> None:
    """Tell people when nobody looks any more, and when something has not been seen for long."""
    MetricAlarm(
        stack,
        "observe-errors",
        errors_of(
            observe,
            description="Nobody looks at this region: the observe function fails, or is not called at all",
            looks=LOOKS,
            missing_is_bad=True,
            topic=stack.incidents,
        ),
    )
    MetricAlarm(
        stack,
        "looks-failed",
        MetricAlarmProps(
            name=f"{stack.names.prefix}-looks-failed",
            description="Something of this region cannot be looked at: the log of the observe function says what",
            namespace=metrics.NAMESPACE,
            metric=metrics.LOOKS_FAILED,
            dimensions=stack.dimensions,
            statistic="Minimum",
            looks=BLIND_LOOKS,
            topic=stack.incidents,
        ),
    )


def _copied(environment: Environment) -> bool:
    return environment.shape.state is StateKind.SNAPSHOTS


def _seen_lag_s(environment: Environment) -> float:
    """What a replica that is well seems to lack while nobody works: it hears of an idle primary once a round.

    Where both regions serve, agents let it hear more often; a copied backup is as old as it is.
    """
    often = PATTERNS[environment.tier] is Pattern.ACTIVE_ACTIVE
    return 0.0 if often or _copied(environment) else 2.0 * EVERY_S


# -- whom incidents reach


def _reach(stack: AgentStack) -> None:
    incidents = stack.environment.incidents
    for address in incidents.emails:
        stack.incidents.email(address)
    if incidents.pagerduty:
        _page_people(stack)
    alone = not stack.environment.shape.standby
    if incidents.slack_channel and (alone or stack.role is Role.STANDBY):
        _tell_slack(stack)


def _page_people(stack: AgentStack) -> None:
    """Outside the network: PagerDuty is on the internet, and what pages must not depend on a NAT gateway."""
    names = stack.names
    secret = Secret(
        stack,
        "pagerduty",
        SecretProps(
            name=names.pagerduty_secret,
            description="The routing key of an Events API v2 integration of PagerDuty, and nothing else",
            key=stack.key,
        ),
    )
    more = {"RELIGHT_PAGERDUTY_SECRET": names.pagerduty_secret}
    if stack.environment.incidents.pagerduty_eu:
        more["RELIGHT_PAGERDUTY_URL"] = EU_PAGERDUTY
    notify = stack.functions.make("notify", timeout_s=NOTIFY_TIMEOUT_S, networked=False, more=more)
    secret.grant_read(notify)
    stack.incidents.call(notify)


def _tell_slack(stack: AgentStack) -> None:
    """Of both regions' topics, from the standby, which is there when the primary is not.

    Nothing depends on it: where a deployment cannot make it, all else is made.
    """
    names, incidents = stack.names, stack.environment.incidents
    regions = [names.region(role) for role in Role if role is stack.role or stack.environment.shape.standby]
    SlackChannel(
        stack,
        "slack",
        SlackProps(
            place=stack.home,
            name=f"{names.prefix}-incidents",
            team=incidents.slack_team,
            channel=incidents.slack_channel,
            topic_arns=tuple(names.incidents_topic_arn(region) for region in sorted(regions)),
            service_region=chat_region(stack.home.region, other=names.primary_region),
        ),
    )


def chat_region(home: str, *, other: str) -> str:
    """Where the chats' service is asked: at home where it is, else in a region that is not the `other`."""
    return home if home in CHAT_REGIONS else next(region for region in CHAT_REGIONS if region != other)


# -- the dashboard


def _page(stack: AgentStack) -> Iterator[GraphProps | AlarmsProps | Note]:
    environment = stack.environment
    objective = environment.objectives
    yield Note(
        markdown=f"# {environment.name}, {stack.role}, {stack.home.region}\n"
        f"Tier **{environment.tier}**: RTO {objective.rto_s:g} s, RPO {objective.rpo_s:g} s. "
        f"Both regions at once: `relight status --environment {environment.name}`"
    )
    alarms = [item for item in stack.node.find_all() if isinstance(item, CloudwatchMetricAlarm)]
    place = f"arn:aws:cloudwatch:{stack.home.region}:{stack.home.account}:alarm"
    yield AlarmsProps(title="Alarms", arns=tuple(sorted(f"{place}:{item.alarm_name_input}" for item in alarms)))
    yield from _standing(stack)
    yield from _losses(stack)
    yield from _memory(stack)
    if environment.providers:
        yield from _providers(stack)
    if stack.role is Role.STANDBY:
        yield from _recoveries(stack)


def _standing(stack: AgentStack) -> Iterator[GraphProps]:
    for title, name in (
        ("Somebody is served", metrics.SERVED),
        ("The gate here is open", metrics.GATE_OPEN),
        ("The lease is held here", metrics.LEASE_HELD),
    ):
        yield _number(title, _metric(stack, name, title), width=4)
    epochs = (_metric(stack, metrics.EPOCH, "of the database"), _metric(stack, metrics.LEASE_EPOCH, "of the lease"))
    yield _number("Epoch", *epochs, width=6)
    yield _number("Looks that failed", _metric(stack, metrics.LOOKS_FAILED, "failed"), width=6)


def _losses(stack: AgentStack) -> Iterator[GraphProps]:
    """What each surface would lose, beside the objective."""
    environment = stack.environment
    rpo_s = environment.objectives.rpo_s
    for surface in Surface:
        yield GraphProps(
            title=f"Would be lost with this region: {surface} (s)",
            metrics=(_metric(stack, metrics.EXPOSURE, surface.value, **{metrics.SURFACE: surface.value}),),
            limits=(("RPO", rpo_s), ("alarm", limit_s(environment, surface))),
        )


def _memory(stack: AgentStack) -> Iterator[GraphProps]:
    environment = stack.environment
    collections = [dimension(item.name) for item in environment.memory.collections]
    yield GraphProps(
        title="This region's state is behind (s)",
        metrics=(_metric(stack, metrics.REPLICATION_LAG, "lag"),),
        limits=(("RPO", environment.objectives.rpo_s),),
    )
    yield GraphProps(
        title="Age of the newest eligible point here (s)",
        metrics=(_metric(stack, metrics.POINT_AGE, "age"),),
        limits=(("alarm", point_age_s(environment)),),
    )
    yield GraphProps(
        title="Age of the oldest point that nobody has read here (s)",
        metrics=(_metric(stack, metrics.VERIFY_LAG, "age"),),
        limits=(("alarm", LATE_READ_S),),
        period_s=LONGEST_S,
    )
    yield GraphProps(
        title="Memory is behind its journal (s)",
        metrics=tuple(_metric(stack, metrics.JOURNAL_LAG, name, **{metrics.COLLECTION: name}) for name in collections),
    )
    yield GraphProps(
        title="The promise of the standby is broken (s)",
        metrics=(_metric(stack, metrics.PROMISE_BROKEN, "broken"),),
    )


def _providers(stack: AgentStack) -> Iterator[GraphProps]:
    """Their breakers, as the workers know them; in the standby, whether each could be asked from there."""
    specs = [dimension(spec.name) for spec in stack.environment.providers]
    yield GraphProps(
        title="Providers left alone (1: the breaker is open)",
        metrics=tuple(_metric(stack, metrics.BREAKER_OPEN, name, **{metrics.PROVIDER: name}) for name in specs),
        width=8,
    )
    yield GraphProps(
        title="Providers that can be asked",
        metrics=(_metric(stack, metrics.PROVIDERS_AVAILABLE, "providers"),),
        statistic="Minimum",
        width=8,
    )
    checked = [dimension(spec.name) for spec in stack.environment.providers if not spec.ca_file]
    if stack.role is Role.STANDBY and checked:
        yield GraphProps(
            title="Providers ready here, tried (1: it answers)",
            metrics=tuple(_metric(stack, PROVIDER_READY, name, **{metrics.PROVIDER: name}) for name in checked),
            statistic="Minimum",
            period_s=stack.environment.provider_check_minutes * 60,
            width=8,
        )


def _recoveries(stack: AgentStack) -> Iterator[GraphProps]:
    """How recoveries went, and rehearsals, which are one before its day."""
    names, objective = stack.names, stack.environment.objectives
    machine = {"StateMachineArn": names.state_machine_arn}
    yield GraphProps(
        title="Recoveries",
        metrics=tuple(
            Metric(namespace="AWS/States", name=name, dimensions=machine, label=label)
            for name, label in (("ExecutionsStarted", "started"), ("ExecutionsSucceeded", "done"))
        ),
        statistic="Sum",
        period_s=300,
    )
    if stack.environment.rehearsed:
        yield _number("Last good rehearsal (s ago)", _metric(stack, REHEARSAL_AGE, "age"), period_s=6 * HOUR_S)
        yield GraphProps(
            title="A rehearsal took (s)",
            metrics=(_metric(stack, "RehearsalSeconds", "seconds"),),
            limits=(("RTO", objective.rto_s),),
            period_s=HOUR_S,
        )
        yield GraphProps(
            title="Recall of what was rehearsed",
            metrics=(_metric(stack, "RehearsalRecall", "recall"),),
            statistic="Minimum",
            limits=(("floor", stack.environment.memory.recall_floor),),
            period_s=HOUR_S,
        )


def _number(title: str, *shown: Metric, width: int = 6, period_s: int = EVERY_S) -> GraphProps:
    return GraphProps(title=title, metrics=shown, number=True, width=width, height=4, period_s=period_s)


def _metric(stack: AgentStack, name: str, label: str, **more: str) -> Metric:
    return Metric(namespace=metrics.NAMESPACE, name=name, dimensions=stack.dimensions | more, label=label)

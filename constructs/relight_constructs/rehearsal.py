"""An isolated place to restore a point into, on a schedule, torn down after."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from relight.recovery.metrics import NAMESPACE
from relight.recovery.rehearsal import AGE as AGE_METRIC
from relight_constructs.access import grant_metrics
from relight_constructs.alarm import MetricAlarm
from relight_constructs.bindings import Construct
from relight_constructs.deadletters import DeadLetters
from relight_constructs.endpoints import REHEARSING
from relight_constructs.function import Function
from relight_constructs.key import Key
from relight_constructs.machine import StateMachine
from relight_constructs.network import HTTPS, Network
from relight_constructs.policies import Statement
from relight_constructs.props import (
    ClusterProps,
    DeadLettersProps,
    EventRuleProps,
    FunctionProps,
    KeyProps,
    MetricAlarmProps,
    NetworkProps,
    ScheduleProps,
    SecretProps,
    ServiceProps,
    StateMachineProps,
    VolumeProps,
    WorkTaskProps,
)
from relight_constructs.recovery_machine import Step
from relight_constructs.rehearsal_machine import CLOSE, OPEN, REHEARSE, TIMEOUTS_S, definition, whole_s
from relight_constructs.secret import Secret
from relight_constructs.services import Cluster, Service
from relight_constructs.triggers import CallOnEvent, Schedule
from relight_constructs.work import WorkTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_constructs.policies import Grantee
    from relight_constructs.props import RehearsalProps

SERVICE = "scratch"
AGE = "rehearse-age"

# Nothing reaches this network from another one, so its range may be anybody's too.
CIDR = "10.0.0.0/24"

RUN_STORE_ACTIONS = ("ecs:UpdateService",)
LIST_TASKS_ACTIONS = ("ecs:ListTasks",)
LOOK_AT_TASKS_ACTIONS = ("ecs:DescribeTasks",)

AGE_RATE = "rate(1 hour)"
AGE_TIMEOUT_S = 60
LATE_S = 3600
_AGE_LOOK_S = 3 * 3600
_LOOK_S = 300

ALARMS = {
    "ExecutionsFailed": "A rehearsal has failed: the record in the standby's vault under rehearsals/ says why, or the"
    " execution does where nothing was restored",
    "ExecutionsTimedOut": "A rehearsal took longer than one may, and was ended",
    "ExecutionsAborted": "A rehearsal was ended by a person: it said nothing of the point",
}


class Rehearsal(Construct):
    """Define a network that nothing live is in, a vector store there that does not run, and the state machine that
    starts it, restores the newest eligible point into it, checks that, and ends it again.

    Key, password, network, cluster and store are the rehearsal's own. Whatever ends an execution, the store is ended
    too; an alarm tells where it was not.
    """

    def __init__(self, scope: Construct, id_: str, props: RehearsalProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        # What has the environment's names in the region elsewhere has this place's here.
        self._inside = replace(props.place, prefix=props.name)
        self._key = Key(
            self,
            "key",
            KeyProps(
                place=props.place,
                alias=props.key_alias,
                description="What rehearsals of Relight restore, and their logs and messages",
                for_logs=True,
                for_rules=True,
            ),
        )
        self._network = self._make_network()
        self._password = Secret(
            self,
            "password",
            SecretProps(
                name=props.password_secret, description="The password of the store of a rehearsal", key=self._key
            ),
        )
        self._password.make_up(version=props.password_version)
        self._store = self._make_store()
        self._dead_letters = DeadLetters(self, "dead-letters", DeadLettersProps(place=self._inside, key=self._key))
        self._dead_letters.watch(props.topic)
        self.machine = StateMachine(
            self, "machine", StateMachineProps(place=props.place, name=props.name, verb="rehearsal")
        )
        functions = {
            verb: self._function(verb, timeout_s=seconds, networked=verb == REHEARSE)
            for verb, seconds in TIMEOUTS_S.items()
        }
        self._work = self._make_work()
        self._grant(functions)
        self._define(functions)
        self._begin_and_end(functions[CLOSE])
        self._watch()

    def _define(self, functions: Mapping[str, Function]) -> None:
        """Say what the machine does, which may call these and the task."""
        for function in functions.values():
            function.grant_invoke(self.machine)
        if self._work is not None:
            self._work.grant_run(self.machine)
        self.machine.define(
            definition(
                {verb: Step(function_arn=item.arn, timeout_s=item.timeout_s) for verb, item in functions.items()},
                large=None if self._work is None else self._work.run,
            ),
            logs_key=self._key,
            log_retention_days=self._props.log_retention_days,
        )

    def _begin_and_end(self, close: Function) -> None:
        """Start one on a schedule, and end the store of one that did not come to that itself."""
        props = self._props
        Schedule(
            self,
            "schedule",
            ScheduleProps(
                place=props.place,
                name=props.name,
                rate=props.rate,
                function=self.machine,
                late_s=LATE_S,
                dead_letters=self._dead_letters,
            ),
        )
        CallOnEvent(
            self,
            "on-end",
            EventRuleProps(
                name=f"{props.name}-ended",
                description="A rehearsal was ended from outside, or has failed: end its store",
                pattern={
                    "source": ["aws.states"],
                    "detail-type": ["Step Functions Execution Status Change"],
                    "detail": {"stateMachineArn": [self.machine.arn], "status": ["ABORTED", "FAILED", "TIMED_OUT"]},
                },
                function=close,
                dead_letters=self._dead_letters,
            ),
        )

    def _make_network(self) -> Network:
        props = self._props
        network = Network(
            self,
            "network",
            NetworkProps(
                place=self._inside,
                logs_key=self._key,
                cidr=CIDR,
                zones=(props.zone,),
                nat=props.internet,
                public=props.internet,
                services=() if props.internet else REHEARSING,
                groups=("functions", "vector") if props.internet else ("endpoints", "functions", "vector"),
                log_retention_days=props.log_retention_days,
            ),
        )
        network.admit("functions", to="vector", port=props.store.port)
        if props.internet:
            for group in ("functions", "vector"):
                network.let_out(group, port=HTTPS)
            # The store reads no vault.
            for port in props.ports_out:
                network.let_out("functions", port=port)
        return network

    def _make_store(self) -> Service:
        props, store = self._props, self._props.store
        return Service(
            self,
            "store",
            ServiceProps(
                place=props.place,
                cluster=Cluster(
                    self,
                    "cluster",
                    ClusterProps(
                        place=props.place,
                        name=props.name,
                        logs_key=self._key,
                        log_retention_days=props.log_retention_days,
                    ),
                ),
                name=SERVICE,
                family=props.name,
                image=store.image,
                cpu=store.cpu,
                memory=store.memory,
                desired_count=0,
                ports=(store.port,),
                network=self._network.attachment("vector"),
                logs_key=self._key,
                environment=store.environment,
                secrets={store.password_variable: self._password},
                writable=store.writable,
                volume=VolumeProps(path=store.data, size_gib=store.storage_gib, key=self._key),
                health_command=store.health_command,
                alone=True,
                log_retention_days=props.log_retention_days,
            ),
        )

    def _make_work(self) -> WorkTask | None:
        props, large = self._props, self._props.large
        if large is None:
            return None
        return WorkTask(
            self,
            "work",
            WorkTaskProps(
                place=self._inside,
                cluster=props.name,
                family=f"{props.name}-work",
                image=large.image,
                environment=self._environment,
                network=self._network.attachment("functions"),
                logs_key=self._key,
                above_bytes=large.above_bytes,
                cpu=large.cpu,
                memory=large.memory,
                log_retention_days=props.log_retention_days,
            ),
        )

    @property
    def _environment(self) -> dict[str, str]:
        """What the functions and the task are told."""
        props = self._props
        return {
            **props.environment,
            "RELIGHT_REHEARSAL_MACHINE_ARN": self.machine.arn,
            "RELIGHT_REHEARSAL_CLUSTER": props.name,
            "RELIGHT_REHEARSAL_SERVICE": SERVICE,
            "RELIGHT_REHEARSAL_SECRET": props.password_secret,
            "RELIGHT_REHEARSAL_FORM": props.store.form,
        }

    def _function(self, verb: str, *, timeout_s: int, networked: bool) -> Function:
        props = self._props
        above = {} if props.large is None else {"RELIGHT_LARGE_BYTES": str(props.large.above_bytes)}
        return Function(
            self,
            verb,
            FunctionProps(
                place=props.place,
                name=f"{props.place.prefix}-{verb}",
                verb=verb,
                code=props.code,
                environment={**self._environment, **(above if verb == REHEARSE else {})},
                timeout_s=timeout_s,
                logs_key=self._key,
                dead_letters=self._dead_letters,
                network=self._network.attachment("functions") if networked else None,
                log_retention_days=props.log_retention_days,
            ),
        )

    def _grant(self, functions: dict[str, Function]) -> None:
        """Every permission is one line here."""
        for verb in (OPEN, CLOSE):
            self._grant_run(functions[verb])
        self._grant_rehearse(functions[REHEARSE])
        if self._work is not None:
            self._grant_rehearse(self._work)

    def _grant_rehearse(self, grantee: Function | WorkTask) -> None:
        """Restore a point into the store, and say how it went."""
        props = self._props
        self._password.grant_read(grantee)
        props.vault.grant_restore(grantee)
        props.vault.grant_rehearse(grantee)
        props.signing.grant_check(grantee)
        grant_metrics(grantee)

    def _grant_run(self, grantee: Grantee) -> None:
        """Start or end the store, see what became of it, and see who else uses it."""
        place, name = self._props.place, self._props.name
        tasks = f"arn:aws:ecs:{place.region}:{place.account}:task/{name}/*"
        grantee.allow(
            "run-store",
            Statement(actions=RUN_STORE_ACTIONS, resources=(self._store.arn, self._store.cluster_arn)),
            Statement(
                actions=LIST_TASKS_ACTIONS,
                resources=("*",),
                condition={"ArnEquals": {"ecs:cluster": self._store.cluster_arn}},
            ),
            Statement(actions=LOOK_AT_TASKS_ACTIONS, resources=(tasks,)),
        )
        self.machine.grant_see_running(grantee)

    def _watch(self) -> None:
        """Tell people when one fails, when none is begun, and when the store outlives one."""
        props = self._props
        self.machine.watch(ALARMS, topic=props.topic)
        age = self._function(AGE, timeout_s=AGE_TIMEOUT_S, networked=False)
        props.vault.grant_rehearsed(age)
        grant_metrics(age)
        Schedule(
            self,
            "age-schedule",
            ScheduleProps(
                place=props.place,
                name=f"{props.name}-age",
                rate=AGE_RATE,
                function=age,
                late_s=LATE_S,
                dead_letters=self._dead_letters,
            ),
        )
        MetricAlarm(
            self,
            "late",
            MetricAlarmProps(
                name=f"{props.name}-late",
                description="No rehearsal has gone well for too long: none was begun, or all failed. `relight rehearse"
                " --apart` is the next one",
                namespace=NAMESPACE,
                metric=AGE_METRIC,
                dimensions={"environment": props.environment["RELIGHT_ENVIRONMENT"], "region": props.place.region},
                statistic="Minimum",
                threshold=props.late_after_s,
                period_s=_AGE_LOOK_S,
                missing_is_bad=True,
                topic=props.topic,
            ),
        )
        MetricAlarm(
            self,
            "left-open",
            MetricAlarmProps(
                name=f"{props.name}-left-open",
                description="The store of a rehearsal outlived it: set the count of its service to 0",
                # ECS puts one sample a minute for each task that runs.
                namespace="AWS/ECS",
                metric="CPUUtilization",
                statistic="SampleCount",
                dimensions={"ClusterName": props.name, "ServiceName": SERVICE},
                period_s=_LOOK_S,
                looks=math.ceil(whole_s(large=props.large is not None) / _LOOK_S) + 1,
                topic=props.topic,
            ),
        )

"""Everything that watches a primary and relights its standby, to be composed with whatever runs there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs import awake_machine
from relight_constructs.alarm import MetricAlarm, errors_of
from relight_constructs.bindings import Construct
from relight_constructs.function import Function
from relight_constructs.machine import RecoveryMachine, StateMachine
from relight_constructs.props import (
    BootRuleProps,
    FunctionProps,
    RecoveryMachineProps,
    ScheduleProps,
    StateMachineProps,
)
from relight_constructs.recovery_machine import APPROVAL, HYDRATE, SCALE, STATES, Step, timeouts
from relight_constructs.triggers import HydrateOnBoot, Schedule

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import RecoveryProps

# EventBridge Scheduler's shortest rate; the sentinel probes several times until the next begins.
SENTINEL_RATE = "rate(1 minute)"
SENTINEL_LATE_S = 60
# The longest watch is 130 s, where the next begins as late as it may; its last look ends within this.
SENTINEL_TIMEOUT_S = 150
# One looks on until the next has looked once, so that nobody's loss falls between two.
SENTINELS_AT_ONCE = 2
# As many minutes in a row without a sentinel that worked: longer than a deployment takes away.
SENTINEL_LOOKS = 3

# Lambda puts to sleep what nobody has called for weeks.
AWAKE_RATE = "rate(1 day)"
AWAKE_LATE_S = 3600
AWAKE_ALARMS = {
    "ExecutionsFailed": "A function of the recovery cannot be called: the execution says which, and why",
}


class Recovery(Construct):
    """Define the functions of a recovery, the state machine that calls them, the sentinel that starts it, the rule that
    fills a vector store which starts empty, and what calls each function once a day, so that Lambda puts none to sleep.

    A function that talks to the region's own servers joins its network; the others stay outside, so that they need no
    endpoints. At run time nothing here needs a control plane outside its own region. `functions` has each function by
    its verb, for further grants.
    """

    def __init__(self, scope: Construct, id_: str, props: RecoveryProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        limits = timeouts(rto_s=props.rto_s, waits=props.waits, large=props.work is not None)
        asked = (APPROVAL,) if props.waits.approval_s else ()
        self.functions: dict[str, Function] = {
            state.verb: self._function(
                state.verb,
                timeout_s=limits.functions[state.verb],
                networked=state.networked or (state.verb == SCALE and props.scales_inside),
                at_once=None,
            )
            for state in (*STATES, *asked)
        }
        self._grant()
        self.machine = RecoveryMachine(
            self,
            "machine",
            RecoveryMachineProps(
                place=props.place,
                name=props.name,
                functions=dict(self.functions),
                logs_key=props.key,
                waits=props.waits,
                whole_s=limits.whole_s,
                topic=props.topic,
                work=props.work,
                log_retention_days=props.log_retention_days,
            ),
        )
        self._keep_awake()
        self._watch_primary()
        if props.store is not None:
            HydrateOnBoot(
                self,
                "on-boot",
                BootRuleProps(
                    service=props.store,
                    function=self.functions[HYDRATE],
                    dead_letters=props.dead_letters,
                ),
            )

    def _function(self, verb: str, *, timeout_s: int, networked: bool, at_once: int | None) -> Function:
        props = self._props
        large = props.work.settings if verb == HYDRATE and props.work is not None else {}
        return Function(
            self,
            verb,
            FunctionProps(
                place=props.place,
                name=f"{props.place.prefix}-{verb}",
                verb=verb,
                code=props.code,
                environment={**props.environment, **large},
                timeout_s=timeout_s,
                logs_key=props.key,
                dead_letters=props.dead_letters,
                network=props.attachment if networked else None,
                at_once=at_once,
                log_retention_days=props.log_retention_days,
            ),
        )

    def _grant(self) -> None:
        """Every permission of every state is one line here."""
        props, functions = self._props, self.functions
        for state in STATES:
            if state.networked:
                props.connections.grant_read(functions[state.verb])
            props.vault.grant_record(functions[state.verb])
        props.vault.grant_restore(functions["assess"])
        props.signing.grant_check(functions["assess"])
        for verb in ("assess", "promote", "verify", "replay", "open-gate"):
            props.lease.grant_read(functions[verb])
        props.lease.grant_hold(functions["fence"])
        for scalable in props.capacity:
            scalable.grant_scale(functions[SCALE])
        self._grant_hydrate(functions[HYDRATE])
        if props.work is not None:
            # A store that has just started is filled outside of any recovery, and nobody else would start the task.
            props.work.grant_start(functions[HYDRATE])
        props.topic.grant_publish(functions["announce"])
        props.vault.grant_review(functions["announce"])
        if APPROVAL.verb in functions:
            props.topic.grant_publish(functions[APPROVAL.verb])
            props.vault.grant_record(functions[APPROVAL.verb])

    def _grant_hydrate(self, grantee: Grantee) -> None:
        props = self._props
        props.vault.grant_restore(grantee)
        props.vault.grant_bring_forward(grantee)
        props.signing.grant_check(grantee)

    def _keep_awake(self) -> None:
        props = self._props
        machine = StateMachine(
            self,
            "awake",
            StateMachineProps(place=props.place, name=f"{props.name}-{awake_machine.AWAKE}", verb=awake_machine.AWAKE),
        )
        for function in self.functions.values():
            function.grant_invoke(machine)
        machine.define(
            awake_machine.definition(
                {verb: Step(function_arn=item.arn, timeout_s=item.timeout_s) for verb, item in self.functions.items()}
            ),
            logs_key=props.key,
            log_retention_days=props.log_retention_days,
        )
        machine.watch(AWAKE_ALARMS, topic=props.topic)
        Schedule(
            self,
            "awake-schedule",
            ScheduleProps(
                place=props.place,
                name=f"{props.name}-{awake_machine.AWAKE}",
                rate=AWAKE_RATE,
                function=machine,
                late_s=AWAKE_LATE_S,
                dead_letters=props.dead_letters,
            ),
        )

    def _watch_primary(self) -> None:
        props = self._props
        sentinel = self._function("sentinel", timeout_s=SENTINEL_TIMEOUT_S, networked=False, at_once=SENTINELS_AT_ONCE)
        self.functions["sentinel"] = sentinel
        props.lease.grant_read(sentinel)
        props.lease.grant_remember(sentinel)
        self.machine.grant_invoke(sentinel)
        self.machine.grant_see_running(sentinel)
        props.topic.grant_publish(sentinel)
        Schedule(
            self,
            "sentinel-schedule",
            ScheduleProps(
                place=props.place,
                name=f"{props.place.prefix}-sentinel",
                rate=SENTINEL_RATE,
                function=sentinel,
                late_s=SENTINEL_LATE_S,
                dead_letters=props.dead_letters,
            ),
        )
        MetricAlarm(
            self,
            "sentinel-errors",
            errors_of(
                sentinel,
                description="Nobody watches the primary: the sentinel fails, or is not called at all",
                looks=SENTINEL_LOOKS,
                missing_is_bad=True,
                topic=props.topic,
            ),
        )

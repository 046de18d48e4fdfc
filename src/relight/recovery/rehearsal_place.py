"""The place of its own in which a rehearsal is done: a vector store that runs only meanwhile, which nothing live knows.

A state machine opens it, rehearses, and closes it, however the rehearsal went. Whatever else ends an execution, closing
is called for as well, so each call may come twice, late, or for an execution that never opened anything.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from relight.adapters import aws
from relight.errors import AgainLaterError, ConfigError, ConflictError, RelightError
from relight.recovery.large import is_large
from relight.recovery.rehearsal import RECORDS, rehearse_region
from relight.vault.points import newest_eligible, status_of

if TYPE_CHECKING:
    from relight.recovery.rehearsal import Rehearsal
    from relight.wiring import Region

POLL_S = 10.0
_RUNNING = "RUNNING"


class Place:
    """An ECS service that runs one task or none, and the state machine whose executions use it."""

    def __init__(self, *, ecs: Any, states: Any, cluster: str, service: str, machine_arn: str) -> None:
        self._ecs = ecs
        self._states = states
        self._named = {"cluster": cluster, "service": service}
        self._machine_arn = machine_arn

    @classmethod
    def of(cls, region: Region) -> Place:
        """The region's; ConfigError where it has none."""
        settings = region.settings
        if not settings.rehearsal_service:
            raise ConfigError(
                f"no place for rehearsals is named in {settings.region}", hint="only the functions of its stack know it"
            )
        return cls(
            ecs=region.aws("ecs"),
            states=region.aws("stepfunctions"),
            cluster=settings.rehearsal_cluster,
            service=settings.rehearsal_service,
            machine_arn=settings.rehearsal_machine_arn,
        )

    def open(self, execution: str) -> str:
        """The address of the store, started for `execution`, once it answers; AgainLaterError until then.

        ConflictError while an execution that began before uses the place: one of them would end the other's store.
        """
        if earlier := self._before(execution):
            raise ConflictError(f"{earlier} is rehearsing there already", hint="wait for its end, and start again")
        with aws.translating():
            self._ecs.update_service(**self._named, desiredCount=1)
            tasks = self._tasks(_RUNNING)
        for task in tasks:
            address = _address(task)
            if task["lastStatus"] == _RUNNING and task.get("healthStatus") == "HEALTHY" and address:
                return address
        seen = ", ".join(f"{task['lastStatus']} {task.get('healthStatus', '')}".strip() for task in tasks)
        raise AgainLaterError(
            f"the store of the rehearsal does not answer yet: {seen or 'no task'}",
            hint="the service's events say why no task comes up",
            wait_s=POLL_S,
        )

    def close(self, execution: str) -> dict[str, Any]:
        """End the store; AgainLaterError until nothing of it is left.

        It is left alone while another execution uses it, which closes it in its turn.
        """
        if other := self._before(execution):
            return {"closed": False, "used_by": other}
        with aws.translating():
            self._ecs.update_service(**self._named, desiredCount=0)
            left = [task["taskArn"] for task in self._tasks(_RUNNING, "STOPPED") if task["lastStatus"] != "STOPPED"]
        if left:
            raise AgainLaterError(
                f"{len(left)} tasks of the rehearsal have not ended yet", hint="ECS ends them by itself", wait_s=POLL_S
            )
        return {"closed": True}

    def _tasks(self, *statuses: str) -> list[dict[str, Any]]:
        names = {"cluster": self._named["cluster"], "serviceName": self._named["service"]}
        arns = {arn for status in statuses for arn in self._ecs.list_tasks(**names, desiredStatus=status)["taskArns"]}
        if not arns:
            return []
        found = self._ecs.describe_tasks(cluster=self._named["cluster"], tasks=sorted(arns))
        return list(found["tasks"])

    def _before(self, execution: str) -> str:
        """The execution whose turn it is, unless that is `execution`: of those that run, the one that began first.

        One that has ended, and is closed for by the rule, comes after all that run.
        """
        with aws.translating():
            answer = self._states.list_executions(stateMachineArn=self._machine_arn, statusFilter=_RUNNING)
        running = sorted((item["startDate"], str(item["executionArn"])) for item in answer["executions"])
        first = running[0][1] if running else execution
        return "" if first == execution else first


def _address(task: dict[str, Any]) -> str:
    """Of its network interface; empty until it has one."""
    details = [item for attached in task.get("attachments", []) for item in attached.get("details", [])]
    return next((str(item["value"]) for item in details if item["name"] == "privateIPv4Address"), "")


def rehearse_there(region: Region, address: str, *, point: str | None = None) -> Rehearsal:
    """Rehearse in the store at `address`; see `rehearse_region`."""
    return rehearse_region(region, point=point, into=region.rehearsal_dsn(address))


def rehearse_or_hand_over(region: Region, address: str, *, point: str | None = None) -> dict[str, Any]:
    """Rehearse here, unless the point is too large for a function: then `large` is true, and nothing is done but to say
    by which `command` a task rehearses it. IntegrityError when it did not go well."""
    above, chosen = region.settings.large_bytes, None
    if above:
        # What cannot be had is for the rehearsal to find, and to record.
        with suppress(RelightError):
            chosen = newest_eligible(region.vault) if point is None else status_of(region.vault, point)
    if chosen is not None and is_large(chosen.bytes, above=above):
        return {"large": True, "command": ["rehearse", "--address", address, "--point", chosen.id]}
    return rehearse_there(region, address, point=point).or_raise().to_json() | {"large": False}


def rehearse_apart(region: Region, *, point: str | None = None) -> dict[str, Any]:
    """Have the region's state machine rehearse in its place, and wait for the end; what it recorded.

    What failed before anything was restored recorded nothing: then there is only `ok` and `reason`. ConfigError where
    the region has no such machine.
    """
    machine, vault, clock = region.settings.rehearsal_machine_arn, region.vault, region.clock
    if not machine:
        raise ConfigError(
            f"the environment {region.settings.environment} rehearses nowhere in {region.settings.region}",
            hint="use the standby, or leave --apart out",
        )
    states = region.aws("stepfunctions")
    before = set(vault.list_keys(RECORDS))
    with aws.translating():
        started = states.start_execution(
            stateMachineArn=machine, input=json.dumps({} if point is None else {"point": point})
        )
        while (ended := states.describe_execution(executionArn=started["executionArn"]))["status"] == _RUNNING:
            clock.sleep(POLL_S)
    ok = ended["status"] == "SUCCEEDED"
    found: dict[str, Any] = {"execution": started["executionArn"], "ok": ok, "reason": "" if ok else _reason(ended)}
    for key in sorted(set(vault.list_keys(RECORDS)) - before):
        found |= vault.get_json(key)
    # A store that could not be ended is a failure of the rehearsal too, though the point is good.
    return found | {"ok": ok and found["ok"], "reason": found["reason"] or ("" if ok else _reason(ended))}


def _reason(ended: dict[str, Any]) -> str:
    """Why an execution failed: what its function raised, where one did."""
    cause = str(ended.get("cause", ""))
    with suppress(ValueError, TypeError, KeyError):
        cause = str(json.loads(cause)["errorMessage"])
    return ": ".join(part for part in (str(ended.get("error", ended["status"])), cause) if part)

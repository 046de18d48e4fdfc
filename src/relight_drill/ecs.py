"""ECS of the drill: makes worker processes match the desired count of the deployed services.

A played part: it stands for ECS's scheduler and Fargate. It asks the emulator for each service of its region, starts
and stops tasks through a callback, gives each the environment of its task definition and credentials of its task role,
and sends "ECS Task State Change" events to the functions of the region's rules that match them. It does that itself,
because the emulator, as AWS, takes no event from an `aws.` source; the emulator decides which patterns match, and the
function's own policy must let the rule call it. It dies with its region.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from relight_drill.processes import DrillError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from relight_drill.deployment import Service
    from relight_drill.emulator import Emulator

# By which the emulator is told how many tasks of a service run: it would not know (`relight_drill.emulator_main`).
RUNNING_TAG = "relight-drill-running"
POLL_S = 0.5
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)
SETTLED_S = 15.0


class Task(Protocol):
    """What the callback started."""

    def alive(self) -> bool:
        """Whether it runs."""
        ...

    async def stop(self) -> None:
        """End it in an orderly way, within bounds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """A change of a task, as its region's rules heard of it. `at` is monotonic seconds."""

    at: float
    service: str
    task: str
    status: str
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class _Running:
    id: str
    task: Task
    definition: str
    started: float


@dataclass(slots=True, kw_only=True)
class _State:
    service: Service
    running: list[_Running] = field(default_factory=list)
    counted: int | None = None
    failures: int = 0
    not_before: float = 0.0


class EcsPlayer:
    """Keeps the tasks of one region's services at their desired counts.

    `start(service, task_definition_arn, environment, credentials)` starts a task and returns once it can be called
    RUNNING; when it is cancelled it must leave nothing behind. A task that ends by itself is replaced, later and later
    when it keeps ending early, as ECS throttles. What went wrong meanwhile is in `errors`; it is tried again.
    """

    def __init__(
        self,
        emulator: Emulator,
        region: str,
        services: Iterable[Service],
        start: Callable[[Service, str, Mapping[str, str], Mapping[str, str]], Awaitable[Task]],
    ) -> None:
        self._emulator = emulator
        self._states = {service.name: _State(service=service) for service in services if service.region == region}
        self._start = start
        self._jobs: list[asyncio.Task[None]] = []
        self._deliveries: set[asyncio.Task[None]] = set()
        self._asking = asyncio.Lock()
        self._asked = float("-inf")
        self._answer: dict[str, tuple[int, str]] = {}
        self.region = region
        self.history: list[TaskEvent] = []
        self.errors: list[str] = []

    @property
    def running(self) -> dict[str, list[Task]]:
        """The living tasks of each service."""
        return {
            name: [item.task for item in state.running if item.task.alive()] for name, state in self._states.items()
        }

    async def is_steady(self) -> bool:
        """Whether every service runs as many tasks as it is told to: ECS's "steady state"."""
        wanted = await self._wanted()
        return all(len(self.running[name]) == count for name, (count, _) in wanted.items())

    def play(self) -> None:
        """Begin: each service is looked after by a job of its own."""
        self._jobs = [
            asyncio.create_task(self._look_after(state), name=f"ecs {self.region} {name}")
            for name, state in self._states.items()
        ]

    async def lose(self) -> None:
        """The region is lost: look after nothing any more, and say nothing. The processes are the caller's to end."""
        jobs, self._jobs = [*self._jobs, *self._deliveries], []
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def close(self) -> None:
        """Look after nothing any more, and stop every task."""
        await self.lose()
        tasks = [item.task for state in self._states.values() for item in state.running if item.task.alive()]
        await asyncio.gather(*(task.stop() for task in tasks))

    async def _look_after(self, state: _State) -> None:
        while True:
            try:
                await self._match(state)
            except (ClientError, BotoCoreError, DrillError, OSError) as exc:
                self.errors.append(f"{state.service.name}: {exc}")
                self._delay(state)
            await asyncio.sleep(POLL_S)

    async def _match(self, state: _State) -> None:
        """One look: replace what ended, then start or stop until the count is right."""
        for item in [item for item in state.running if not item.task.alive()]:
            state.running.remove(item)
            if time.monotonic() - item.started < SETTLED_S:
                self._delay(state)
            await self._tell(state, item, "STOPPED", "Essential container in task exited")
        wanted = (await self._wanted()).get(state.service.name)
        if wanted is None:
            return
        count, definition = wanted
        await self._count(state)
        while len(state.running) > count:
            item = state.running[-1]
            await item.task.stop()
            state.running.remove(item)
            await self._tell(state, item, "STOPPED", "Scaling activity initiated by deployment")
        missing = count - len(state.running)
        if missing > 0 and time.monotonic() >= state.not_before:
            environment, role = await asyncio.to_thread(self._definition, definition)
            starts = [self._start_one(state, definition, environment, role) for _ in range(missing)]
            for outcome in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _start_one(
        self, state: _State, definition: str, environment: Mapping[str, str], role: str | None
    ) -> None:
        number = uuid.uuid4().hex
        credentials = await asyncio.to_thread(self._credentials, role, number) if role else {}
        task = await self._start(state.service, definition, environment, credentials)
        item = _Running(id=number, task=task, definition=definition, started=time.monotonic())
        state.running.append(item)
        await self._count(state)
        await self._tell(state, item, "RUNNING", "")

    async def _count(self, state: _State) -> None:
        """Let the service say how many of its tasks run, where that has changed."""
        count = len(state.running)
        if count != state.counted:
            await asyncio.to_thread(self._put_count, state.service, count)
            state.counted = count

    def _put_count(self, service: Service, count: int) -> None:
        cluster = service.cluster.rpartition("/")[2]
        arn = f"arn:aws:ecs:{self.region}:{self._emulator.account}:service/{cluster}/{service.name}"
        client = self._emulator.client("ecs", self.region)
        client.tag_resource(resourceArn=arn, tags=[{"key": RUNNING_TAG, "value": str(count)}])

    def _delay(self, state: _State) -> None:
        state.failures = min(state.failures + 1, len(BACKOFF_S) - 1)
        state.not_before = time.monotonic() + BACKOFF_S[state.failures]

    async def _wanted(self) -> dict[str, tuple[int, str]]:
        """Desired count and task definition of each service that is there; asked once for all of a region."""
        async with self._asking:
            if time.monotonic() >= self._asked + POLL_S * 0.9:
                self._answer = await asyncio.to_thread(self._describe)
                self._asked = time.monotonic()
            return self._answer

    def _describe(self) -> dict[str, tuple[int, str]]:
        client = self._emulator.client("ecs", self.region)
        found: dict[str, tuple[int, str]] = {}
        for cluster in {state.service.cluster for state in self._states.values()}:
            names = [name for name, state in self._states.items() if state.service.cluster == cluster]
            for service in client.describe_services(cluster=cluster, services=names)["services"]:
                if service["status"] == "ACTIVE":
                    found[service["serviceName"]] = (service["desiredCount"], service["taskDefinition"])
        return found

    def _definition(self, arn: str) -> tuple[dict[str, str], str | None]:
        """The environment of the first container, and the task role."""
        found = self._emulator.client("ecs", self.region).describe_task_definition(taskDefinition=arn)["taskDefinition"]
        container = found["containerDefinitions"][0]
        environment = {item["name"]: item["value"] for item in container.get("environment", [])}
        return environment, found.get("taskRoleArn")

    def _credentials(self, role: str, task: str) -> dict[str, str]:
        given = self._emulator.client("sts", self.region).assume_role(
            RoleArn=role, RoleSessionName=task, DurationSeconds=3600
        )["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

    async def _tell(self, state: _State, item: _Running, status: str, reason: str) -> None:
        """Let the region's rules hear of a change, in ECS's own form."""
        change = TaskEvent(at=time.monotonic(), service=state.service.name, task=item.id, status=status, reason=reason)
        self.history.append(change)
        event = self._event(state.service, item, status, reason)
        for target in await asyncio.to_thread(self._targets, event):
            job = asyncio.create_task(self._deliver(target, event), name=f"event to {target.arn}")
            self._deliveries.add(job)
            job.add_done_callback(self._deliveries.discard)

    def _event(self, service: Service, item: _Running, status: str, reason: str) -> dict[str, Any]:
        cluster = service.cluster.rpartition("/")[2]
        where = f"arn:aws:ecs:{self.region}:{self._emulator.account}"
        arn, now = f"{where}:task/{cluster}/{item.id}", datetime.now(UTC)
        detail: dict[str, Any] = {
            "taskArn": arn,
            "clusterArn": f"{where}:cluster/{cluster}",
            "group": f"service:{service.name}",
            "taskDefinitionArn": item.definition,
            "launchType": "FARGATE",
            "lastStatus": status,
            "desiredStatus": status,
            "updatedAt": now.isoformat(),
            "version": 1,
        }
        if reason:
            detail["stoppedReason"] = reason
        return {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": self._emulator.account,
            "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": self.region,
            "resources": [arn],
            "detail": detail,
        }

    def _targets(self, event: dict[str, Any]) -> list[_Target]:
        """The functions that the region's deployed rules send an event to; the emulator says which patterns match."""
        events = self._emulator.client("events", self.region)
        found = []
        for rule in events.list_rules()["Rules"]:
            pattern = rule.get("EventPattern")
            if rule["State"] != "ENABLED" or not pattern:
                continue
            if not events.test_event_pattern(EventPattern=pattern, Event=json.dumps(event))["Result"]:
                continue
            for target in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]:
                if ":lambda:" not in target["Arn"]:
                    raise DrillError(f"the rule {rule['Name']} has a target that is not a function", hint=target["Arn"])
                retries = target.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185)
                found.append(_Target(arn=target["Arn"], rule=rule["Arn"], input=target.get("Input"), retries=retries))
        return found

    async def _deliver(self, target: _Target, event: dict[str, Any]) -> None:
        """Call a function until it takes the event, as often as the rule's target says."""
        for attempt in range(target.retries + 1):
            try:
                await asyncio.to_thread(self._invoke, target, event)
            except (ClientError, BotoCoreError, DrillError) as exc:
                self.errors.append(f"{target.rule}: {exc}")
                await asyncio.sleep(min(2.0**attempt, 60.0))
            else:
                return

    def _invoke(self, target: _Target, event: dict[str, Any]) -> None:
        """Call the function, if its own policy lets this rule."""
        lambdas = self._emulator.client("lambda", self.region)
        policy = json.loads(lambdas.get_policy(FunctionName=target.arn)["Policy"])
        if not any(_lets(statement, target.rule) for statement in policy["Statement"]):
            raise DrillError(f"the function {target.arn} does not let {target.rule} call it", hint="add a permission")
        payload = target.input if target.input is not None else json.dumps(event)
        lambdas.invoke(FunctionName=target.arn, InvocationType="Event", Payload=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A function that a rule sends an event to."""

    arn: str
    rule: str
    input: str | None
    retries: int


def _lets(statement: dict[str, Any], rule: str) -> bool:
    """Whether a statement of a function's policy lets EventBridge call it for a rule."""
    principal = statement.get("Principal")
    service = principal.get("Service") if isinstance(principal, dict) else principal
    source = statement.get("Condition", {}).get("ArnLike", {}).get("AWS:SourceArn", rule)
    return bool(
        statement["Effect"] == "Allow"
        and service == "events.amazonaws.com"
        and statement["Action"] == "lambda:InvokeFunction"
        and fnmatch.fnmatchcase(rule, source)
    )

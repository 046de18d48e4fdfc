"""A Fargate task that does what is too large for a function: the same core, with more time and a disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relight.recovery.large import CONTAINER
from relight_constructs.bindings import (
    Construct,
    EcsTaskDefinition,
    EcsTaskDefinitionEphemeralStorage,
    EcsTaskDefinitionVolume,
)
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, trust_tasks
from relight_constructs.pull import grant_pull
from relight_constructs.recovery_machine import TaskRun
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee
    from relight_constructs.props import WorkTaskProps

RUN_TASK_ACTIONS = ("ecs:RunTask",)
LIST_TASKS_ACTIONS = ("ecs:ListTasks",)
WATCH_TASK_ACTIONS = ("ecs:DescribeTasks", "ecs:StopTask")
HAND_ROLE_ACTIONS = ("iam:PassRole",)
# Step Functions learns from this rule that a task has ended. Source: AWS Step Functions developer guide, "IAM policies
# for calling Amazon ECS".
WATCH_RULE_ACTIONS = ("events:DescribeRule", "events:PutRule", "events:PutTargets")
WATCH_RULE = "StepFunctionsGetEventsForECSTaskRule"

ENTRY_POINT = ("python", "-P", "-m", "relight_lambdas.task")


class WorkTask(Construct):
    """Define the task's definition, with a log and a role that starts with no permission. It is a Grantee: what the
    functions it stands in for may do, it has to be granted as well."""

    def __init__(self, scope: Construct, id_: str, props: WorkTaskProps) -> None:
        super().__init__(scope, id_)
        place = props.place
        self._props = props
        tasks = trust_tasks(account=place.account, region=place.region)
        self._role = Role(self, "role", name=place.role_name("work"), trust=tasks)
        self._execution = Role(self, "execution", name=place.role_name("work-execution"), trust=tasks)
        log_group = LogGroup(
            self,
            "log",
            place=place,
            name=f"/relight/{props.family}",
            key=props.logs_key,
            retention_days=props.log_retention_days,
        )
        log_group.grant_write(self._execution)
        grant_pull(props.image, self._execution)
        container = {
            "name": CONTAINER,
            "image": props.image,
            "essential": True,
            "entryPoint": list(ENTRY_POINT),
            "readonlyRootFilesystem": True,
            "environment": [{"name": name, "value": value} for name, value in sorted(props.environment.items())],
            "mountPoints": [{"sourceVolume": "tmp", "containerPath": "/tmp"}],  # noqa: S108 - inside the container
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": log_group.name,
                    "awslogs-region": place.region,
                    "awslogs-stream-prefix": CONTAINER,
                },
            },
        }
        EcsTaskDefinition(
            self,
            "task",
            family=props.family,
            cpu=str(props.cpu),
            memory=str(props.memory),
            network_mode="awsvpc",
            requires_compatibilities=["FARGATE"],
            task_role_arn=self._role.arn,
            execution_role_arn=self._execution.arn,
            ephemeral_storage=EcsTaskDefinitionEphemeralStorage(size_in_gib=props.storage_gib),
            volume=[EcsTaskDefinitionVolume(name="tmp")],
            container_definitions=json.dumps([container], separators=(",", ":")),
        )

    @property
    def run(self) -> TaskRun:
        """How it is started."""
        return TaskRun(
            cluster=self._props.cluster,
            family=self._props.family,
            container=CONTAINER,
            subnet_ids=self._props.network.subnet_ids,
            security_group_ids=self._props.network.security_group_ids,
        )

    @property
    def settings(self) -> dict[str, str]:
        """What a function is told that starts it, as environment variables; see `relight.config.Settings`."""
        return {
            "RELIGHT_LARGE_BYTES": str(self._props.above_bytes),
            "RELIGHT_LARGE_TASK": self._props.family,
            "RELIGHT_LARGE_SUBNETS": ",".join(self._props.network.subnet_ids),
            "RELIGHT_LARGE_GROUPS": ",".join(self._props.network.security_group_ids),
        }

    def allow(self, name: str, *statements: Statement) -> None:
        """Add one policy to the role that the task runs under."""
        self._role.allow(name, *statements)

    def grant_start(self, grantee: Grantee) -> None:
        """Start it and see whether it runs already."""
        grantee.allow(
            "start-work",
            *self._start_statements(),
            Statement(actions=LIST_TASKS_ACTIONS, resources=("*",), condition=self._in_cluster()),
        )

    def grant_run(self, grantee: Grantee) -> None:
        """Start it and wait for its end, as Step Functions does."""
        place = self._props.place
        grantee.allow(
            "run-work",
            *self._start_statements(),
            Statement(actions=WATCH_TASK_ACTIONS, resources=(f"{self._arn('task')}/{self._props.cluster}/*",)),
            Statement(
                actions=WATCH_RULE_ACTIONS,
                resources=(f"arn:aws:events:{place.region}:{place.account}:rule/{WATCH_RULE}",),
            ),
        )

    def _start_statements(self) -> tuple[Statement, ...]:
        return (
            Statement(
                actions=RUN_TASK_ACTIONS,
                resources=(f"{self._arn('task-definition')}/{self._props.family}:*",),
                condition=self._in_cluster(),
            ),
            Statement(
                actions=HAND_ROLE_ACTIONS,
                resources=(self._role.arn, self._execution.arn),
                condition={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
        )

    def _in_cluster(self) -> dict[str, dict[str, str]]:
        return {"ArnEquals": {"ecs:cluster": f"{self._arn('cluster')}/{self._props.cluster}"}}

    def _arn(self, kind: str) -> str:
        return f"arn:aws:ecs:{self._props.place.region}:{self._props.place.account}:{kind}"

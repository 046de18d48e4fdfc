"""What the roles of an environment need, derived from what uses them, beside what their policies allow.

What is derived: of a state machine from its definition, of a schedule from its targets, of a key from what it encrypts
and of who reads and writes that, of a container's execution role from the container. The drill's emulator does not
enforce these, so they are compared here, and both ways: what is needed and not allowed, and what is allowed and not
needed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stack_rules import Stack, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# One permission: an action, and the resource that it is for.
Permission = tuple[str, str]

LAMBDA_INVOKE = re.compile(r"arn:aws:states:::lambda:invoke(?:\.waitForTaskToken)?")
FUNCTION = re.compile(r"arn:aws:lambda:[a-z0-9-]+:\d{12}:function:[\w-]+")
QUEUE = re.compile(r"arn:aws:sqs:[a-z0-9-]+:\d{12}:[\w-]+")
MACHINE = re.compile(r"arn:aws:states:[a-z0-9-]+:\d{12}:stateMachine:[\w-]+")
IMAGE = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/([^:@]+)")

# Source: AWS Step Functions developer guide, "Using CloudWatch Logs to log execution history" and "Trace Step Functions
# request data in AWS X-Ray".
DELIVER_LOGS = {
    (f"logs:{action}", "*")
    for action in (
        "CreateLogDelivery",
        "DeleteLogDelivery",
        "DescribeLogGroups",
        "DescribeResourcePolicies",
        "GetLogDelivery",
        "ListLogDeliveries",
        "PutResourcePolicy",
        "UpdateLogDelivery",
    )
}
TRACE_MACHINE = {
    (f"xray:{action}", "*")
    for action in ("GetSamplingRules", "GetSamplingTargets", "PutTelemetryRecords", "PutTraceSegments")
}
PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")

# What an action asks of the key of what it is on. Sources: Amazon S3 user guide, "Using server-side encryption with
# AWS KMS keys" (Decrypt puts a multipart upload together) and "Replicating encrypted objects"; AWS Secrets Manager user
# guide, "Secret encryption and decryption"; Amazon SQS and Amazon SNS developer guides, "Key management"; Amazon RDS
# user guide, "AWS KMS key management".
READ, WRITE, BOTH = {"Decrypt"}, {"GenerateDataKey"}, {"Decrypt", "GenerateDataKey"}
RESTORE = {
    "CreateGrant",
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
}
ASKED_OF_KEYS: dict[str, set[str]] = {
    "s3:AbortMultipartUpload": BOTH,
    "s3:GetObject": READ,
    "s3:GetObjectVersionForReplication": READ,
    "s3:PutObject": WRITE,
    "s3:ReplicateObject": {"Encrypt", "GenerateDataKey"},
    "secretsmanager:GetSecretValue": READ,
    "secretsmanager:PutSecretValue": BOTH,
    "sns:Publish": BOTH,
    "sqs:SendMessage": BOTH,
    "sqs:ReceiveMessage": READ,
}
SIGNATURE = {"s3:GetObject": "Verify", "s3:PutObject": "Sign"}
POINTS = re.compile(r"^arn:aws:s3:::[\w-]+/points/\*")
# What ECS needs to make an encrypted volume. Source: the managed policy AmazonECSInfrastructureRolePolicyForVolumes.
VOLUME_KEY = {"CreateGrant", "DescribeKey", "GenerateDataKeyWithoutPlaintext"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key by what both sides of a region's border know it by."""

    region: str
    alias: str


@dataclass(frozen=True)
class Deployment:
    """The stacks of one environment."""

    environment: str
    stacks: Mapping[str, Stack] = field(repr=False)

    # Roles

    @cached_property
    def roles(self) -> list[tuple[Stack, str]]:
        """Each role, as the stack that has it and its address there."""
        return [(stack, address) for stack in self.stacks.values() for address, _ in stack.of("aws_iam_role")]

    def policies(self, stack: Stack, role: str) -> Iterator[dict[str, Any]]:
        """Every statement of a role's policies that allows something."""
        for body in self._policies.get((stack.part, role), ()):
            for statement in json.loads(body["policy"])["Statement"]:
                if statement["Effect"] == "Allow":
                    yield statement

    @cached_property
    def _policies(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for part, stack in self.stacks.items():
            for _, body in stack.of("aws_iam_role_policy"):
                if role := stack.target(body["role"]):
                    found.setdefault((part, role[0]), []).append(body)
        return found

    def size(self, stack: Stack, role: str) -> int:
        """How many characters a role's inline policies have, as IAM counts them."""
        return sum(len(re.sub(r"\s", "", body["policy"])) for body in self._policies.get((stack.part, role), ()))

    def allowed(self, stack: Stack, role: str) -> set[Permission]:
        """What a role may do."""
        return {
            (action, resource)
            for statement in self.policies(stack, role)
            for action in listed(statement["Action"])
            for resource in listed(statement["Resource"])
        }

    # Keys

    @cached_property
    def aliases(self) -> dict[tuple[str, str], Key]:
        """The alias of each key, by the stack's part and the key's address."""
        found = {}
        for part, stack in self.stacks.items():
            for _, body in stack.of("aws_kms_alias"):
                target = stack.target(body["target_key_id"])
                assert target is not None
                found[(part, target[0])] = Key(region=stack.region_of(body), alias=body["name"])
        return found

    def key(self, stack: Stack, value: str, region: str) -> Key | None:
        """The key that an argument names."""
        if value.startswith("alias/"):
            return Key(region=region, alias=value)
        found = stack.target(value)
        return self.aliases.get((stack.part, found[0])) if found else None

    @cached_property
    def encrypted(self) -> list[tuple[str, str, str, Key]]:
        """What is encrypted: its ARN, the part of its stack, the reference that this stack has to it, and its key."""
        found: list[tuple[str, str, str, Key]] = []
        for stack in self.stacks.values():
            account = next(iter(stack.json["provider"]["aws"]))["allowed_account_ids"][0]
            for _, body in stack.of("aws_s3_bucket_server_side_encryption_configuration"):
                bucket = stack.target(body["bucket"])
                assert bucket is not None
                default = body["rule"][0]["apply_server_side_encryption_by_default"]
                default = default[0] if isinstance(default, list) else default
                key = self.key(stack, default["kms_master_key_id"], stack.region_of(body))
                assert key is not None
                arn = f"arn:aws:s3:::{bucket[1]['bucket']}"
                found.append((arn, stack.part, f"${{{bucket[0]}.arn}}", key))
            for type_, name, argument in (
                ("aws_secretsmanager_secret", "secretsmanager:{}:{}:secret:{}-??????", "kms_key_id"),
                ("aws_sqs_queue", "sqs:{}:{}:{}", "kms_master_key_id"),
                ("aws_sns_topic", "sns:{}:{}:{}", "kms_master_key_id"),
            ):
                for address, body in stack.of(type_):
                    region = stack.region_of(body)
                    key = self.key(stack, body[argument], region)
                    assert key is not None
                    arn = "arn:aws:" + name.format(region, account, body["name"])
                    found.append((arn, stack.part, f"${{{address}.arn}}", key))
                    # A copy in another region has that region's key.
                    for replica in body.get("replica", ()):
                        copied = "arn:aws:" + name.format(replica["region"], account, body["name"])
                        there = Key(region=replica["region"], alias=replica["kms_key_id"])
                        found.append((copied, "", "", there))
        return found

    def keys_of(self, stack: Stack, resource: str) -> set[Key]:
        """The keys of what the resource of a policy of a stack covers."""
        is_bucket = resource.startswith(("arn:aws:s3:::", "${aws_s3_bucket."))
        container = resource.partition("/")[0] if is_bucket else resource
        return {
            key
            for arn, part, reference, key in self.encrypted
            if container == arn or (container == reference and part == stack.part)
        }

    @cached_property
    def signing(self) -> set[str]:
        """The aliases of keys that sign."""
        return {
            key.alias
            for (part, address), key in self.aliases.items()
            if self.stacks[part].bodies[address][1].get("key_usage") == "SIGN_VERIFY"
        }

    def granted_keys(self, stack: Stack, role: str) -> set[tuple[str, Key]]:
        """What a role may do with which keys."""
        found: set[tuple[str, Key]] = set()
        for statement in self.policies(stack, role):
            for action in listed(statement["Action"]):
                if not action.startswith("kms:"):
                    continue
                for resource in listed(statement["Resource"]):
                    for key in self._keys_named(stack, resource, statement):
                        found.add((action.removeprefix("kms:"), key))
        return found

    def _keys_named(self, stack: Stack, resource: str, statement: Mapping[str, Any]) -> Iterator[Key]:
        if not resource.endswith(":key/*"):
            key = self.key(stack, resource, "")
            assert key is not None, f"{resource} is no key of this stack"
            yield key
            return
        region = resource.split(":")[3]
        for operator, bounds in statement.get("Condition", {}).items():
            if operator.endswith("StringEquals"):
                for alias in listed(bounds.get("kms:ResourceAliases", [])):
                    yield Key(region=region, alias=alias)

    def needed_keys(self, stack: Stack, role: str) -> set[tuple[str, Key]]:
        """What a role needs of which keys, for what else it may do."""
        found: set[tuple[str, Key]] = set()
        for action, resource in self.allowed(stack, role):
            for asked in ASKED_OF_KEYS.get(action, ()):
                found |= {(asked, key) for key in self.keys_of(stack, resource)}
            # Whoever reads points checks their signature, and whoever seals them signs, with its own region's key; who
            # copies what was sealed has the signature with it.
            copies = action == "s3:PutObject" and "copy-points" in stack.bodies[role][1]["name"]
            if action in SIGNATURE and POINTS.search(resource) and not copies:
                found |= {(SIGNATURE[action], Key(region=place(stack)[0], alias=alias)) for alias in self.signing}
            if action == "rds:RestoreDBInstanceToPointInTime" and ":auto-backup:" in resource:
                found |= {(asked, key) for asked in RESTORE for key in self._backup_keys}
        for _, body in stack.of("aws_ecs_service"):
            volume = body.get("volume_configuration", {}).get("managed_ebs_volume")
            if volume and (made := stack.target(volume["role_arn"])) and made[0] == role:
                key = self.key(stack, volume["kms_key_id"], stack.region_of(body))
                assert key is not None
                found |= {(asked, key) for asked in VOLUME_KEY}
        return found

    def optional_keys(self, stack: Stack, role: str) -> set[tuple[str, Key]]:
        """What a role may do with keys for what no policy of AWS's shows: points in a store elsewhere, which it reads
        and seals with that store's own keys."""
        reads = {
            resource for action, resource in self.allowed(stack, role) if action == "secretsmanager:GetSecretValue"
        }
        if not any(resource.endswith("/vault-keys-??????") for resource in reads):
            return set()
        return {
            (signature, Key(region=place(stack)[0], alias=alias))
            for signature in SIGNATURE.values()
            for alias in self.signing
        }

    @cached_property
    def _backup_keys(self) -> set[Key]:
        return {
            key
            for stack in self.stacks.values()
            for _, body in stack.of("aws_db_instance_automated_backups_replication")
            if (key := self.key(stack, body["kms_key_id"], stack.region_of(body)))
        }

    # State machines, schedules and rules

    def machine_needs(self, stack: Stack, body: Mapping[str, Any]) -> set[Permission]:
        """What the role of a state machine needs, for its definition, its log and its traces."""
        found: set[Permission] = set()
        for state in states_of(json.loads(body["definition"])):
            if state["Type"] == "Task":
                found |= self._state_needs(stack, state)
        if body.get("logging_configuration", {}).get("level", "OFF") != "OFF":
            found |= DELIVER_LOGS
        if body.get("tracing_configuration", {}).get("enabled"):
            found |= TRACE_MACHINE
        return found

    def _state_needs(self, stack: Stack, state: Mapping[str, Any]) -> set[Permission]:
        resource, parameters = state["Resource"], state.get("Parameters", {})
        if LAMBDA_INVOKE.fullmatch(resource):
            return {("lambda:InvokeFunction", parameters["FunctionName"])}
        if FUNCTION.fullmatch(resource):
            return {("lambda:InvokeFunction", resource)}
        if resource == "arn:aws:states:::ecs:runTask.sync":
            region, account = place(stack)
            ecs, family = f"arn:aws:ecs:{region}:{account}", parameters["TaskDefinition"]
            (task,) = [task for _, task in stack.of("aws_ecs_task_definition") if task["family"] == family]
            rule = f"arn:aws:events:{region}:{account}:rule/StepFunctionsGetEventsForECSTaskRule"
            return {
                ("ecs:RunTask", f"{ecs}:task-definition/{family}:*"),
                *(
                    (f"ecs:{action}", f"{ecs}:task/{parameters['Cluster']}/*")
                    for action in ("DescribeTasks", "StopTask")
                ),
                *((f"events:{action}", rule) for action in ("DescribeRule", "PutRule", "PutTargets")),
                *(("iam:PassRole", task[role]) for role in ("task_role_arn", "execution_role_arn")),
            }
        raise AssertionError(f"say what {resource} needs")

    def target_needs(self, target: Mapping[str, Any]) -> set[Permission]:
        """What calling a schedule's or a rule's target needs, and leaving a dead letter."""
        arn = target["arn"]
        found: set[Permission] = set()
        if FUNCTION.fullmatch(arn):
            found.add(("lambda:InvokeFunction", arn))
        elif MACHINE.fullmatch(arn) or arn.startswith("${aws_sfn_state_machine."):
            found.add(("states:StartExecution", arn))
        else:
            raise AssertionError(f"say what calling {arn} needs")
        letters = target.get("dead_letter_config", {}).get("arn")
        if letters:
            found.add(("sqs:SendMessage", letters))
        return found

    # Containers

    def execution_needs(self, stack: Stack, task: Mapping[str, Any]) -> set[Permission]:
        """What starting a task's containers needs: their images, their secrets and their logs."""
        region, account = place(stack)
        found: set[Permission] = set()
        for container in json.loads(task["container_definitions"]):
            if image := IMAGE.match(container["image"]):
                repository = f"arn:aws:ecr:{image[2]}:{image[1]}:repository/{image[3]}"
                found |= {(action, repository) for action in PULL} | {("ecr:GetAuthorizationToken", "*")}
            for secret in container.get("secrets", ()):
                found.add(("secretsmanager:GetSecretValue", secret["valueFrom"]))
            group = stack.target(container["logConfiguration"]["options"]["awslogs-group"])
            assert group is not None
            log = f"arn:aws:logs:{region}:{account}:log-group:{group[1]['name']}:*"
            found |= {(f"logs:{action}", log) for action in ("CreateLogStream", "PutLogEvents")}
        return found


def place(stack: Stack) -> tuple[str, str]:
    """The region and the account of a stack."""
    own = next(provider for provider in stack.json["provider"]["aws"] if "alias" not in provider)
    return own["region"], own["allowed_account_ids"][0]


def states_of(definition: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every state of a definition, also of its branches and its items."""
    for state in definition["States"].values():
        yield state
        for branch in state.get("Branches", ()):
            yield from states_of(branch)
        for inner in ("ItemProcessor", "Iterator"):
            if inner in state:
                yield from states_of(state[inner])


def differences(what: str, needs: set[Any], has: set[Any]) -> list[str]:
    """What is needed and not there, and what is there and not needed."""
    return [f"{what} lacks {_said(item)}" for item in sorted(needs - has, key=str)] + [
        f"{what} has no need of {_said(item)}" for item in sorted(has - needs, key=str)
    ]


def _said(item: Any) -> str:
    action, on = item
    return f"{action} on {f'{on.alias} in {on.region}' if isinstance(on, Key) else on}"


def without_keys(permissions: set[Permission]) -> set[Permission]:
    """Permissions on other things than keys, which are derived from these."""
    return {(action, resource) for action, resource in permissions if not action.startswith("kms:")}


def machine_problems(deployment: Deployment) -> list[str]:
    """What is wrong with the roles of the state machines."""
    found = []
    for stack in deployment.stacks.values():
        for address, body in stack.of("aws_sfn_state_machine"):
            role = stack.target(body["role_arn"])
            assert role is not None
            what = stack.subject(address)
            has = without_keys(deployment.allowed(stack, role[0]))
            found += differences(what, deployment.machine_needs(stack, body), has)
            region, account = place(stack)
            arn = f"arn:aws:states:{region}:{account}:stateMachine:{body['name']}"
            found += trust_problems(what, role[1], "states.amazonaws.com", account=account, source=arn)
            found += condition_problems(deployment, stack, role[0], what)
    return found


def condition_problems(deployment: Deployment, stack: Stack, role: str, what: str) -> Iterator[str]:
    """A role is handed to ECS alone, and a task is started in our own cluster alone."""
    for statement in deployment.policies(stack, role):
        equal = {key: value for bounds in statement.get("Condition", {}).values() for key, value in bounds.items()}
        actions = listed(statement["Action"])
        if "iam:PassRole" in actions and equal.get("iam:PassedToService") != "ecs-tasks.amazonaws.com":
            yield f"{what} hands roles to any service"
        if {"ecs:RunTask", "ecs:ListTasks"} & set(actions) and "ecs:cluster" not in equal:
            yield f"{what} starts tasks in any cluster"


def trust_problems(what: str, role: Mapping[str, Any], service: str, *, account: str, source: str = "") -> list[str]:
    """Whether one service alone may take on a role, on behalf of this account and of `source`."""
    (statement,) = json.loads(role["assume_role_policy"])["Statement"]
    bounds = {key: value for group in statement.get("Condition", {}).values() for key, value in group.items()}
    found = []
    if statement["Principal"] != {"Service": service}:
        found.append(f"{what} is trusted by {statement['Principal']}, expected {service}")
    if bounds.get("aws:SourceAccount") != account:
        found.append(f"{what} may be used on behalf of any account")
    if source and not fnmatchcase(source, bounds.get("aws:SourceArn", "")):
        found.append(f"{what} is not for {source}")
    return found


def schedule_problems(deployment: Deployment) -> list[str]:
    """What is wrong with the roles of schedules, and with what lets rules call and leave letters."""
    found = []
    for stack in deployment.stacks.values():
        _, account = place(stack)
        for address, body in stack.of("aws_scheduler_schedule"):
            what, role = stack.subject(address), stack.target(body["target"]["role_arn"])
            assert role is not None
            has = without_keys(deployment.allowed(stack, role[0]))
            found += differences(what, deployment.target_needs(body["target"]), has)
            found += trust_problems(what, role[1], "scheduler.amazonaws.com", account=account)
            if not body["target"].get("dead_letter_config"):
                found.append(f"{what} loses what it cannot deliver")
        found += rule_problems(deployment, stack)
    return found


def rule_problems(deployment: Deployment, stack: Stack) -> Iterator[str]:
    """A rule that takes on no role is let in by the function and by the queue, for itself alone; nobody else is."""
    needed, given = set(), set()
    region, account = place(stack)
    for address, target in stack.of("aws_cloudwatch_event_target"):
        what, rule = stack.subject(address), stack.target(target["rule"])
        assert rule is not None
        rule_arn = f"arn:aws:events:{region}:{account}:rule/{rule[1]['name']}"
        if "role_arn" in target:
            role = stack.target(target["role_arn"])
            assert role is not None
            has = without_keys(deployment.allowed(stack, role[0]))
            needs = {item for item in deployment.target_needs(target) if not item[0].startswith("sqs:")}
            yield from differences(what, needs, has)
            yield from trust_problems(what, role[1], "events.amazonaws.com", account=account)
        elif FUNCTION.fullmatch(target["arn"]):
            needed.add((target["arn"].rpartition(":")[2], f"${{{rule[0]}.arn}}"))
        letters = target.get("dead_letter_config", {}).get("arn")
        if not letters:
            yield f"{what} loses what it cannot deliver"
        elif not any(_lets_send(stack, policy, letters, rule_arn) for _, policy in stack.of("aws_sqs_queue_policy")):
            yield f"{what} may not leave a letter in {letters}"
    for _, subscription in stack.of("aws_sns_topic_subscription"):
        if subscription["protocol"] == "lambda":
            needed.add((subscription["endpoint"].rpartition(":")[2], subscription["topic_arn"]))
    for _, permission in stack.of("aws_lambda_permission"):
        function, source = stack.target(permission["function_name"]), permission.get("source_arn", "anybody")
        assert function is not None
        given.add((function[1]["function_name"], source))
        wanted = next((service for start, service in CALLERS.items() if source.startswith(start)), "nobody")
        if permission["principal"] != wanted:
            yield f"{function[1]['function_name']} lets in {permission['principal']}, expected {wanted}"
    yield from differences("a function's own policy", needed, given)


# Who calls a function without a role, by what it calls on behalf of.
CALLERS = {
    "${aws_cloudwatch_event_rule.": "events.amazonaws.com",
    "${aws_sns_topic.": "sns.amazonaws.com",
}


def _lets_send(stack: Stack, policy: Mapping[str, Any], queue: str, rule: str) -> bool:
    for statement in json.loads(policy["policy"])["Statement"]:
        source = statement.get("Condition", {}).get("ArnLike", {}).get("aws:SourceArn", "")
        if (
            statement["Effect"] == "Allow"
            and statement["Principal"] == {"Service": "events.amazonaws.com"}
            and "sqs:SendMessage" in listed(statement["Action"])
            and statement["Resource"] == queue
            and fnmatchcase(rule, source)
        ):
            return True
    return False


def key_problems(deployment: Deployment) -> list[str]:
    """What is wrong with who may use the keys: roles by their policies, and AWS's services by the keys' own."""
    found = []
    for stack, role in deployment.roles:
        what = stack.subject(role)
        needed, granted = deployment.needed_keys(stack, role), deployment.granted_keys(stack, role)
        found += differences(what, needed, granted - (deployment.optional_keys(stack, role) - needed))
        found += _bound_problems(deployment, stack, role, what)
    known = set(deployment.aliases.values())
    for stack, role in deployment.roles:
        for action, key in deployment.granted_keys(stack, role):
            if key not in known:
                found.append(
                    f"{stack.subject(role)} may {action} with {key.alias} in {key.region}, which no stack makes"
                )
    for stack in deployment.stacks.values():
        for address, body in stack.of("aws_kms_key"):
            found += _service_problems(stack, address, body)
    return found


def _bound_problems(deployment: Deployment, stack: Stack, role: str, what: str) -> Iterator[str]:
    """Keys that encrypt are used through the service that holds what they encrypt, or for one secret alone."""
    for statement in deployment.policies(stack, role):
        bounds = {key for group in statement.get("Condition", {}).values() for key in group}
        actions = {action for action in listed(statement["Action"]) if action.startswith("kms:")}
        if actions <= {"kms:Sign", "kms:Verify", "kms:DescribeKey"}:
            continue
        if not bounds & {"kms:ViaService", "kms:EncryptionContext:SecretARN"}:
            yield f"{what} may {', '.join(sorted(actions))} by itself, through no service"
        if "kms:CreateGrant" in actions and "kms:GrantIsForAWSResource" not in bounds:
            yield f"{what} may hand a key on to anybody"


def _service_problems(stack: Stack, address: str, body: Mapping[str, Any]) -> list[str]:
    """A key's own policy lets in the services that use it for what it encrypts, and no others."""
    region, _ = place(stack)
    own = f"${{{address}.arn}}"
    needs: set[Permission] = set()
    for type_, argument in (
        ("aws_cloudwatch_log_group", "kms_key_id"),
        ("aws_sns_topic", "kms_master_key_id"),
        ("aws_sqs_queue", "kms_master_key_id"),
    ):
        for _, user in stack.of(type_):
            if user.get(argument) == own:
                needs |= _users_of(stack, type_, user, region)
    has: set[Permission] = set()
    for statement in json.loads(body["policy"])["Statement"]:
        service = statement["Principal"].get("Service")
        if service:
            has |= {(action, service) for action in listed(statement["Action"])}
    return differences(stack.subject(address), needs, has)


def _users_of(stack: Stack, type_: str, user: Mapping[str, Any], region: str) -> set[Permission]:
    """Which of AWS's services use a key for a log group, a topic or a queue, by themselves."""
    if type_ == "aws_cloudwatch_log_group":
        actions = ("kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*")
        return {(action, f"logs.{region}.amazonaws.com") for action in actions}
    users = set()
    if type_ == "aws_sns_topic":
        address = next(found for found, body in stack.of(type_) if body is user)
        for _, alarm in stack.of("aws_cloudwatch_metric_alarm", "aws_cloudwatch_composite_alarm"):
            told = [*alarm.get("alarm_actions", ()), *alarm.get("ok_actions", ())]
            if f"${{{address}.arn}}" in told:
                users.add("cloudwatch.amazonaws.com")
    else:
        for _, target in stack.of("aws_cloudwatch_event_target"):
            if target.get("dead_letter_config", {}).get("arn", "").endswith(f":{user['name']}"):
                users.add("events.amazonaws.com")
    return {(action, service) for service in users for action in ("kms:Decrypt", "kms:GenerateDataKey*")}


def execution_problems(deployment: Deployment) -> list[str]:
    """What is wrong with the roles by which ECS starts containers."""
    found = []
    for stack in deployment.stacks.values():
        _, account = place(stack)
        for address, task in stack.of("aws_ecs_task_definition"):
            role, what = stack.target(task["execution_role_arn"]), stack.subject(address)
            assert role is not None
            has = without_keys(deployment.allowed(stack, role[0]))
            found += differences(what, deployment.execution_needs(stack, task), has)
            found += trust_problems(what, role[1], "ecs-tasks.amazonaws.com", account=account)
    return found


# IAM's limit for all inline policies of a role, without white space, and for a role's name.
INLINE_LIMIT = 10_240
NAME_LIMIT = 64


def role_problems(deployment: Deployment) -> list[str]:
    """A role is within IAM's limits, and something uses it: the service that may take it on."""
    found = []
    for stack, role in deployment.roles:
        what, body = stack.subject(role), stack.bodies[role][1]
        size = deployment.size(stack, role)
        if size > INLINE_LIMIT:
            found.append(f"{what} has policies of {size} characters, IAM takes {INLINE_LIMIT}")
        if len(body["name"]) > NAME_LIMIT:
            found.append(f"{what} has a name of {len(body['name'])} characters, IAM takes {NAME_LIMIT}")
        used_by = {service for service, user in _uses(stack) if user == role}
        for statement in json.loads(body["assume_role_policy"])["Statement"]:
            trusted = set(listed(statement["Principal"].get("Service", [])))
            if trusted != used_by and not trusted & OWN:
                found.append(f"{what} is trusted by {sorted(trusted)}, and used by {sorted(used_by)}")
    return found


# Who takes on the role of agents that the operator's own cluster or machines run: no resource of ours says so.
OWN = {"ec2.amazonaws.com", "pods.eks.amazonaws.com"}
# Which service takes on a role that stands in an argument of a type.
TAKEN_BY: dict[str, tuple[tuple[str, str], ...]] = {
    "aws_chatbot_slack_channel_configuration": (("iam_role_arn", "chatbot.amazonaws.com"),),
    "aws_cloudwatch_event_target": (("role_arn", "events.amazonaws.com"),),
    "aws_ecs_service": (("volume_configuration.managed_ebs_volume.role_arn", "ecs.amazonaws.com"),),
    "aws_ecs_task_definition": (
        ("task_role_arn", "ecs-tasks.amazonaws.com"),
        ("execution_role_arn", "ecs-tasks.amazonaws.com"),
    ),
    "aws_flow_log": (("iam_role_arn", "vpc-flow-logs.amazonaws.com"),),
    "aws_lambda_function": (("role", "lambda.amazonaws.com"),),
    "aws_s3_bucket_replication_configuration": (("role", "s3.amazonaws.com"),),
    "aws_scheduler_schedule": (("target.role_arn", "scheduler.amazonaws.com"),),
    "aws_sfn_state_machine": (("role_arn", "states.amazonaws.com"),),
}


def _uses(stack: Stack) -> Iterator[tuple[str, str]]:
    for type_, arguments in TAKEN_BY.items():
        for _, body in stack.of(type_):
            for argument, service in arguments:
                value: Any = body
                for step in argument.split("."):
                    value = value.get(step) if isinstance(value, dict) else None
                found = stack.target(value) if value else None
                if found is not None:
                    yield service, found[0]


def deployment_of(environment: str, stacks: Mapping[str, Mapping[str, Any]]) -> Deployment:
    """An environment's stacks as they were synthesized."""
    return Deployment(environment, {part: Stack(environment, part, stack) for part, stack in stacks.items()})

"""What is asserted of every synthesized stack, beyond what checkov asks.

Each rule gives problems, each with a subject, `<part of the environment>/<path in its stack>#<detail>`. What is
excepted is in `.ci/assertion-exceptions.toml`, with a reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stack_references import Reference, bodies, path_of, references, strings

from relight_constructs.policies import ANY_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REGION = re.compile(r"\b(?:af|ap|ca|eu|il|me|mx|sa|us)-(?:central|(?:north|south)?(?:east|west)|north|south)-\d\b")
# Which of its arguments hold a policy, by what it is a policy of.
IDENTITY = ("aws_iam_role_policy",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, and where."""

    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


@dataclass(frozen=True)
class Stack:
    """One synthesized stack."""

    environment: str
    part: str
    json: Mapping[str, Any]

    @cached_property
    def bodies(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Type and body of everything in the stack, by its address."""
        return {address: (type_, body) for address, _, type_, body in bodies(self.json)}

    def of(self, *types: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Address and body of each resource of these types."""
        for address, (type_, body) in self.bodies.items():
            if type_ in types and not address.startswith(("data.", "ephemeral.")):
                yield address, body

    def subject(self, address: str, detail: str = "") -> str:
        """What a problem is of."""
        path = path_of(self.bodies[address][1], address)
        return f"{self.part}/{path}#{detail}" if detail else f"{self.part}/{path}"

    def target(self, value: Any) -> tuple[str, dict[str, Any]] | None:
        """Address and body of what the one reference below a value is to."""
        found = [item for item in references(value) if isinstance(item, Reference)]
        return (found[0].address, self.bodies[found[0].address][1]) if len(found) == 1 else None

    @cached_property
    def providers(self) -> dict[str, str]:
        """The region of each provider, by what a resource calls it."""
        return {
            f"aws.{provider['alias']}" if "alias" in provider else "aws": provider["region"]
            for provider in self.json["provider"]["aws"]
        }

    def region_of(self, body: Mapping[str, Any]) -> str:
        """Where a resource is made."""
        return self.providers[body.get("provider", "aws")]


def documents(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The policies that a body holds, by their arguments."""
    for name, value in body.items():
        if isinstance(value, str) and value.startswith("{") and '"Statement"' in value:
            yield name, json.loads(value)


def listed(value: Any) -> list[Any]:
    """IAM writes a list of one as the one."""
    return value if isinstance(value, list) else [value]


# Wildcards


def no_wildcards(stack: Stack) -> Iterator[Problem]:
    """No policy allows an action, a resource or a principal by `*`, but what ANY_RESOURCE gives a reason for.

    A pattern of an ARN is none where it begins with a name of ours.
    """
    for address, (type_, body) in stack.bodies.items():
        for _, document in documents(body):
            for statement in document["Statement"]:
                label = statement.get("Sid", "")
                for negated in ("NotAction", "NotResource", "NotPrincipal"):
                    if negated in statement:
                        yield Problem(subject=stack.subject(address, label), text=f"{negated} allows what nobody wrote")
                if statement["Effect"] != "Allow":
                    continue
                actions = listed(statement.get("Action", []))
                for action in actions:
                    if "*" in action:
                        yield Problem(subject=stack.subject(address, f"{label} {action}".strip()), text="any action")
                if _anybody(statement.get("Principal", {})):
                    yield Problem(subject=stack.subject(address, f"{label} anybody".strip()), text="any principal")
                for resource in listed(statement.get("Resource", [])):
                    if resource == "*":
                        wide = [action for action in actions if type_ not in IDENTITY or action not in ANY_RESOURCE]
                        if wide:
                            detail = label or ",".join(wide)
                            yield Problem(subject=stack.subject(address, f"{detail} *"), text="any resource")
                    elif "*" in resource and not _ours(resource.partition("*")[0], stack.environment):
                        if _narrowed(statement):
                            continue
                        detail = ":".join(resource.split(":")[2:3] + resource.split(":")[5:])
                        yield Problem(subject=stack.subject(address, detail), text=f"any of a kind: {resource}")


def _anybody(principal: Any) -> bool:
    if isinstance(principal, dict):
        return any("*" in listed(who) for who in principal.values())
    return bool(principal == "*")


def _narrowed(statement: Mapping[str, Any]) -> bool:
    """Any key that carries an alias of ours; any volume that ECS makes, or has made. Their ids are not known before."""
    for operator, bounds in statement.get("Condition", {}).items():
        aliases = listed(bounds.get("kms:ResourceAliases", []))
        if aliases and operator.endswith("StringEquals") and all(name.startswith("alias/relight-") for name in aliases):
            return True
        if operator in ("StringEquals", "ArnLike") and ECS_TAGS & set(bounds):
            return True
    return False


ECS_TAGS = frozenset(
    f"aws:{what}Tag/AmazonECS{how}" for what in ("Request", "Resource") for how in ("Created", "Managed")
)


def _ours(start: str, environment: str) -> bool:
    return "${" in start or f"relight-{environment}" in start or f"relight/{environment}" in start


# Regions


def no_other_region(stack: Stack) -> Iterator[Problem]:
    """A stack has one provider, in its own region, and nothing in it names another region.

    A subject's detail is the argument, or of a policy the service.
    """
    for alias, region in stack.providers.items():
        if alias != "aws":
            yield Problem(subject=f"{stack.part}/provider#{alias}", text=f"a second provider, in {region}")
    for address, (type_, body) in stack.bodies.items():
        own = stack.region_of(body)
        for name, value in body.items():
            if name in ("//", "provider"):
                continue
            if type_ in IDENTITY and name == "policy":
                for statement in json.loads(value)["Statement"]:
                    for text in strings([statement["Resource"], statement.get("Condition", {})]):
                        if _others(text, own):
                            service = listed(statement["Action"])[0].split(":")[0]
                            yield Problem(subject=stack.subject(address, service), text=f"names {text}")
                continue
            for where, text in _leaves(value, name):
                if others := _others(text, own):
                    yield Problem(subject=stack.subject(address, where), text=f"names {', '.join(sorted(others))}")
        for reference in references(body):
            if isinstance(reference, Reference) and reference.address in stack.bodies:
                other = stack.region_of(stack.bodies[reference.address][1])
                if other != own:
                    subject = stack.subject(address, f"to {reference.type}")
                    yield Problem(subject=subject, text=f"refers to something in {other}")


def _leaves(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if value.startswith(("{", "[")) and at.split(".")[-1] != "RELIGHT_COLLECTIONS":
            try:
                yield from _leaves(json.loads(value), at)
            except ValueError:
                yield at, value
        else:
            yield at, value
    elif isinstance(value, dict):
        # A variable of a container is a name beside a value.
        if set(value) == {"name", "value"}:
            yield f"{at}.{value['name']}", str(value["value"])
            return
        for name, item in value.items():
            yield from _leaves(item, f"{at}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, at)


def _others(text: str, own: str) -> set[str]:
    return {region for region in REGION.findall(text) if region != own}


# What a recovery runs on


def recovery_stays_at_home(stack: Stack) -> Iterator[Problem]:
    """No function that a state machine calls may do anything in another region, nor by a control plane that is in one
    region for all the world."""
    for address, body in stack.of("aws_sfn_state_machine"):
        home = stack.region_of(body)
        called = set(re.findall(r"arn:aws:lambda:[a-z0-9-]+:\d+:function:([\w-]+)", body["definition"]))
        for function, made in stack.of("aws_lambda_function"):
            if made["function_name"] not in called:
                continue
            for statement in statements_of(stack, made["role"]):
                if statement["Effect"] != "Allow":
                    continue
                for resource in listed(statement["Resource"]):
                    if _others(resource, home):
                        yield Problem(subject=stack.subject(function, resource), text=f"{address} reaches away")
                for action in listed(statement["Action"]):
                    if action.split(":")[0] in GLOBAL and action != "iam:PassRole":
                        yield Problem(subject=stack.subject(function, action), text="a control plane elsewhere")


# Services whose control plane is in us-east-1, or in one region of a partition. Handing a role over calls none of them.
GLOBAL = ("budgets", "cloudfront", "globalaccelerator", "iam", "organizations", "route53", "shield", "waf")


def statements_of(stack: Stack, role: str) -> Iterator[dict[str, Any]]:
    """Every statement of the policies of the role that a reference is to."""
    found = stack.target(role)
    assert found is not None, f"{role} is no reference to a role of this stack"
    for _, policy in stack.of("aws_iam_role_policy"):
        of = stack.target(policy["role"])
        if of is not None and of[0] == found[0]:
            yield from json.loads(policy["policy"])["Statement"]


# What is open to the internet


def no_public_ingress(stack: Stack) -> Iterator[Problem]:
    """Nothing is reached from outside but a load balancer, on 443, with TLS 1.2 at least."""
    public = {
        group[0]
        for _, balancer in stack.of("aws_lb")
        if balancer.get("internal") is not True
        for value in balancer["security_groups"]
        if (group := stack.target(value))
    }
    for address, rule in stack.of("aws_vpc_security_group_ingress_rule"):
        if "referenced_security_group_id" in rule:
            continue
        group = stack.target(rule["security_group_id"])
        https = rule.get("ip_protocol") == "tcp" and rule.get("from_port") == rule.get("to_port") == 443
        if group is None or group[0] not in public or not https:
            yield Problem(subject=stack.subject(address), text=f"admits {rule.get('cidr_ipv4') or 'addresses'}")
    for address, group_body in stack.of("aws_security_group", "aws_default_security_group"):
        if group_body.get("ingress"):
            yield Problem(subject=stack.subject(address), text="admits by itself; give a rule of its own")
    for address, _ in stack.of("aws_security_group_rule"):
        yield Problem(subject=stack.subject(address), text="is of the older kind of rule, which nothing here reads")
    for address, listener in stack.of("aws_lb_listener"):
        balancer_of = stack.target(listener["load_balancer_arn"])
        if balancer_of is not None and balancer_of[1].get("internal") is True:
            continue
        modern = str(listener.get("ssl_policy", "")).startswith("ELBSecurityPolicy-TLS13-1-2")
        if (listener.get("port"), listener.get("protocol")) != (443, "HTTPS") or not modern:
            yield Problem(subject=stack.subject(address), text="is public and not TLS 1.2 or 1.3 on 443")
    for address, (type_, body) in stack.bodies.items():
        for name, wanted in CLOSED.get(type_, {}).items():
            value: Any = body
            for step in name.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            if value is not wanted:
                yield Problem(subject=stack.subject(address, name), text=f"is {value}, expected {wanted}")
        if type_ in OPEN_TYPES:
            yield Problem(subject=stack.subject(address), text="is reached from the internet")
    yield from _no_public_subnets(stack)


CLOSED: dict[str, dict[str, object]] = {
    "aws_db_instance": {"publicly_accessible": False},
    "aws_ecs_service": {"network_configuration.assign_public_ip": False, "enable_execute_command": False},
    "aws_rds_cluster_instance": {"publicly_accessible": False},
    "aws_s3_bucket_public_access_block": {
        "block_public_acls": True,
        "block_public_policy": True,
        "ignore_public_acls": True,
        "restrict_public_buckets": True,
    },
    "aws_subnet": {"map_public_ip_on_launch": None, "assign_ipv6_address_on_creation": None},
}
OPEN_TYPES = (
    "aws_api_gateway_rest_api",
    "aws_apigatewayv2_api",
    "aws_cloudfront_distribution",
    "aws_instance",
    "aws_lambda_function_url",
    "aws_s3_bucket_acl",
    "aws_s3_bucket_website_configuration",
)
# What may be in a subnet that the internet has a route to.
IN_PUBLIC = ("aws_lb", "aws_nat_gateway", "aws_route_table_association")


def _no_public_subnets(stack: Stack) -> Iterator[Problem]:
    open_tables = {
        address
        for address, table in stack.of("aws_route_table")
        if any(route.get("gateway_id") for route in table.get("route", ()))
    }
    public = set()
    for _, association in stack.of("aws_route_table_association"):
        table = stack.target(association["route_table_id"])
        subnet = stack.target(association["subnet_id"])
        if table and subnet and table[0] in open_tables:
            public.add(subnet[0])
    for address, (type_, body) in stack.bodies.items():
        inside = {item.address for item in references(body) if isinstance(item, Reference)} & public
        allowed = type_ in IN_PUBLIC and (type_ != "aws_lb" or body.get("internal") is not True)
        if inside and not allowed:
            yield Problem(subject=stack.subject(address), text="is in a subnet that the internet has a route to")


# Encryption


def _by_key(name: str) -> Callable[[Stack, dict[str, Any]], str]:
    """An argument names a customer-managed key."""

    def check(stack: Stack, body: dict[str, Any]) -> str:
        value: Any = body
        for step in name.split("."):
            value = value[int(step)] if isinstance(value, list) else (value or {}).get(step)
        return _no_key(stack, value, name)

    return check


def _no_key(stack: Stack, value: Any, name: str) -> str:
    if isinstance(value, str) and value.startswith("alias/relight-"):
        return ""  # a key of ours in another region, whose id cannot be computed
    found = stack.target(value) if value else None
    is_key = found is not None and found[0].startswith(("aws_kms_key.", "aws_kms_replica_key."))
    return "" if is_key else f"{name} names no key of ours: {value}"


def _bucket(stack: Stack, body: dict[str, Any]) -> str:
    for _, encryption in stack.of("aws_s3_bucket_server_side_encryption_configuration"):
        of = stack.target(encryption["bucket"])
        if of is not None and of[1] is body:
            (rule,) = encryption["rule"]
            default = rule["apply_server_side_encryption_by_default"]
            default = default[0] if isinstance(default, list) else default
            if default["sse_algorithm"] not in ("aws:kms", "aws:kms:dsse"):
                return f"is encrypted by {default['sse_algorithm']}"
            return _no_key(stack, default.get("kms_master_key_id"), "kms_master_key_id")
    return "has no encryption of its own"


def _key(stack: Stack, body: dict[str, Any]) -> str:
    if body.get("key_usage") in ("SIGN_VERIFY", "GENERATE_VERIFY_MAC"):
        return ""
    return "" if body.get("enable_key_rotation") is True else "does not rotate"


def _replication(stack: Stack, body: dict[str, Any]) -> str:
    for rule in body["rule"]:
        criteria = rule.get("source_selection_criteria", {}).get("sse_kms_encrypted_objects", {})
        if criteria.get("status") != "Enabled":
            return "leaves out what is encrypted by KMS"
        encryption = rule["destination"].get("encryption_configuration", {})
        if problem := _no_key(stack, encryption.get("replica_kms_key_id"), "replica_kms_key_id"):
            return problem
    return ""


def _secret(stack: Stack, body: dict[str, Any]) -> str:
    wanting = [_no_key(stack, body.get("kms_key_id"), "kms_key_id")]
    wanting += [_no_key(stack, replica.get("kms_key_id"), "replica") for replica in body.get("replica", ())]
    return next(filter(None, wanting), "")


def _storage(stack: Stack, body: dict[str, Any]) -> str:
    if body.get("storage_encrypted") is not True:
        return "storage_encrypted is not set"
    wanting = [_no_key(stack, body.get("kms_key_id"), "kms_key_id")]
    if body.get("performance_insights_enabled"):
        wanting.append(_no_key(stack, body.get("performance_insights_kms_key_id"), "performance_insights_kms_key_id"))
    return next(filter(None, wanting), "")


def _insights(stack: Stack, body: dict[str, Any]) -> str:
    if not body.get("performance_insights_enabled"):
        return ""
    return _no_key(stack, body.get("performance_insights_kms_key_id"), "performance_insights_kms_key_id")


def _global(stack: Stack, body: dict[str, Any]) -> str:
    return "" if body.get("storage_encrypted") is True else "storage_encrypted is not set"


def _volume(stack: Stack, body: dict[str, Any]) -> str:
    volume = body.get("volume_configuration", {}).get("managed_ebs_volume")
    if volume is None:
        return ""
    return "encrypted is not set" * (volume.get("encrypted") is not True) or _no_key(
        stack, volume.get("kms_key_id"), "kms_key_id"
    )


def _task(stack: Stack, body: dict[str, Any]) -> str:
    for volume in body.get("volume", ()):
        files = volume.get("efs_volume_configuration")
        if files and files.get("transit_encryption") != "ENABLED":
            return f"the volume {volume['name']} is read without TLS"
    return ""


def _listener(stack: Stack, body: dict[str, Any]) -> str:
    return "" if body.get("protocol") in ("HTTPS", "TLS") else f"speaks {body.get('protocol')}, without TLS"


def _group(stack: Stack, body: dict[str, Any]) -> str:
    settings = {item["name"]: item["value"] for item in body.get("parameter", ())}
    return "" if settings.get("rds.force_ssl") == "1" else "lets clients in without TLS"


def _tls_only(stack: Stack, body: dict[str, Any]) -> str:
    for statement in json.loads(body["policy"])["Statement"]:
        if statement["Effect"] == "Deny" and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}:
            return ""
    return "lets callers in without TLS"


ENCRYPTED: dict[str, Callable[[Stack, dict[str, Any]], str]] = {
    "aws_cloudwatch_log_group": _by_key("kms_key_id"),
    "aws_db_instance": _storage,
    "aws_db_instance_automated_backups_replication": _by_key("kms_key_id"),
    "aws_db_parameter_group": _group,
    "aws_ecs_service": _volume,
    "aws_ecs_task_definition": _task,
    "aws_kms_key": _key,
    "aws_lb_listener": _listener,
    "aws_rds_cluster": _storage,
    "aws_rds_cluster_instance": _insights,
    "aws_rds_cluster_parameter_group": _group,
    "aws_rds_global_cluster": _global,
    "aws_s3_bucket": _bucket,
    "aws_s3_bucket_policy": _tls_only,
    "aws_s3_bucket_replication_configuration": _replication,
    "aws_secretsmanager_secret": _secret,
    "aws_sns_topic": _by_key("kms_master_key_id"),
    "aws_sqs_queue": _by_key("kms_master_key_id"),
    "aws_sqs_queue_policy": _tls_only,
}
# What keeps nothing of ours, or keeps it in something that is above. A type that is in neither is a question.
KEEPS_NOTHING = (
    "aws_acm_certificate",
    "aws_acm_certificate_validation",
    "aws_appautoscaling_policy",
    "aws_appautoscaling_target",
    "aws_chatbot_slack_channel_configuration",
    "aws_cloudwatch_dashboard",
    "aws_cloudwatch_event_rule",
    "aws_cloudwatch_event_target",
    "aws_cloudwatch_metric_alarm",
    "aws_db_subnet_group",
    "aws_default_security_group",
    "aws_ecr_replication_configuration",
    "aws_ecs_cluster",
    "aws_eip",
    "aws_eks_access_entry",
    "aws_flow_log",
    "aws_iam_instance_profile",
    "aws_iam_role",
    "aws_iam_role_policy",
    "aws_internet_gateway",
    "aws_kms_alias",
    "aws_kms_replica_key",
    "aws_lambda_permission",
    "aws_lb",
    "aws_lb_target_group",
    "aws_nat_gateway",
    "aws_route53_health_check",
    "aws_route53_record",
    "aws_route53_zone",
    "aws_route53recoverycontrolconfig_cluster",
    "aws_route53recoverycontrolconfig_control_panel",
    "aws_route53recoverycontrolconfig_routing_control",
    "aws_route53recoverycontrolconfig_safety_rule",
    "aws_route_table",
    "aws_route_table_association",
    "aws_s3_bucket_lifecycle_configuration",
    "aws_s3_bucket_object_lock_configuration",
    "aws_s3_bucket_ownership_controls",
    "aws_s3_bucket_public_access_block",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning",
    "aws_sns_topic_subscription",
    # Their values are write-only, and held by the secret.
    "aws_secretsmanager_secret_version",
    # AWS encrypts what they hold with a key of its own; it is names, and the ids of runs.
    "aws_lambda_function",
    "aws_lambda_function_event_invoke_config",
    "aws_scheduler_schedule",
    "aws_sfn_state_machine",
    "aws_security_group",
    "aws_subnet",
    "aws_vpc",
    "aws_vpc_endpoint",
    "aws_vpc_security_group_egress_rule",
    "aws_vpc_security_group_ingress_rule",
)


def everything_encrypted(stack: Stack) -> Iterator[Problem]:
    """What is kept is encrypted with a key of ours, and what is sent with TLS."""
    for address, (type_, body) in stack.bodies.items():
        if address.startswith(("data.", "ephemeral.")):
            continue
        if type_ in ENCRYPTED:
            if text := ENCRYPTED[type_](stack, body):
                yield Problem(subject=stack.subject(address), text=text)
        elif type_ not in KEEPS_NOTHING:
            yield Problem(subject=stack.subject(address), text=f"say how {type_} encrypts, or that it keeps nothing")
    # A bucket, or a queue, that has no policy of its own lets anybody in without TLS.
    for kind, of in (("aws_s3_bucket", "bucket"), ("aws_sqs_queue", "queue_url")):
        guarded = {found[0] for _, policy in stack.of(f"{kind}_policy") if (found := stack.target(policy[of]))}
        for address, _ in stack.of(kind):
            if address not in guarded:
                yield Problem(subject=stack.subject(address), text="has no policy that asks for TLS")


# Secrets

_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s${][^/@\s]*@|password=[^\s${]", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(?:PASSWORD|PASSWD|SECRET_KEY|API_KEY|TOKEN|DSN|CREDENTIALS)$")


def no_secret_in_the_state(stack: Stack) -> Iterator[Problem]:
    """No value of a secret is written down: only write-only arguments take one, from ephemeral values."""
    for address, (_, body) in stack.bodies.items():
        for name, value in body.items():
            if name in ("password", "master_password", "secret_string", "secret_binary", "auth_token") and value:
                yield Problem(
                    subject=stack.subject(address, name), text="is kept in the state; take its write-only twin"
                )
            if name == "//":
                continue
            for where, text in _leaves(value, name):
                write_only = name.endswith("_wo")
                if not write_only and "${ephemeral." in text and not address.startswith("ephemeral."):
                    yield Problem(subject=stack.subject(address, where), text="takes an ephemeral value")
                if _PASSWORD.search(re.sub(r"\$\{[^}]*\}", "", text) if write_only else text):
                    yield Problem(subject=stack.subject(address, where), text="looks like a password")
                if where.rpartition(".")[0].split(".")[-1] in ("variables", "environment") and _SECRET_NAME.search(
                    where
                ):
                    yield Problem(subject=stack.subject(address, where), text="is a secret in a plain variable")


# Logs

# What CloudWatch Logs takes; 0 is for ever. Source: the API reference of PutRetentionPolicy.
RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)


def every_log_ends(stack: Stack) -> Iterator[Problem]:
    """Everything that logs does so to a group of its stack, and every group has an end."""
    groups = {body["name"]: address for address, body in stack.of("aws_cloudwatch_log_group")}
    for address, body in stack.of("aws_cloudwatch_log_group"):
        if body.get("retention_in_days") not in RETENTIONS:
            yield Problem(subject=stack.subject(address), text=f"retention is {body.get('retention_in_days')}")
    for address, (type_, body) in stack.bodies.items():
        if type_ not in LOGGED or address.startswith("data."):
            continue
        for log in LOGGED[type_](body):
            found = stack.target(log)
            named = log if isinstance(log, str) else ""
            if not (found and found[0].startswith("aws_cloudwatch_log_group.")) and named not in groups:
                yield Problem(subject=stack.subject(address), text=f"logs to {log}, which is no group of this stack")


def _containers(body: dict[str, Any]) -> Iterator[Any]:
    for container in json.loads(body["container_definitions"]):
        logging = container.get("logConfiguration", {})
        yield logging.get("options", {}).get("awslogs-group") if logging.get("logDriver") == "awslogs" else None


def _database_logs(body: dict[str, Any]) -> Iterator[Any]:
    for kind in body.get("enabled_cloudwatch_logs_exports", ()):
        if "cluster_identifier" in body:
            yield f"/aws/rds/cluster/{body['cluster_identifier']}/{kind}"
        else:
            yield f"/aws/rds/instance/{body['identifier']}/{kind}"


def _insights_log(body: dict[str, Any]) -> Iterator[Any]:
    settings = {item["name"]: item["value"] for item in body.get("setting", ())}
    # It makes the group by itself, without a key of ours, where there is none.
    if settings.get("containerInsights") in ("enabled", "enhanced"):
        yield f"/aws/ecs/containerinsights/{body['name']}/performance"


def _chat_log(body: dict[str, Any]) -> Iterator[Any]:
    # It makes the group by itself, in us-east-1 whatever the region, and for ever.
    if body.get("logging_level", "NONE") != "NONE":
        yield f"/aws/chatbot/{body['configuration_name']}"


LOGGED: dict[str, Callable[[dict[str, Any]], Iterator[Any]]] = {
    "aws_chatbot_slack_channel_configuration": _chat_log,
    "aws_db_instance": _database_logs,
    "aws_ecs_cluster": _insights_log,
    "aws_ecs_task_definition": _containers,
    "aws_flow_log": lambda body: iter([body.get("log_destination")]),
    "aws_lambda_function": lambda body: iter([body.get("logging_config", {}).get("log_group")]),
    "aws_rds_cluster": _database_logs,
    "aws_sfn_state_machine": lambda body: iter([body.get("logging_configuration", {}).get("log_destination")]),
}


RULES: dict[str, Callable[[Stack], Iterator[Problem]]] = {
    "encryption": everything_encrypted,
    "logs": every_log_ends,
    "public": no_public_ingress,
    "recovery": recovery_stays_at_home,
    "regions": no_other_region,
    "secrets": no_secret_in_the_state,
    "wildcards": no_wildcards,
}

"""Every function may do what the table says, and nothing else."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest

from relight.recovery.epoch import LEASE_KEY
from relight.recovery.evidence import HISTORY_KEY
from relight.vault.points import PREFIX, manifest_key
from relight_constructs import access
from relight_constructs.policies import ANY_RESOURCE, Statement, policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synthesis import Synthesis

STANDBY_VAULT = "arn:aws:s3:::relight-demo-vault-000000000000-us-west-2"
PRIMARY_VAULT = "arn:aws:s3:::relight-demo-vault-000000000000-us-east-1"
LEASE = "arn:aws:s3:::relight-demo-lease-000000000000-us-west-2"

READ_SECRET = {"secretsmanager:GetSecretValue connections", "kms:Decrypt operations-key"}
JOIN_NETWORK = {
    f"ec2:{action} *"
    for action in (
        "AssignPrivateIpAddresses",
        "CreateNetworkInterface",
        "DeleteNetworkInterface",
        "DescribeNetworkInterfaces",
        "DescribeSubnets",
        "UnassignPrivateIpAddresses",
    )
}
ENCRYPT_EAST = {"kms:Decrypt us-east-1-keys", "kms:GenerateDataKey us-east-1-keys"}
ENCRYPT_WEST = {"kms:Decrypt us-west-2-keys", "kms:GenerateDataKey us-west-2-keys"}
RECORD = {"s3:PutObject standby-vault/runs/*", "kms:GenerateDataKey us-west-2-keys"}
REVIEW = {"s3:ListBucket standby-vault", "s3:GetObject standby-vault/runs/*", "kms:Decrypt us-west-2-keys"}
READ_LEASE = {"s3:ListBucket lease", "s3:GetObject lease/lease.json", "kms:Decrypt us-west-2-keys"}
REGIONS = {"primary": "us-east-1", "standby": "us-west-2"}
PUBLISH = {"sns:Publish topic", "kms:Decrypt operations-key", "kms:GenerateDataKey operations-key"}
HOLD_LEASE = READ_LEASE | {"s3:PutObject lease/lease.json"} | ENCRYPT_WEST


def seal(vault: str) -> set[str]:
    points = {f"s3:{action} {vault}/points/*" for action in ("AbortMultipartUpload", "PutObject")}
    return {f"s3:ListBucket {vault}", f"s3:GetObject {vault}/points/*/manifest.json"} | points


def restore(role: str) -> set[str]:
    vault, region = f"{role}-vault", REGIONS[role]
    return {
        f"s3:ListBucket {vault}",
        f"s3:GetObject {vault}/points/*",
        f"s3:GetObject {vault}/verified/{region}/*",
        f"kms:Decrypt {region}-keys",
        f"kms:Verify {region}-keys",
    }


def verify_points(role: str) -> set[str]:
    region = REGIONS[role]
    return restore(role) | {f"s3:PutObject {role}-vault/verified/{region}/*", f"kms:GenerateDataKey {region}-keys"}


def verify_or_hand_over(role: str) -> set[str]:
    return verify_points(role) | METRICS | START_WORK


def bring_forward(role: str) -> set[str]:
    return {
        f"s3:ListBucket {role}-vault",
        f"s3:GetObject {role}-vault/journal/*",
        f"kms:Decrypt {REGIONS[role]}-keys",
    }


def prune(role: str) -> set[str]:
    places = (f"{role}-vault/points/*", f"{role}-vault/journal/*", f"{role}-vault/verified/*")
    return (
        restore(role)
        | {f"s3:GetObject{what} {place}" for what in ("", "LegalHold", "Retention") for place in places[:2]}
        | {f"s3:DeleteObject {place}" for place in places}
    )


KEEP_RESULTS = {
    f"{action} {role}-vault{'/results/*' if 'Object' in action else ''}"
    for action in ("s3:ListBucket", "s3:GetObject", "s3:PutObject")
    for role in REGIONS
} | {f"kms:{action} {region}-keys" for action in ("Decrypt", "GenerateDataKey") for region in REGIONS.values()}
METRICS = {"cloudwatch:PutMetricData *"}
START_WORK = {"ecs:RunTask work", "ecs:ListTasks *", "iam:PassRole work-role", "iam:PassRole work-execution"}


def take(role: str) -> set[str]:
    """Take a point into either vault. The journal goes to the own one, and the other is asked before it goes away."""
    other, region = next(item for item in REGIONS.items() if item[0] != role)
    return (
        READ_SECRET
        | READ_LEASE
        | {f"kms:{action} {REGIONS[role]}-keys" for action in ("Sign", "Verify")}
        | seal("primary-vault")
        | seal("standby-vault")
        | bring_forward(role)
        | {f"s3:PutObject {role}-vault/journal/*"}
        | bring_forward(other)
        | {f"s3:GetObject {other}-vault/verified/{region}/*"}
        | ENCRYPT_EAST
        | ENCRYPT_WEST
    )


def hydrate_primary() -> set[str]:
    """Restore a point of either vault, and what follows it. Signatures are checked with the own region's key."""
    points = restore("primary") | restore("standby") - {"kms:Verify us-west-2-keys"}
    record = {"s3:PutObject primary-vault/runs/*", "kms:GenerateDataKey us-east-1-keys"}
    return READ_SECRET | points | bring_forward("primary") | bring_forward("standby") | record


def snapshot(role: str) -> set[str]:
    return take(role) | JOIN_NETWORK | START_WORK


TABLE: dict[str, set[str]] = {
    "assess": JOIN_NETWORK | READ_SECRET | restore("standby") | READ_LEASE | RECORD,
    "fence": HOLD_LEASE | RECORD,
    "promote": JOIN_NETWORK | READ_SECRET | READ_LEASE | RECORD,
    "scale": {
        f"ecs:{action} {what}"
        for action in ("DescribeServices", "UpdateService")
        for what in ("agent", "vector", "nats-0", "cluster")
    }
    | {"application-autoscaling:DescribeScalableTargets *", "application-autoscaling:RegisterScalableTarget bounds"}
    | RECORD,
    "hydrate": JOIN_NETWORK | READ_SECRET | restore("standby") | bring_forward("standby") | RECORD | START_WORK,
    "verify": JOIN_NETWORK | READ_SECRET | READ_LEASE | RECORD,
    "replay": JOIN_NETWORK | READ_SECRET | READ_LEASE | RECORD,
    "open-gate": JOIN_NETWORK | READ_SECRET | READ_LEASE | RECORD,
    "announce": PUBLISH | REVIEW | RECORD,
    "providers": JOIN_NETWORK | READ_SECRET | METRICS,
    "sentinel": READ_LEASE
    | PUBLISH
    | {"s3:GetObject lease/sentinel.json", "s3:PutObject lease/sentinel.json", "states:StartExecution recovery"}
    | {"states:ListExecutions recovery"}
    | ENCRYPT_WEST,
}


def survey(role: str) -> set[str]:
    """See which points there are, by their manifests and what was found of them."""
    vault, region = f"{role}-vault", REGIONS[role]
    return {
        f"s3:ListBucket {vault}",
        f"s3:GetObject {vault}/points/*/manifest.json",
        f"s3:GetObject {vault}/verified/{region}/*",
        f"kms:Decrypt {region}-keys",
    }


def observe(role: str) -> set[str]:
    """See both vaults' points, the lease and the own servers, and say so; read nothing of a point but its manifest."""
    check = {f"kms:Verify {REGIONS[role]}-keys"}
    return JOIN_NETWORK | READ_SECRET | READ_LEASE | survey("primary") | survey("standby") | check | METRICS


# What the functions may do that both regions have.
IN_EACH = {"observe": observe, "prune": prune, "snapshot": snapshot, "verify-points": verify_or_hand_over}

# What is beside the recovery in its stack; the others are in the construct.
BESIDE = {"providers", *IN_EACH}

# What every function has.
TRACE = {"xray:PutTraceSegments *", "xray:PutTelemetryRecords *"}
LETTERS = {"sqs:SendMessage dead-letters", "kms:Decrypt operations-key", "kms:GenerateDataKey operations-key"}


def inside(verb: str) -> str:
    """Where a function or a schedule is in its stack."""
    return verb if verb.removesuffix("-schedule") in BESIDE else f"recovery/{verb}"


def base(verb: str) -> set[str]:
    return TRACE | LETTERS | {f"logs:CreateLogStream log-of-{verb}", f"logs:PutLogEvents log-of-{verb}"}


def statements_of(synthesis: Synthesis, part: str, role_path: str) -> list[dict[str, Any]]:
    """Every statement of every policy of a role."""
    role = synthesis.address_of("aws_iam_role", f"{part}/{role_path}")
    policies = synthesis.resources("aws_iam_role_policy", part=part).values()
    documents = [json.loads(item["policy"]) for item in policies if item["role"] == f"${{{role}.name}}"]
    return [statement for document in documents for statement in document["Statement"]]


def allowed(synthesis: Synthesis, part: str, role_path: str) -> set[str]:
    """What a role may do, as `action resource` with the resources' short names."""
    found = set()
    for statement in statements_of(synthesis, part, role_path):
        if statement["Effect"] == "Allow":
            for action in statement["Action"]:
                for resource in statement["Resource"]:
                    found.add(f"{action} {short(synthesis, part, resource)}")
    return found


def short(synthesis: Synthesis, part: str, resource: str) -> str:
    named = {
        STANDBY_VAULT: "standby-vault",
        PRIMARY_VAULT: "primary-vault",
        LEASE: "lease",
        "arn:aws:kms:us-east-1:000000000000:key/*": "us-east-1-keys",
        "arn:aws:kms:us-west-2:000000000000:key/*": "us-west-2-keys",
        **{
            f"arn:aws:ecs:us-west-2:000000000000:service/relight-demo/{service}": service
            for service in ("agent", "vector", "nats-0")
        },
        "arn:aws:ecs:us-west-2:000000000000:cluster/relight-demo": "cluster",
        "arn:aws:states:us-west-2:000000000000:stateMachine:relight-demo-recovery": "recovery",
        "arn:aws:sns:us-west-2:000000000000:relight-demo-incidents": "incidents",
        **{
            f"arn:aws:sqs:{region}:000000000000:relight-demo-dead-letters": "dead-letters"
            for region in REGIONS.values()
        },
        **{
            f"arn:aws:ecs:{region}:000000000000:task-definition/relight-demo-work:*": "work"
            for region in REGIONS.values()
        },
    }
    if part in ("primary", "standby"):
        named[f"${{{synthesis.address_of('aws_kms_key', f'{part}/key/key')}.arn}}"] = "operations-key"
        for secret in ("connections", "vector-password"):
            named[f"${{{synthesis.address_of('aws_secretsmanager_secret', f'{part}/{secret}/secret')}.arn}}"] = secret
        named[f"${{{synthesis.address_of('aws_sns_topic', f'{part}/incidents/topic')}.arn}}"] = "topic"
        target = synthesis.address_of("aws_appautoscaling_target", f"{part}/agent-scaling/target")
        named[f"${{{target}.arn}}"] = "bounds"
        for role in ("role", "execution"):
            named[f"${{{synthesis.address_of('aws_iam_role', f'{part}/work/{role}/role')}.arn}}"] = f"work-{role}"
    for arn, label in named.items():
        if resource == arn or (resource.startswith(f"{arn}/") and arn in (STANDBY_VAULT, PRIMARY_VAULT, LEASE)):
            return label + resource[len(arn) :]
    if ":log-group:/aws/lambda/relight-demo-" in resource and resource.endswith(":*"):
        return "log-of-" + resource.split("relight-demo-")[1].removesuffix(":*")
    return resource


@pytest.mark.parametrize("verb", sorted(TABLE))
def test_a_function_may_do_what_the_table_says(synthesis: Synthesis, verb: str) -> None:
    """Fails when a permission is added to a function, or taken from it, anywhere but here."""
    assert allowed(synthesis, "standby", f"{inside(verb)}/role/role") == TABLE[verb] | base(verb)


@pytest.mark.parametrize("verb", sorted(IN_EACH))
@pytest.mark.parametrize("part", sorted(REGIONS))
def test_a_function_of_each_region_may_work_on_its_own_vault(synthesis: Synthesis, part: str, verb: str) -> None:
    """Fails when one may do more, or anything in the other region."""
    # The next snapshot makes up for one that failed.
    letters = LETTERS if verb == "snapshot" else set()
    assert allowed(synthesis, part, f"{verb}/role/role") == IN_EACH[verb](part) | (base(verb) - letters)


def test_only_pruning_removes_anything(synthesis: Synthesis) -> None:
    """Whoever seals points, and whoever came by their role, cannot delete one."""
    may = {
        path.split("/")[1]
        for path, item in synthesis.resources("aws_iam_role_policy").items()
        for statement in json.loads(item["policy"])["Statement"]
        if any(action.startswith("s3:Delete") for action in statement["Action"])
    }
    assert may == {"prune"}


def test_the_task_of_large_memories_may_do_what_it_stands_in_for(synthesis: Synthesis) -> None:
    """A snapshot, a hydration and reading points in each region; as none of them is it told to start anything."""
    expected = take("primary") | hydrate_primary() | verify_points("primary")
    assert allowed(synthesis, "primary", "work/role/role") == expected
    hydrate = READ_SECRET | restore("standby") | bring_forward("standby") | RECORD
    assert allowed(synthesis, "standby", "work/role/role") == take("standby") | hydrate | verify_points("standby")


def test_the_primarys_hydration_reads_both_vaults(synthesis: Synthesis) -> None:
    """Fails when it may do more: it writes nothing but its timeline, in its own region's vault."""
    assert allowed(synthesis, "primary", "hydrate/role/role") == (
        hydrate_primary() | JOIN_NETWORK | START_WORK | base("hydrate")
    )


def test_every_function_is_in_a_table(synthesis: Synthesis) -> None:
    """A new function gets its line; those that rehearse have theirs in test_rehearsal."""
    found = {path.split("/")[-2] for part in REGIONS for path in synthesis.resources("aws_lambda_function", part=part)}
    assert found == {*TABLE, *IN_EACH}


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_the_agent_may_read_its_connections_and_hold_the_lease(synthesis: Synthesis, part: str) -> None:
    """Beside those it may keep large results, read the journal's archive, publish metrics and tell people; nothing
    else."""
    own = READ_SECRET | HOLD_LEASE | bring_forward(part) | METRICS | PUBLISH
    assert allowed(synthesis, part, "agent/role/role") == own | KEEP_RESULTS


@pytest.mark.parametrize("part", ["primary", "standby"])
def test_the_vector_database_may_do_nothing(synthesis: Synthesis, part: str) -> None:
    """Its container's role has no policy."""
    assert statements_of(synthesis, part, "vector/role/role") == []


def test_the_state_machine_may_call_its_own_functions_only(synthesis: Synthesis) -> None:
    """Each function that the definition names, and no other."""
    got = allowed(synthesis, "standby", "recovery/machine/role/role")
    prefix = "lambda:InvokeFunction arn:aws:lambda:us-west-2:000000000000:function:relight-demo-"
    verbs = {item.removeprefix(prefix) for item in got if item.startswith(prefix)}
    assert verbs == {
        "assess",
        "fence",
        "promote",
        "scale",
        "hydrate",
        "verify",
        "replay",
        "open-gate",
        "announce",
    }
    others = {item for item in got if not item.startswith(("lambda:", "logs:", "xray:"))}
    tasks = "arn:aws:ecs:us-west-2:000000000000:task/relight-demo/*"
    rule = "arn:aws:events:us-west-2:000000000000:rule/StepFunctionsGetEventsForECSTaskRule"
    assert others == {
        *("ecs:RunTask work", "iam:PassRole work-role", "iam:PassRole work-execution"),
        *(f"ecs:{action} {tasks}" for action in ("DescribeTasks", "StopTask")),
        *(f"events:{action} {rule}" for action in ("DescribeRule", "PutRule", "PutTargets")),
    }
    assert all(item.endswith(" *") for item in got if item.startswith(("logs:", "xray:")))


@pytest.mark.parametrize(
    ("part", "verb"),
    [
        ("standby", "sentinel"),
        ("standby", "providers"),
        *((part, verb) for part in REGIONS for verb in IN_EACH),
    ],
)
def test_a_schedule_may_call_its_own_function_only(synthesis: Synthesis, part: str, verb: str) -> None:
    """A schedule's role may do that, or leave a dead letter."""
    region = REGIONS[part]
    arn = f"arn:aws:lambda:{region}:000000000000:function:relight-demo-{verb}"
    path = f"{inside(f'{verb}-schedule')}/role/role"
    assert allowed(synthesis, part, path) == {f"lambda:InvokeFunction {arn}"} | LETTERS


def test_only_actions_with_a_written_reason_are_allowed_everywhere(
    syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]
) -> None:
    """Fails when a policy of any environment allows `*` for an action whose reason is not in ANY_RESOURCE."""
    seen = set()
    made = [*syntheses.values(), *variants.values()]
    policies = [item for stacks in made for item in stacks.resources("aws_iam_role_policy").values()]
    for item in policies:
        for statement in json.loads(item["policy"])["Statement"]:
            if statement["Effect"] == "Allow" and "*" in statement["Resource"]:
                seen.update(statement["Action"])
            assert not any(action.endswith("*") for action in statement["Action"])
    assert seen == set(ANY_RESOURCE), "a reason that nothing needs is a reason to remove"


def test_a_statement_on_everything_needs_a_reason() -> None:
    """The construct library refuses to write such a policy in the first place."""
    with pytest.raises(ValueError, match="s3:GetObject on every resource; name the resources"):
        Statement(actions=("s3:GetObject",), resources=("*",))


def test_a_statement_about_nothing_is_refused() -> None:
    """An empty list of actions or resources is a mistake."""
    with pytest.raises(ValueError, match="needs actions and resources"):
        Statement(actions=(), resources=("arn:aws:s3:::a",))


def test_equal_statements_make_equal_text() -> None:
    """The order in which actions were written down does not matter."""
    one = Statement(actions=("s3:PutObject", "s3:GetObject"), resources=("arn:aws:s3:::a/*",))
    other = Statement(actions=("s3:GetObject", "s3:PutObject"), resources=("arn:aws:s3:::a/*",))
    assert policy(one) == policy(other)


def test_a_key_of_another_stack_is_used_by_its_alias_and_through_s3(synthesis: Synthesis) -> None:
    """No policy allows a key of every alias: those of the vaults by alias and to S3, the topic's to SNS, the one that
    signs by alias."""
    bound = 0
    for part in ("primary", "standby"):
        for item in synthesis.resources("aws_iam_role_policy", part=part).values():
            for statement in json.loads(item["policy"])["Statement"]:
                if any(resource.endswith(":key/*") for resource in statement["Resource"]):
                    bound += 1
                    region = statement["Resource"][0].split(":")[3]
                    if statement["Action"] in (["kms:Sign"], ["kms:Verify"]):
                        assert statement["Condition"] == {
                            "ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/relight-demo-signing"}
                        }
                        assert region == REGIONS[part]
                        continue
                    if statement["Condition"]["StringEquals"] == {"kms:ViaService": "sns.us-west-2.amazonaws.com"}:
                        alias = {"kms:ResourceAliases": "alias/relight-demo-operations"}
                        assert statement["Condition"]["ForAnyValue:StringEquals"] == alias
                        assert region == "us-west-2"
                        continue
                    assert statement["Condition"] == {
                        "ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/relight-demo-vault"},
                        "StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"},
                    }
    assert bound > 20


def test_listing_a_vault_is_bound_to_a_prefix(synthesis: Synthesis) -> None:
    """Nobody lists a whole vault; the lease's bucket is listed whole, so that a missing lease is told from a 403."""
    for part in ("primary", "standby"):
        for item in synthesis.resources("aws_iam_role_policy", part=part).values():
            for statement in json.loads(item["policy"])["Statement"]:
                if "s3:ListBucket" in statement["Action"] and statement["Resource"] != [LEASE]:
                    prefix = statement["Condition"]["StringLike"]["s3:prefix"]
                    assert prefix in ("points/*", "journal/*", "results/*", "runs/*", "verified/*")


def test_a_handler_in_a_network_may_not_touch_network_interfaces(synthesis: Synthesis) -> None:
    """What Lambda needs for itself is denied to the code that it runs."""
    statements = statements_of(synthesis, "standby", "recovery/hydrate/role/role")
    denied = [statement for statement in statements if statement["Effect"] == "Deny"]
    arn = "arn:aws:lambda:us-west-2:000000000000:function:relight-demo-hydrate"
    condition = {"ArnEquals": {"lambda:SourceFunctionArn": arn}, "Bool": {"aws:ViaAWSService": "false"}}
    assert [statement["Condition"] for statement in denied] == [condition]


def test_who_may_take_on_a_role_is_one_service(synthesis: Synthesis) -> None:
    """Every role trusts one AWS service, on behalf of this account; Lambda, S3's replication, and ECS where it makes
    volumes, do not name it."""
    for path, role in synthesis.resources("aws_iam_role").items():
        (statement,) = json.loads(role["assume_role_policy"])["Statement"]
        (service,) = statement["Principal"].values()
        assert statement["Action"] == "sts:AssumeRole"
        if service in ("ecs.amazonaws.com", "lambda.amazonaws.com", "s3.amazonaws.com"):
            assert "Condition" not in statement, path
        else:
            assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "000000000000"}, path


@pytest.mark.parametrize(("part", "region"), [("primary", "us-east-1"), ("standby", "us-west-2")])
def test_containers_roles_are_for_ecs_in_their_own_region(synthesis: Synthesis, part: str, region: str) -> None:
    """ECS must say on whose behalf it asks: a request that does not is refused."""
    for service in ("agent", "vector"):
        for kind in ("role", "execution"):
            role = synthesis.one("aws_iam_role", f"{part}/{service}/{kind}/role")
            (statement,) = json.loads(role["assume_role_policy"])["Statement"]
            assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
            assert statement["Condition"] == {
                "StringEquals": {"aws:SourceAccount": "000000000000"},
                "ArnLike": {"aws:SourceArn": f"arn:aws:ecs:{region}:000000000000:*"},
            }


def test_the_policies_of_a_role_fit_into_it(synthesis: Synthesis) -> None:
    """IAM refuses more than 10,240 characters of inline policies; an ARN may have 150 where there is a reference."""
    for part in ("vault", "primary", "standby"):
        sizes: dict[str, int] = {}
        for item in synthesis.resources("aws_iam_role_policy", part=part).values():
            text = re.sub(r"\$\{[^}]*\}", "x" * 150, item["policy"])
            sizes[item["role"]] = sizes.get(item["role"], 0) + len(text)
        assert max(sizes.values()) <= 10_240


def test_replication_reads_with_one_key_and_writes_with_the_other(synthesis: Synthesis) -> None:
    """Objects are decrypted in their own region and encrypted in the peer's; both only through S3 there."""
    region = {"primary": "us-east-1", "standby": "us-west-2"}
    for source, target in (("primary", "standby"), ("standby", "primary")):
        statements = statements_of(synthesis, "vault", f"{source}-vault/replication/role")
        by_key = {
            statement["Resource"][0]: (statement["Action"], statement["Condition"]["StringEquals"]["kms:ViaService"])
            for statement in statements
            if statement["Action"][0].startswith("kms:")
        }
        types = {"primary": "aws_kms_replica_key", "standby": "aws_kms_key"}
        keys = {at: f"${{{synthesis.address_of(types[at], f'vault/{at}-vault/key/key')}.arn}}" for at in region}
        assert by_key == {
            keys[source]: (["kms:Decrypt"], f"s3.{region[source]}.amazonaws.com"),
            keys[target]: (["kms:Encrypt", "kms:GenerateDataKey"], f"s3.{region[target]}.amazonaws.com"),
        }


def test_replication_carries_locks_and_changes_none(synthesis: Synthesis) -> None:
    """S3 reads an object's lock with the role, and puts the same on the copy; nobody else's is touched."""
    for source, target in (("primary", "standby"), ("standby", "primary")):
        allowed = {
            (action, resource.partition(".arn}")[2])
            for statement in statements_of(synthesis, "vault", f"{source}-vault/replication/role")
            for action in statement["Action"]
            for resource in statement["Resource"]
            if resource.startswith(f"${{{synthesis.address_of('aws_s3_bucket', f'vault/{source}-vault/bucket/bucket')}")
        }
        assert {("s3:GetObjectRetention", "/*"), ("s3:GetObjectLegalHold", "/*")} <= allowed, target
        assert not {action for action, _ in allowed if action.startswith(("s3:Put", "s3:Bypass", "s3:Delete"))}


def test_the_logs_of_a_region_may_be_encrypted_with_its_key(synthesis: Synthesis) -> None:
    """CloudWatch Logs refuses to make a group with a key whose own policy does not name it."""
    for part, region in (("primary", "us-east-1"), ("standby", "us-west-2")):
        key = synthesis.one("aws_kms_key", f"{part}/key/key")
        (logs,) = (item for item in json.loads(key["policy"])["Statement"] if item["Sid"] == "LogsEncrypt")
        assert logs["Principal"] == {"Service": f"logs.{region}.amazonaws.com"}
        allowed_arn = logs["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
        for group in synthesis.resources("aws_cloudwatch_log_group", part=part).values():
            assert fnmatchcase(f"arn:aws:logs:{region}:000000000000:log-group:{group['name']}", allowed_arn)


def test_alarms_may_use_the_key_of_the_topic(synthesis: Synthesis) -> None:
    """An alarm tells nobody, silently, when the key's own policy does not name it."""
    named = {
        part: [item for item in json.loads(key["policy"])["Statement"] if item["Sid"] == "AlarmsPublish"]
        for part in REGIONS
        for key in [synthesis.one("aws_kms_key", f"{part}/key/key")]
    }
    for (statement,) in named.values():
        assert statement["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
        assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey*"]


def test_rules_may_leave_dead_letters(synthesis: Synthesis) -> None:
    """A rule takes on no role for it: the queue's own policy and its key's let in the environment's rules alone."""
    for part, region in REGIONS.items():
        queue = json.loads(synthesis.one("aws_sqs_queue_policy", f"{part}/dead-letters/policy")["policy"])
        (send,) = (item for item in queue["Statement"] if item["Effect"] == "Allow")
        assert (send["Principal"], send["Action"]) == ({"Service": "events.amazonaws.com"}, ["sqs:SendMessage"])
        rules = send["Condition"]["ArnLike"]["aws:SourceArn"]
        assert rules == f"arn:aws:events:{region}:000000000000:rule/relight-demo-*"
        key = synthesis.one("aws_kms_key", f"{part}/key/key")
        uses = [item["Action"] for item in json.loads(key["policy"])["Statement"] if item["Sid"] == "RulesSend"]
        assert uses == [["kms:Decrypt", "kms:GenerateDataKey*"]]


def test_no_two_roles_share_a_name(synthesis: Synthesis) -> None:
    """IAM is global: two regions' stacks must not make the same role."""
    names = [role["name"] for role in synthesis.resources("aws_iam_role").values()]
    assert len(names) == len(set(names))
    assert max(map(len, names)) <= 64


def test_the_stacks_and_the_handlers_mean_the_same_objects() -> None:
    """Policies name the objects that the runtime writes."""
    assert access.LEASE_OBJECT == LEASE_KEY
    assert access.SENTINEL_OBJECT == HISTORY_KEY
    assert access.POINTS == PREFIX
    assert fnmatchcase(manifest_key("20260419T020000Z"), access.MANIFESTS)

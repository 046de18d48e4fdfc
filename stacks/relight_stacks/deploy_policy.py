"""The IAM policies of whoever plans, deploys or operates an environment, from what its stacks are made of.

Pure: nothing here starts node. Equal stacks make equal text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from relight.config import Role
from relight.errors import ConfigError
from relight_constructs.access import REHEARSALS
from relight_constructs.policies import VERSION, by_alias
from relight_stacks.deploy_calls import CALLS, UNBOUND
from relight_stacks.operate_policy import operating
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from relight_stacks.deploy_calls import Calls
    from relight_stacks.environment import Environment

# What IAM takes for a managed policy, white space not counted, and how many a role has unless more are asked for.
LIMIT = 6_144
MOST = 10
# These have no regions, or one of their own.
_GLOBAL = frozenset({"chatbot", "iam", "route53", "route53-recovery-control-config", "s3"})
_UNBOUND = frozenset(f"{service}:{call}" for service, calls in UNBOUND.items() for call in calls.split())


class May(StrEnum):
    """What the role is for. Who plans changes nothing, and does not lock the state; who rehearses, or operates, deploys
    nothing."""

    PLAN = "plan"
    DEPLOY = "deploy"
    REHEARSE = "rehearse"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True, kw_only=True)
class _On:
    """What a statement is about, and when."""

    resources: tuple[str, ...]
    condition: str = ""


@dataclass(slots=True)
class _Statements:
    """Actions by what they are on: what is on the same, on the same condition, is one statement."""

    actions: dict[_On, set[str]] = field(default_factory=dict)

    def allow(
        self, actions: set[str], resources: tuple[str, ...], condition: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        on = _On(resources=resources, condition=json.dumps(condition, sort_keys=True) if condition else "")
        self.actions.setdefault(on, set()).update(actions)

    def documents(self) -> Iterator[dict[str, Any]]:
        """As IAM reads them; by service, so that a person finds them."""
        for on, actions in sorted(self.actions.items(), key=lambda item: (sorted(item[1])[0], item[0].resources)):
            statement: dict[str, Any] = {"Effect": "Allow", "Action": sorted(actions), "Resource": list(on.resources)}
            if on.condition:
                statement["Condition"] = json.loads(on.condition)
            yield statement


def read_stacks(output: Path, environment: str) -> dict[str, dict[str, Any]]:
    """The environment's stacks by their names, from what a synthesis wrote, or from its folder of stacks; ConfigError
    when it wrote none of them."""
    if output.name == "stacks" and not (output / "manifest.json").is_file():
        output = output.absolute().parent
    names = json.loads((output / "manifest.json").read_text())["stacks"] if (output / "manifest.json").is_file() else {}
    found: dict[str, dict[str, Any]] = {}
    for name, about in sorted(names.items()):
        if name.rpartition("-")[0] == environment:
            found[name] = json.loads((output / about["synthesizedStackPath"]).read_text())
    if not found:
        raise ConfigError(
            f"{output} has no stack of {environment}", hint="synthesize it there, or leave the folder out"
        )
    return found


def types_of(stacks: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Every type in the stacks, as CALLS has them."""
    kinds = {"resource": "", "data": "data.", "ephemeral": "ephemeral."}
    return {f"{kinds[kind]}{type_}" for stack in stacks.values() for kind in kinds for type_ in stack.get(kind, {})}


def policies(stacks: Mapping[str, Mapping[str, Any]], environment: Environment, may: May) -> dict[str, dict[str, Any]]:
    """The policies by name, each within IAM's limit; the role has all of them.

    Raises ConfigError for a type that CALLS does not know, and for more policies than a role has.
    """
    statements = _Statements()
    if may is May.REHEARSE:
        _rehearse(statements, environment)
        return _named(statements, environment, may)
    if may is May.OPERATE:
        for actions, resources, condition in operating(stacks, environment):
            statements.allow(actions, resources, condition)
        return _named(statements, environment, may)
    types = types_of(stacks)
    if unknown := sorted(types - set(CALLS)):
        raise ConfigError(
            f"it is not written which calls {', '.join(unknown)} needs", hint="add it to relight_stacks/deploy_calls.py"
        )
    trusted = _trusted(stacks)
    for type_ in sorted(types):
        for calls in CALLS[type_]:
            _allow(statements, calls, environment, may, passed_to=trusted)
    _state(statements, stacks, may)
    return _named(statements, environment, may)


def _named(statements: _Statements, environment: Environment, may: May) -> dict[str, dict[str, Any]]:
    packed = _pack(list(statements.documents()))
    if len(packed) > MOST:
        raise ConfigError(
            f"{environment.name} needs {len(packed)} policies to {may}, and a role has {MOST} at most",
            hint="let more calls of relight_stacks/deploy_calls.py be on the same resources",
        )
    prefix = environment.names.prefix
    return {
        f"{prefix}-{may}-{number}": {"Version": VERSION, "Statement": statement}
        for number, statement in enumerate(packed, start=1)
    }


def _allow(
    statements: _Statements, calls: Calls, environment: Environment, may: May, *, passed_to: tuple[str, ...]
) -> None:
    wanted = {f"{calls.service}:{call}" for call in calls.look.split()}
    if may is May.DEPLOY:
        wanted |= {f"{calls.service}:{call}" for call in calls.change.split()}
    regions = tuple(sorted({environment.regions.primary, environment.regions.standby}))
    if anywhere := wanted & _UNBOUND:
        bound = None if calls.service in _GLOBAL else {"StringEquals": {"aws:RequestedRegion": list(regions)}}
        statements.allow(anywhere, ("*",), bound)
    condition = dict(calls.condition)
    if wanted == {"iam:PassRole"}:
        condition = {"StringEquals": {"iam:PassedToService": list(passed_to)}}
    if somewhere := wanted - _UNBOUND:
        names = environment.names
        arns = {
            arn.format(
                account=environment.account,
                prefix=names.prefix,
                environment=environment.name,
                region=region,
                cluster=environment.capacity.cluster,
            )
            for arn in calls.on
            for region in regions
        }
        statements.allow(somewhere, tuple(sorted(arns)), condition)


def _trusted(stacks: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The services that the stacks' own roles are for."""
    trust = [
        json.loads(role["assume_role_policy"])
        for stack in stacks.values()
        for role in stack.get("resource", {}).get("aws_iam_role", {}).values()
    ]
    return tuple(sorted({item["Principal"]["Service"] for document in trust for item in document["Statement"]}))


def _state(statements: _Statements, stacks: Mapping[str, Mapping[str, Any]], may: May) -> None:
    """Read the states, and, where something is deployed, write and lock them."""
    for stack in stacks.values():
        backend = stack["terraform"]["backend"]["s3"]
        bucket, key = f"arn:aws:s3:::{backend['bucket']}", backend["key"]
        statements.allow({"s3:ListBucket"}, (bucket,))
        actions = {"s3:GetObject"} | ({"s3:PutObject"} if may is May.DEPLOY else set())
        statements.allow(actions, (f"{bucket}/{key}",))
        if may is May.DEPLOY:
            statements.allow({"s3:DeleteObject", "s3:GetObject", "s3:PutObject"}, (f"{bucket}/{key}.tflock",))


def _rehearse(statements: _Statements, environment: Environment) -> None:
    """Start the machine that rehearses, wait for it, and read what it recorded: `relight rehearse --apart`."""
    if not environment.rehearsed:
        raise ConfigError(
            f"{environment.name} rehearses nothing", hint="give it a standby and a schedule, [recovery] rehearse"
        )
    names, settings = environment.names, settings_for(environment, Role.STANDBY)
    region, account, vault = names.standby_region, environment.account, f"arn:aws:s3:::{settings.vault_bucket}"
    statements.allow({"states:StartExecution"}, (names.rehearsal_machine_arn,))
    executions = f"arn:aws:states:{region}:{account}:execution:{names.rehearsal}:*"
    statements.allow({"states:DescribeExecution"}, (executions,))
    if settings.vault_endpoint:
        # The service ends a secret's ARN with a hyphen and six letters that nobody can compute.
        secret = f"arn:aws:secretsmanager:{region}:{account}:secret:{settings.vault_keys_secret}-??????"
        statements.allow({"secretsmanager:GetSecretValue"}, (secret,))
        key = by_alias(names.operations_key_alias, via=f"secretsmanager.{region}")
    else:
        statements.allow({"s3:ListBucket"}, (vault,), {"StringLike": {"s3:prefix": f"{REHEARSALS}*"}})
        statements.allow({"s3:GetObject"}, (f"{vault}/{REHEARSALS}*",))
        key = by_alias(names.vault_key_alias, via=f"s3.{region}")
    statements.allow({"kms:Decrypt"}, (f"arn:aws:kms:{region}:{account}:key/*",), key)


def size(document: Mapping[str, Any]) -> int:
    """How much of the limit a policy takes."""
    return len("".join(json.dumps(document, separators=(",", ":")).split()))


def _pack(statements: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The statements in policies, each in the first one where it fits; ConfigError for one that alone is too long."""
    packed: list[list[dict[str, Any]]] = []
    for statement in statements:
        if (alone := size({"Version": VERSION, "Statement": [statement]})) > LIMIT:
            raise ConfigError(
                f"the statement of {statement['Action'][0]} takes {alone} characters, and IAM takes {LIMIT}",
                hint="divide it in relight_stacks/deploy_calls.py",
            )
        for group in packed:
            if size({"Version": VERSION, "Statement": [*group, statement]}) <= LIMIT:
                group.append(statement)
                break
        else:
            packed.append([statement])
    return packed

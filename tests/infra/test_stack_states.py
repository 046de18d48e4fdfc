"""Where each stack keeps Terraform's state: at home, encrypted, locked, and nowhere that the other region's loss takes.

What is asserted of `demo` by name in `test_stacks.py` is asserted here of every environment.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from provider_schema import VERSION
from synthesis import ENVIRONMENTS

from relight.config import Role
from relight_stacks.loading import examples_folder, load_environments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from synthesis import Synthesis

    from relight_stacks.environment import Environment

STACKS = [(environment, part) for environment, parts in ENVIRONMENTS.items() for part in parts]
# What is in `terraform`; `required_version` would make checkov read nothing, and pass.
BLOCKS = {"backend", "required_providers"}


@pytest.fixture(scope="session")
def environments() -> Mapping[str, Environment]:
    """Each environment by its name."""
    loaded = [*load_environments(), *load_environments(examples_folder())]
    return {environment.name: environment for environment in loaded}


def home_of(environment: Environment, part: str) -> str:
    """The region that a stack belongs to: the primary's own is in the primary, everything else must outlive it."""
    return environment.names.region(Role.PRIMARY if part == "primary" else Role.STANDBY)


def state_problems(environment: Environment, part: str, stack: Mapping[str, Any]) -> list[str]:
    """What is wrong with where a stack keeps its state."""
    terraform, home = stack["terraform"], home_of(environment, part)
    found = [f"terraform.{name} is not wanted" for name in sorted(set(terraform) - BLOCKS)]
    backend = terraform.get("backend", {})
    if set(backend) != {"s3"}:
        return [*found, f"the state is kept in {', '.join(backend) or 'a file'}"]
    wanted = {
        "bucket": environment.names.state_bucket(home),
        "encrypt": True,
        "key": f"{environment.names.stack(part)}.tfstate",
        "region": home,
        "use_lockfile": True,
    }
    found += [f"{name} is {backend['s3'].get(name)}" for name in wanted if backend["s3"].get(name) != wanted[name]]
    found += [f"{name} is not wanted" for name in sorted(set(backend["s3"]) - set(wanted))]
    own = [provider for provider in stack["provider"]["aws"] if "alias" not in provider]
    if [provider["region"] for provider in own] != [home]:
        found.append(f"the provider is in {own}")
    for provider in stack["provider"]["aws"]:
        if provider.get("allowed_account_ids") != [environment.account]:
            found.append("a provider takes any account")
        if set(provider) - {"alias", "allowed_account_ids", "region"}:
            found.append("a provider has credentials or endpoints of its own")
    source = terraform["required_providers"].get("aws")
    if terraform["required_providers"].keys() != {"aws"} or source != {"source": "aws", "version": VERSION}:
        found.append(f"the providers are {terraform['required_providers']}")
    # The zone by its name, which is no region's.
    found += [f"{type_} is read at plan time" for type_ in sorted(set(stack.get("data", {})) - {"aws_route53_zone"})]
    return found


@pytest.mark.parametrize(("environment", "part"), STACKS)
def test_state_is_kept_at_home(
    syntheses: Mapping[str, Synthesis], environments: Mapping[str, Environment], environment: str, part: str
) -> None:
    """In the bucket of the stack's own region, under a key of its own, encrypted and locked; one pinned provider that
    takes no other account; and no `required_version`."""
    assert state_problems(environments[environment], part, syntheses[environment].stacks[part]) == []


def test_no_two_stacks_share_a_state(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when one stack would take another's resources for its own."""
    places = Counter(
        (backend["bucket"], backend["key"])
        for made in syntheses.values()
        for stack in made.stacks.values()
        for backend in [stack["terraform"]["backend"]["s3"]]
    )
    assert set(places.values()) == {1}
    assert len(places) == len(STACKS)


def test_no_two_stacks_share_a_name(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when two stacks of one account would make something of the same name, in the same region or globally."""
    named = {
        "aws_cloudwatch_log_group": "name",
        "aws_ecs_cluster": "name",
        "aws_iam_role": "name",
        "aws_kms_alias": "name",
        "aws_lambda_function": "function_name",
        "aws_lb": "name",
        "aws_lb_target_group": "name",
        "aws_s3_bucket": "bucket",
        "aws_scheduler_schedule": "name",
        "aws_secretsmanager_secret": "name",
        "aws_sfn_state_machine": "name",
        "aws_sns_topic": "name",
        "aws_sqs_queue": "name",
    }
    everywhere = ("aws_iam_role", "aws_s3_bucket")
    seen: Counter[tuple[str, ...]] = Counter()
    for made in syntheses.values():
        for stack in made.stacks.values():
            regions = {
                f"aws.{provider['alias']}" if "alias" in provider else "aws": provider
                for provider in stack["provider"]["aws"]
            }
            for type_, name in named.items():
                for body in stack["resource"].get(type_, {}).values():
                    provider = regions[body.get("provider", "aws")]
                    place = "" if type_ in everywhere else provider["region"]
                    seen[(type_, provider["allowed_account_ids"][0], place, body[name])] += 1
    assert [place for place, times in seen.items() if times > 1] == []


def a_required_version(stack: dict[str, Any]) -> None:
    stack["terraform"]["required_version"] = ">= 1.11"


def state_in_a_file(stack: dict[str, Any]) -> None:
    stack["terraform"]["backend"] = {"local": {}}


def state_of_the_other_region(stack: dict[str, Any]) -> None:
    backend = stack["terraform"]["backend"]["s3"]
    backend["bucket"] = backend["bucket"].replace("us-west-2", "us-east-1")


def state_without_a_lock(stack: dict[str, Any]) -> None:
    del stack["terraform"]["backend"]["s3"]["use_lockfile"]


def state_in_the_open(stack: dict[str, Any]) -> None:
    stack["terraform"]["backend"]["s3"]["encrypt"] = False


def state_with_credentials(stack: dict[str, Any]) -> None:
    stack["terraform"]["backend"]["s3"]["access_key"] = "letters"


def state_of_another_stack(stack: dict[str, Any]) -> None:
    stack["terraform"]["backend"]["s3"]["key"] = "demo-primary.tfstate"


def any_provider(stack: dict[str, Any]) -> None:
    stack["terraform"]["required_providers"]["aws"]["version"] = "~> 6.0"


def any_account(stack: dict[str, Any]) -> None:
    del stack["provider"]["aws"][0]["allowed_account_ids"]


def the_other_region(stack: dict[str, Any]) -> None:
    stack["provider"]["aws"][0]["region"] = "us-east-1"


def an_endpoint_of_its_own(stack: dict[str, Any]) -> None:
    stack["provider"]["aws"][0]["endpoints"] = [{"s3": "http://127.0.0.1"}]


def a_read_of_another_state(stack: dict[str, Any]) -> None:
    stack.setdefault("data", {})["terraform_remote_state"] = {"primary": {"backend": "s3"}}


def a_read_of_the_other_region(stack: dict[str, Any]) -> None:
    stack.setdefault("data", {})["aws_db_instance"] = {"primary": {"db_instance_identifier": "relight-demo-state"}}


SABOTAGE: dict[Callable[[dict[str, Any]], None], str] = {
    a_required_version: "terraform.required_version is not wanted",
    state_in_a_file: "the state is kept in local",
    state_of_the_other_region: "bucket is relight-demo-state-000000000000-us-east-1",
    state_without_a_lock: "use_lockfile is None",
    state_in_the_open: "encrypt is False",
    state_with_credentials: "access_key is not wanted",
    state_of_another_stack: "key is demo-primary.tfstate",
    any_provider: "the providers are",
    any_account: "a provider takes any account",
    the_other_region: "the provider is in",
    an_endpoint_of_its_own: "a provider has credentials or endpoints of its own",
    a_read_of_another_state: "terraform_remote_state is read at plan time",
    a_read_of_the_other_region: "aws_db_instance is read at plan time",
}


@pytest.mark.parametrize("break_it", SABOTAGE, ids=lambda function: function.__name__)
def test_a_misplaced_state_is_noticed(
    synthesis: Synthesis, environments: Mapping[str, Environment], break_it: Callable[[dict[str, Any]], None]
) -> None:
    """fails when a stack could keep its state elsewhere, or deploy elsewhere, unseen."""
    stack = deepcopy(synthesis.stacks["standby"])
    break_it(stack)
    (problem,) = state_problems(environments["demo"], "standby", stack)
    assert SABOTAGE[break_it] in problem

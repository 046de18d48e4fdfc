"""What is made has names that AWS takes, however long an environment's name and its regions' are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import botocore.session
from infra.variants import LONGEST_REGIONS, variations

from relight_stacks.environment import LONGEST_NAME
from relight_stacks.loading import examples_folder, load_environments, load_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from synthesis import Synthesis
# What AWS takes of each; all others are shorter by far. Source: the services' API references.
LIMITS = {
    "aws_db_instance": ("identifier", 63),
    "aws_iam_instance_profile": ("name", 128),
    "aws_iam_role": ("name", 64),
    "aws_lambda_function": ("function_name", 64),
    "aws_lb": ("name", 32),
    "aws_lb_target_group": ("name", 32),
    "aws_s3_bucket": ("bucket", 63),
    "aws_scheduler_schedule": ("name", 64),
    "aws_cloudwatch_event_rule": ("name", 64),
    "aws_sfn_state_machine": ("name", 80),
    "aws_sqs_queue": ("name", 80),
}


def named(found: Synthesis) -> Iterator[tuple[str, str, int]]:
    """Every name that is limited, with where it is and the limit."""
    for part, type_, path, body in found.every():
        if type_ in LIMITS:
            attribute, most = LIMITS[type_]
            yield f"{part}/{path}", body[attribute], most


def test_the_longest_names_are_made(variants: Mapping[str, Synthesis]) -> None:
    """Of an environment that is called as long as one may be, in regions that no other has a longer name than."""
    regions = botocore.session.get_session().get_available_regions("ec2")
    longest = max(map(len, regions))
    assert {len(LONGEST_REGIONS.primary), len(LONGEST_REGIONS.standby)} == {longest}
    (name,) = [item.name for item in variations() if len(item.name) == LONGEST_NAME]
    found = list(named(variants[name]))
    assert any(called.endswith(LONGEST_REGIONS.primary) for _, called, most in found if most == 64)
    assert [(path, called) for path, called, most in found if len(called) > most] == []


def test_the_names_of_what_others_choose_fit_too(
    syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]
) -> None:
    """fails when a name that only some environments have would be too long in the longest one."""
    made = {**syntheses, **variants}
    for environment in (load_named("demo"), *load_environments(examples_folder()), *variations()):
        name, regions = environment.name, environment.regions
        for path, called, most in named(made[name]):
            grown = called.replace(name, "x" * LONGEST_NAME, 1)
            for region in (regions.primary, regions.standby):
                grown = grown.replace(region, LONGEST_REGIONS.primary)
            assert len(grown) <= most, f"{name}/{path}: {called}"

"""What makes recovery points is the same in both regions, and what a function cannot end in time is a task's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from relight.config import Role, Settings
from relight.recovery.large import CONTAINER
from relight.recovery.metrics import DAMAGED, NAMESPACE, VERIFY_LAG
from relight_constructs.work import ENTRY_POINT
from relight_stacks.loading import load_named
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from synthesis import Synthesis

REGIONS = {"primary": "us-east-1", "standby": "us-west-2"}
EACH = pytest.mark.parametrize("part", sorted(REGIONS))


def block(value: Any) -> Any:
    """A nested block that may appear once."""
    return value[0] if isinstance(value, list) else value


@EACH
def test_points_are_taken_in_each_region_and_one_at_a_time(synthesis: Synthesis, part: str) -> None:
    """The one that does not hold the lease seals nothing; relit, it goes on without a deployment."""
    snapshot = synthesis.one("aws_lambda_function", f"{part}/snapshot/function")
    assert snapshot["reserved_concurrent_executions"] == 1
    schedule = synthesis.one("aws_scheduler_schedule", f"{part}/snapshot-schedule/schedule")
    assert schedule["schedule_expression"] == "rate(5 minutes)"


@EACH
def test_people_are_told_when_no_point_is_sealed(synthesis: Synthesis, part: str) -> None:
    """By the topic of the function's own region, looking at as long as lies between two points."""
    alarm = synthesis.one("aws_cloudwatch_metric_alarm", f"{part}/snapshot-errors/alarm")
    assert (alarm["namespace"], alarm["metric_name"], alarm["period"]) == ("AWS/Lambda", "Errors", 300)
    assert alarm["dimensions"] == {"FunctionName": "relight-demo-snapshot"}
    topic = synthesis.address_of("aws_sns_topic", f"{part}/incidents/topic")
    assert alarm["alarm_actions"] == [f"${{{topic}.arn}}"]


@EACH
def test_people_are_told_of_points_that_nobody_read_and_of_damaged_ones(synthesis: Synthesis, part: str) -> None:
    """Two runs of the function are looked at. One that finds damage rings; that none published is bad too, where it is
    asked what nobody has read."""
    schedule = synthesis.one("aws_scheduler_schedule", f"{part}/verify-points-schedule/schedule")
    assert schedule["schedule_expression"] == "rate(15 minutes)"
    topic = synthesis.address_of("aws_sns_topic", f"{part}/incidents/topic")
    for name, metric, threshold, looks, missing in (
        ("verify-lag", VERIFY_LAG, 86_400, 2, "breaching"),
        ("points-damaged", DAMAGED, 1, 1, "notBreaching"),
    ):
        alarm = synthesis.one("aws_cloudwatch_metric_alarm", f"{part}/{name}/alarm")
        assert (alarm["namespace"], alarm["metric_name"], alarm["statistic"]) == (NAMESPACE, metric, "Maximum")
        assert alarm["dimensions"] == {"environment": "demo", "region": REGIONS[part]}
        assert (alarm["threshold"], alarm["period"], alarm["evaluation_periods"]) == (threshold, 900, 2)
        assert (alarm["datapoints_to_alarm"], alarm["treat_missing_data"]) == (looks, missing)
        assert alarm["alarm_actions"] == [f"${{{topic}.arn}}"]


@EACH
def test_people_are_told_of_dead_letters(synthesis: Synthesis, part: str) -> None:
    """The queue that every function of the stack leaves its letters in is encrypted with the region's own key. Only
    snapshots leave none, which the next one makes up for."""
    queue = synthesis.one("aws_sqs_queue", f"{part}/dead-letters/queue")
    assert queue["kms_master_key_id"] == f"${{{synthesis.address_of('aws_kms_key', f'{part}/key/key')}.arn}}"
    arn = f"arn:aws:sqs:{REGIONS[part]}:000000000000:{queue['name']}"
    functions = synthesis.resources("aws_lambda_function", part=part).values()
    letters = {
        item["function_name"]: block(item["dead_letter_config"]) for item in functions if "dead_letter_config" in item
    }
    assert {item["function_name"] for item in functions} - {*letters} == {"relight-demo-snapshot"}
    assert all(where == {"target_arn": arn} for where in letters.values())
    alarm = synthesis.one("aws_cloudwatch_metric_alarm", f"{part}/dead-letters/waiting/alarm")
    assert alarm["dimensions"] == {"QueueName": queue["name"]}
    assert (alarm["metric_name"], alarm["threshold"]) == ("ApproximateNumberOfMessagesVisible", 1)


@EACH
def test_snapshots_that_were_overtaken_are_dropped(synthesis: Synthesis, part: str) -> None:
    """One that finds another at work waits no longer than until the next is due: they would gather for six hours."""
    every = synthesis.one("aws_scheduler_schedule", f"{part}/snapshot-schedule/schedule")["schedule_expression"]
    dropped = synthesis.one("aws_lambda_function_event_invoke_config", f"{part}/snapshot/dropped")
    assert every == "rate(5 minutes)"
    assert dropped["maximum_event_age_in_seconds"] == 300
    assert (
        dropped["function_name"]
        == f"${{{synthesis.address_of('aws_lambda_function', f'{part}/snapshot/function')}.function_name}}"
    )


@EACH
def test_what_is_large_is_done_by_the_agents_image(synthesis: Synthesis, part: str) -> None:
    """It holds the library, and is in the region's registry. The task is told what the region's agents are told, has a
    disk, and writes nowhere else than to it."""
    definition = synthesis.one("aws_ecs_task_definition", f"{part}/work/task")
    (container,) = json.loads(definition["container_definitions"])
    environment = load_named("demo")
    assert container["image"] == environment.agent.image.replace("{region}", REGIONS[part])
    assert (container["name"], container["entryPoint"]) == (CONTAINER, list(ENTRY_POINT))
    assert container["readonlyRootFilesystem"] is True
    told = {item["name"]: item["value"] for item in container["environment"]}
    assert Settings.from_env(told) == settings_for(environment, Role(part)), "a task hands over to no other"
    assert block(definition["ephemeral_storage"]) == {"size_in_gib": 50}


@pytest.mark.parametrize(
    ("part", "path"),
    [("primary", "snapshot"), ("primary", "hydrate"), ("standby", "snapshot"), ("standby", "recovery/hydrate")],
)
def test_functions_start_the_task_that_is_defined(synthesis: Synthesis, part: str, path: str) -> None:
    """In the network of the functions, which reaches the region's own servers. What reads points is outside of it, and
    starts the same."""
    function = synthesis.one("aws_lambda_function", f"{part}/{path}/function")
    variables = block(function["environment"])["variables"]
    definition = synthesis.one("aws_ecs_task_definition", f"{part}/work/task")
    assert variables["RELIGHT_LARGE_TASK"] == definition["family"]
    assert variables["RELIGHT_LARGE_BYTES"] == str(load_named("demo").large_work.above_gib * 1024**3)
    network = block(function["vpc_config"])
    assert variables["RELIGHT_LARGE_SUBNETS"].split(",") == network["subnet_ids"]
    assert variables["RELIGHT_LARGE_GROUPS"].split(",") == network["security_group_ids"]
    verify = synthesis.one("aws_lambda_function", f"{part}/verify-points/function")
    told = block(verify["environment"])["variables"]
    large = {name for name in variables if name.startswith("RELIGHT_LARGE_")}
    assert {name: told[name] for name in large} == {name: variables[name] for name in large}

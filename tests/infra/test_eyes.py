"""What each region shows of itself, when it tells people, and whom: on the JSON of every environment."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import ENVIRONMENTS, ROOT, Synthesis

from relight.config import Role, StateKind
from relight.recovery.gauges import Surface
from relight.recovery.metrics import NAMESPACE
from relight_constructs.dashboard import COLUMNS, MOST_METRICS, MOST_WIDGETS, body
from relight_constructs.props import GraphProps, Metric, Note
from relight_stacks.eyes import CHAT_REGIONS, chat_region, limit_s
from relight_stacks.loading import examples_folder, load_environments
from relight_stacks.promises import promises

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from relight_stacks.environment import Environment

NAMED: dict[str, Environment] = {
    item.name: item for item in (*load_environments(), *load_environments(examples_folder()))
}
REGIONAL = [(name, part) for name, parts in ENVIRONMENTS.items() for part in parts if part in ("primary", "standby")]
ALARM = "aws_cloudwatch_metric_alarm"


@dataclass(frozen=True)
class Shown:
    """A metric that a widget shows, or an alarm is on."""

    where: str
    namespace: str
    metric: str
    dimensions: dict[str, str]


def dashboard(made: Synthesis, part: str) -> list[dict[str, Any]]:
    """The widgets of a region's page."""
    (resource,) = made.resources("aws_cloudwatch_dashboard", part=part).values()
    widgets: list[dict[str, Any]] = json.loads(resource["dashboard_body"])["widgets"]
    return widgets


def shown(made: Synthesis, part: str) -> Iterator[Shown]:
    """Every metric that a stack names, on its dashboard and in its alarms."""
    for path, alarm in made.resources(ALARM, part=part).items():
        yield Shown(path, alarm["namespace"], alarm["metric_name"], alarm["dimensions"])
    if "aws_cloudwatch_dashboard" not in made.stacks[part]["resource"]:
        return
    for widget in dashboard(made, part):
        for namespace, name, *rest in widget["properties"].get("metrics", ()):
            names, values = rest[:-1:2], rest[1:-1:2]
            yield Shown(widget["properties"]["title"], namespace, name, dict(zip(names, values, strict=True)))


def alarms(made: Synthesis, part: str) -> dict[str, dict[str, Any]]:
    """A region's alarms by their name without the environment's."""
    prefix = f"relight-{made.environment}-"
    return {item["alarm_name"].removeprefix(prefix): item for item in made.resources(ALARM, part=part).values()}


@pytest.mark.parametrize(("name", "part"), REGIONAL)
def test_a_page_shows_a_region_of_its_own(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """fails when a widget asks another region, which may be gone, or another environment, or leaves the grid."""
    made, environment = syntheses[name], NAMED[name]
    region = environment.names.region(Role(part))
    widgets = dashboard(made, part)
    assert 0 < len(widgets) <= MOST_WIDGETS
    taken: set[tuple[int, int]] = set()
    for widget in widgets:
        assert widget["properties"].get("region", region) == region
        cells = {
            (x, y)
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        }
        assert not cells & taken, "widgets lie over each other"
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells
        assert len(widget["properties"].get("metrics", ())) <= MOST_METRICS
    for item in shown(made, part):
        if item.namespace == NAMESPACE:
            assert (item.dimensions["environment"], item.dimensions["region"]) == (name, region)
            known = {
                "surface": {*Surface},
                "provider": {spec.name for spec in environment.providers},
                "collection": {spec.name for spec in environment.memory.collections},
            }
            for key in {*item.dimensions} - {"environment", "region"}:
                assert item.dimensions[key] in known[key], item


@pytest.mark.parametrize(("name", "part"), REGIONAL)
def test_a_page_has_what_a_region_is_asked_about(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """What each surface would lose, the newest point's age, the lag, the gate, the epoch; breakers where providers are;
    in a standby the last rehearsal; and how every alarm of the stack stands."""
    made, environment = syntheses[name], NAMED[name]
    widgets = dashboard(made, part)
    named = {item.metric for item in shown(made, part) if "/" not in item.where}
    expected = {
        *("ExposureSeconds", "PointAgeSeconds", "ReplicationLagSeconds", "GateOpen", "Served", "Epoch", "LeaseHeld"),
        *("JournalLagSeconds", "PromiseBrokenSeconds", "LooksFailed"),
    }
    if environment.providers:
        expected |= {"ProviderBreakerOpen", "ProvidersAvailable"}
    if part == "standby":
        expected |= {"RehearsalAgeSeconds", "ExecutionsSucceeded"}
    assert expected <= named
    surfaces = {item.dimensions.get("surface") for item in shown(made, part)}
    assert {*Surface} <= surfaces
    (page,) = (widget["properties"] for widget in widgets if widget["type"] == "alarm")
    region, account = environment.names.region(Role(part)), environment.account
    arns = {f"arn:aws:cloudwatch:{region}:{account}:alarm:{item['alarm_name']}" for item in alarms(made, part).values()}
    assert {*page["alarms"]} == arns


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_pages_have_names_of_their_own(syntheses: Mapping[str, Synthesis], name: str) -> None:
    """Dashboards are an account's, of no region: two regions' pages of one name would overwrite each other."""
    found = syntheses[name].resources("aws_cloudwatch_dashboard")
    names = [item["dashboard_name"] for item in found.values()]
    assert len({*names}) == len(names) == len([part for part in syntheses[name].parts if (name, part) in REGIONAL])


@pytest.mark.parametrize(("name", "part"), REGIONAL)
def test_half_of_each_objective_tells_people(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """fails when an objective has no alarm at its half, or one that rings while all is as it is configured, or one that
    comes after the objective; what is missing is as bad as what is too large."""
    made, environment = syntheses[name], NAMED[name]
    rpo_s, rto_s = environment.objectives.rpo_s, environment.objectives.rto_s
    found = alarms(made, part)
    copied = environment.shape.state is StateKind.SNAPSHOTS
    surfaces = {key.removeprefix("exposure-") for key in found if key.startswith("exposure-")}
    assert surfaces == (set() if copied else {*Surface})
    usual_s = {item.name: item.seconds for item in promises(environment).rpo}
    for surface in surfaces:
        threshold = found[f"exposure-{surface}"]["threshold"]
        assert rpo_s / 2 <= threshold <= rpo_s
        if surface != Surface.MEMORY:
            assert threshold == max(rpo_s / 2, usual_s["RPO of state"])
    told = "replication-lag" in found
    assert told is (environment.shape.standby and (part == "standby" or not copied))
    if told:
        assert rpo_s / 2 <= found["replication-lag"]["threshold"] <= rpo_s
    served = found["served"]
    after_s = served["period"] * served["evaluation_periods"]
    assert (served["comparison_operator"], served["threshold"]) == ("LessThanThreshold", 1)
    assert after_s == rto_s / 2 or rto_s / 2 - served["period"] < after_s <= rto_s / 2
    for key in (*(f"exposure-{surface}" for surface in surfaces), "served", "point-age"):
        assert found[key]["treat_missing_data"] == "breaching"


@pytest.mark.parametrize(("name", "part"), REGIONAL)
def test_every_alarm_is_one_that_cloudwatch_takes(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """At most a day is looked at, in periods that it has, with a topic of the alarm's own region, when it goes off and
    when it is well."""
    made = syntheses[name]
    topic = f"${{{made.address_of('aws_sns_topic', f'{part}/incidents/topic')}.arn}}"
    for key, alarm in alarms(made, part).items():
        assert alarm["period"] in (10, 30) or alarm["period"] % 60 == 0, key
        assert alarm["period"] * alarm["evaluation_periods"] <= 86_400, key
        assert alarm["datapoints_to_alarm"] <= alarm["evaluation_periods"], key
        assert alarm["alarm_actions"] == alarm["ok_actions"] == [topic], key
        assert alarm["alarm_description"], key


@pytest.mark.parametrize(("name", "part"), REGIONAL)
def test_nobody_looking_is_told(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """fails when the function that looks can fail, or not be called, in silence."""
    made = syntheses[name]
    alarm = alarms(made, part)["observe-errors"]
    assert alarm["dimensions"] == {"FunctionName": f"relight-{name}-observe"}
    assert alarm["treat_missing_data"] == "breaching"
    schedule = made.one("aws_scheduler_schedule", f"{part}/observe-schedule/schedule")
    assert schedule["schedule_expression"] == "rate(1 minute)"


@pytest.mark.parametrize("name", sorted(NAMED))
def test_limits_leave_room_for_what_is_usual(name: str) -> None:
    """Half of the objective, unless the environment is further behind than that while all is well."""
    environment = NAMED[name]
    for surface in Surface:
        assert environment.objectives.rpo_s / 2 <= limit_s(environment, surface) <= environment.objectives.rpo_s


def test_the_page_about_it_names_all_of_it(syntheses: Mapping[str, Synthesis]) -> None:
    """fails when a metric or an alarm is added, renamed or dropped, and docs/eyes.md not."""
    text = (ROOT / "docs" / "eyes.md").read_text()
    told = {word for part in re.findall(r"`([^`]+)`", text) for word in part.split(", ")}
    named = {item.metric for name, part in REGIONAL for item in shown(syntheses[name], part) if "/" not in item.where}
    assert {metric for metric in named if not metric.startswith("Executions")} <= told
    kept = {key.split("-")[0] for name, part in REGIONAL for key in alarms(syntheses[name], part)}
    rows = re.findall(r"^\| `([a-z-]+)[`<-]", text, re.MULTILINE)
    assert rows
    assert {row.split("-")[0] for row in rows} <= kept


# -- whom incidents reach


@pytest.mark.parametrize(("name", "part"), REGIONAL)
def test_incidents_reach_whom_the_environment_names(syntheses: Mapping[str, Synthesis], name: str, part: str) -> None:
    """Each region's topic tells each address, and the function that pages, which the topic alone may call."""
    made, incidents = syntheses[name], NAMED[name].incidents
    topic = f"${{{made.address_of('aws_sns_topic', f'{part}/incidents/topic')}.arn}}"
    found = [
        (item["protocol"], item["endpoint"], item["topic_arn"])
        for item in made.resources("aws_sns_topic_subscription", part=part).values()
    ]
    region, account = NAMED[name].names.region(Role(part)), NAMED[name].account
    pager = f"arn:aws:lambda:{region}:{account}:function:relight-{name}-notify"
    expected = [("email", address, topic) for address in incidents.emails]
    assert sorted(found) == sorted(expected + [("lambda", pager, topic)] * incidents.pagerduty)
    functions = made.resources("aws_lambda_function", part=part)
    assert (f"{part}/notify/function" in functions) is incidents.pagerduty
    if incidents.pagerduty:
        permission = made.one("aws_lambda_permission", f"{part}/notify/topic")
        assert (permission["principal"], permission["source_arn"]) == ("sns.amazonaws.com", topic)
        variables = functions[f"{part}/notify/function"]["environment"]["variables"]
        assert variables["RELIGHT_PAGERDUTY_SECRET"] == f"relight/{name}/pagerduty"
        assert "RELIGHT_PAGERDUTY_URL" not in variables
        assert "vpc_config" not in functions[f"{part}/notify/function"]


def test_who_pages_may_read_its_key_and_nothing_else(syntheses: Mapping[str, Synthesis]) -> None:
    """Its role has what every function has, and one secret; nobody else may read that one."""
    for part in ("primary", "standby"):
        made = syntheses["internal"]
        secret = f"${{{made.address_of('aws_secretsmanager_secret', f'{part}/pagerduty/secret')}.arn}}"
        readers = {
            path.split("/")[1]
            for path, item in made.resources("aws_iam_role_policy", part=part).items()
            if secret in item["policy"]
        }
        assert readers == {"notify"}
        role = f"{part}/notify/role/"
        policies = {
            path.removeprefix(role)
            for path in made.resources("aws_iam_role_policy", part=part)
            if path.startswith(role)
        }
        assert policies == {"dead-letters", "log", "read-pagerduty", "trace"}


def test_no_routing_key_is_in_any_stack(syntheses: Mapping[str, Synthesis]) -> None:
    """The secret is made without a value: its operator puts it."""
    for made in syntheses.values():
        for part in made.parts:
            secrets = made.stacks[part]["resource"].get("aws_secretsmanager_secret_version", {}).values()
            assert not any("pagerduty" in json.dumps(item) for item in secrets)


def test_slack_is_told_by_one_configuration_from_which_nobody_acts(syntheses: Mapping[str, Synthesis]) -> None:
    """A channel can be configured once in an account: the standby's has both topics, a role without any permission, and
    a guardrail that denies all; it is asked for where the service is."""
    for name, made in syntheses.items():
        incidents = NAMED[name].incidents
        found = made.resources("aws_chatbot_slack_channel_configuration")
        assert len(found) == bool(incidents.slack_channel)
        for path, channel in found.items():
            names, account = NAMED[name].names, NAMED[name].account
            assert path == "standby/slack/channel"
            assert (channel["slack_team_id"], channel["slack_channel_id"]) == (
                incidents.slack_team,
                incidents.slack_channel,
            )
            assert channel["sns_topic_arns"] == [
                f"arn:aws:sns:{region}:{account}:relight-{name}-incidents"
                for region in sorted((names.primary_region, names.standby_region))
            ]
            assert channel["guardrail_policy_arns"] == ["arn:aws:iam::aws:policy/AWSDenyAll"]
            assert channel["region"] in CHAT_REGIONS
            role = made.address_of("aws_iam_role", "standby/slack/role/role")
            policies = made.resources("aws_iam_role_policy", part="standby").values()
            assert not [item for item in policies if item["role"] == f"${{{role}.name}}"]


@pytest.mark.parametrize("home", ["us-east-1", "eu-west-1", "ap-south-1"])
@pytest.mark.parametrize("other", ["us-east-2", "eu-central-1"])
def test_chats_are_asked_at_home_or_where_the_other_region_is_not(home: str, other: str) -> None:
    """fails when a deployment of the standby would ask the primary's region."""
    found = chat_region(home, other=other)
    assert found in CHAT_REGIONS
    assert found == home or (home not in CHAT_REGIONS and found != other)


def test_a_region_alone_reaches_people_too(tmp_path: Path, bundle_file: Path) -> None:
    """Where there is no standby, the primary's own stack tells Slack of its one topic; PagerDuty may be in the EU."""
    source = (examples_folder() / "sandbox.toml").read_text()
    assert "[incidents]" not in source
    folder = tmp_path / "environments"
    folder.mkdir()
    told = (
        '[incidents]\nslack_team = "T0EXAMPLE1"\nslack_channel = "C0EXAMPLE1"\npagerduty = true\npagerduty_eu = true\n'
    )
    (folder / "alone.toml").write_text(f"{source}\n{told}")
    [environment] = load_environments(folder)
    from relight_stacks.app import synthesize as write
    from relight_stacks.bundles import Bundles

    bundles = {environment.memory.store: Bundles(region=bundle_file, providers=bundle_file)}
    out = write([environment], bundles=bundles, output=tmp_path / "out")
    stack = json.loads((out / "stacks" / "alone-primary" / "cdk.tf.json").read_text())["resource"]
    [channel] = stack["aws_chatbot_slack_channel_configuration"].values()
    assert channel["sns_topic_arns"] == [
        f"arn:aws:sns:{environment.regions.primary}:{environment.account}:relight-alone-incidents"
    ]
    [notify] = (item for item in stack["aws_lambda_function"].values() if item["function_name"].endswith("-notify"))
    assert notify["environment"]["variables"]["RELIGHT_PAGERDUTY_URL"] == "https://events.eu.pagerduty.com"


# -- the page's own arithmetic


def graph(width: int, height: int = 6) -> GraphProps:
    metric = Metric(namespace="Relight", name="GateOpen", dimensions={"region": "r"}, label="gate")
    return GraphProps(title="t", metrics=(metric,), limits=(("RPO", 300.0),), width=width, height=height)


def test_widgets_follow_one_another_in_rows() -> None:
    """One that does not fit begins a row below the highest of the last one."""
    widgets = (Note(markdown="x"), graph(10), graph(10, 9), graph(10), graph(24), graph(4))
    placed = [(item["x"], item["y"]) for item in body(widgets, region="eu-west-1")["widgets"]]
    assert placed == [(0, 0), (0, 2), (10, 2), (0, 11), (0, 17), (0, 23)]


def test_fails_when_a_page_is_more_than_cloudwatch_takes() -> None:
    """Before a deployment finds out: too many widgets, or too many metrics in one."""
    with pytest.raises(ValueError, match="501 widgets on one page"):
        body((Note(markdown="x"),) * (MOST_WIDGETS + 1), region="eu-west-1")
    full = replace(graph(6), metrics=graph(6).metrics * (MOST_METRICS + 1))
    with pytest.raises(ValueError, match="501 metrics in "):
        body((full,), region="eu-west-1")
    assert body((replace(full, metrics=full.metrics[1:]),), region="eu-west-1")["widgets"]


def test_a_metric_is_written_as_cloudwatch_reads_it() -> None:
    """Namespace, name, and dimensions in pairs, then what it is called; with the line that it must not cross."""
    [widget] = body((graph(6),), region="eu-west-1")["widgets"]
    assert widget["properties"]["metrics"] == [["Relight", "GateOpen", "region", "r", {"label": "gate"}]]
    assert widget["properties"]["annotations"] == {"horizontal": [{"label": "RPO", "value": 300.0}]}
    assert widget["properties"]["region"] == "eu-west-1"


def test_whoever_is_woken_finds_each_alarm(
    syntheses: Mapping[str, Synthesis], variants: Mapping[str, Synthesis]
) -> None:
    """fails when an alarm has no row in the runbook, or a row has no alarm."""
    made = {
        re.sub(r"^provider-.*", "provider-<name>", name)
        for found in (*syntheses.values(), *variants.values())
        for part in found.parts
        for name in alarms(found, part)
    }
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    table = text.partition("## Which alarm means what")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
    written = [name for names, _, _ in rows for name in re.findall(r"`([^`]+)`", names)]
    assert sorted(written) == sorted(made)

"""Values that are each allowed and contradict each other are refused: the values, the rule, and what to change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from relight.config import Acknowledge, ConfirmBy, Role, StateKind
from relight.errors import ConfigError
from relight.objectives import Tier
from relight_stacks import app, loading
from relight_stacks.environment import Environment, Incidents, Network
from relight_stacks.loading import (
    environments_folder,
    examples_folder,
    load_environment,
    load_environments,
    load_named,
    load_with_others,
)
from relight_stacks.promises import keep_promises, promises
from relight_stacks.rules import check, check_together, contradictions

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = {path.stem: path.read_text() for path in examples_folder().glob("*.toml")}
CUSTOMER, INTERNAL, BATCH, SANDBOX = "customer-facing", "internal", "batch", "sandbox"
DNS = 'routing = "failover"'

# The example, what is replaced in it by what, and the words of the refusal.
BAD: list[tuple[str, str, str, list[str]]] = [
    (
        CUSTOMER,
        'standby = "full"',
        'standby = "pilot"',
        ['pattern.standby = "pilot" is less than active-active has', 'use "full"'],
    ),
    (INTERNAL, 'standby = "pilot"', 'standby = "none"', ['"none" is less than warm standby has', 'use "pilot"']),
    (INTERNAL, DNS, 'routing = "single"', ['dns.routing = "single" would leave callers', "use failover"]),
    (INTERNAL, DNS, 'routing = "weighted"', ['"weighted" sends callers to both regions', 'use "failover"']),
    (BATCH, DNS, 'routing = "latency"', ['"latency" sends callers to both regions', "only one serves"]),
    (INTERNAL, "ttl_s = 10", "ttl_s = 60", ["dns.ttl_s = 60 outlives dns.check_interval_s = 10", "10 or less"]),
    (BATCH, "ttl_s = 30", "ttl_s = 31", ["dns.ttl_s = 31 outlives dns.check_interval_s = 30", "30 or less"]),
    (SANDBOX, "[queue]", '[pattern]\nstandby = "pilot"\n[queue]', ['"pilot" needs a standby', "choose tier batch"]),
    (SANDBOX, "[queue]", '[dns]\nrouting = "failover"\n[queue]', ['dns.routing = "failover" needs a standby']),
    (SANDBOX, "[queue]", "[dns]\nrouting_controls = true\n[queue]", ["dns.routing_controls = true needs a standby"]),
    (
        SANDBOX,
        "[queue]",
        '[recovery]\nrehearse = "rate(30 days)"\n[queue]',
        ['rehearse = "rate(30 days)" needs a stand'],
    ),
    (SANDBOX, "[queue]", "[recovery]\napproval = true\n[queue]", ["recovery.approval = true needs a standby"]),
    (BATCH, "[regions]", 'acknowledge = "remote"\n[regions]', ['acknowledge = "remote" waits for a replica', "local"]),
    (
        BATCH,
        "[regions]",
        'confirm_by = "commit"\n[regions]',
        ['confirm_by = "commit"', "there is none", "leave both out"],
    ),
    (BATCH, "[regions]", "confirm_replicas = 1\n[regions]", ["confirm_replicas = 1 waits for a replica", "leave both"]),
    (
        INTERNAL,
        "[regions]",
        'confirm_by = "commit"\n[regions]',
        ["a synchronous standby", "replication is asynchronous"],
    ),
    (
        INTERNAL,
        "[regions]",
        "confirm_replicas = 0\n[regions]",
        ["confirm_replicas = 0 waits for nobody", "leave it out"],
    ),
    (
        INTERNAL,
        "[regions]",
        'confirm_by = "aurora"\n[regions]',
        ['confirm_by = "aurora" asks aurora_global_db_status()', '"rds-replica"', "no such function"],
    ),
    (
        CUSTOMER,
        "[regions]",
        'confirm_by = "position"\n[regions]',
        ['confirm_by = "position" looks at', '"aurora-global"', "leave confirm_by out"],
    ),
    (
        CUSTOMER,
        "[regions]",
        'confirm_by = "commit"\n[regions]',
        ['confirm_by = "commit" waits', '"aurora-global" replication is asynchronous'],
    ),
    *(
        (
            SANDBOX,
            'kind = "snapshots"',
            f'kind = "{kind}"',
            [f'state.kind = "{kind}" needs a standby', "tier sandbox has none", "snapshots"],
        )
        for kind in ("rds-replica", "aurora-global")
    ),
    *(
        (
            CUSTOMER,
            'instance_class = "db.r6g.xlarge"',
            f'instance_class = "{instance_class}"',
            [f'state.instance_class = "{instance_class}" is not memory-optimized', "db.r6g.large"],
        )
        for instance_class in ("db.t4g.medium", "db.m6g.large")
    ),
    (
        INTERNAL,
        'kind = "rds-replica"',
        'kind = "rds-replica"\nengine_version = "13.22"',
        ['state.engine_version = "13.22" is older than 14', "14 or newer"],
    ),
    (
        CUSTOMER,
        'kind = "aurora-global"',
        'kind = "aurora-global"\nengine_version = "13.4"',
        ['state.engine_version = "13.4" is older than 14'],
    ),
    (
        BATCH,
        'kind = "snapshots"',
        'kind = "snapshots"\nengine_version = "11"',
        ['state.engine_version = "11" is older than 14'],
    ),
    (
        INTERNAL,
        'cidr = "10.40.0.0/16"',
        'cidr = "10.30.4.0/22"',
        ["network.primary.cidr = 10.30.0.0/16", "network.standby.cidr = 10.30.4.0/22 overlap", "ranges apart"],
    ),
    (INTERNAL, "lock_days = 7", "lock_days = 373", ["vault.lock_days = 373", "end after 372 days", "372 or less"]),
    (
        SANDBOX,
        'lock = "none"',
        'lock = "governance"\nlock_days = 8',
        ["vault.lock_days = 8", "keep_daily = 7", "end after 7 days", "keep_daily = 8 or more"],
    ),
    (
        INTERNAL,
        "lock_days = 7",
        "\n".join(f'[vault.{role}]\nendpoint = "https://r2.example.com"\nbucket = "points"' for role in Role),
        ["both the bucket points", "a vault of its own"],
    ),
    (
        CUSTOMER,
        "most = 18",
        "most = 4",
        ["capacity.most = 4 is less than agent.replicas = 6", "use 6 or more"],
    ),
    (
        INTERNAL,
        "{region}.amazonaws.com/assistant",
        "eu-north-1.amazonaws.com/assistant",
        ["agent.image", "one region's registry", "write {region}"],
    ),
    (
        INTERNAL,
        "approval = true",
        "approval = true\nprobe_interval_s = 2\nprobe_timeout_s = 3",
        ["probe_timeout_s = 3 is longer than recovery.probe_interval_s = 2", "2 or less"],
    ),
    (
        CUSTOMER,
        'slack_channel = "C0EXAMPLE1"',
        "",
        ["incidents.slack_team is given without slack_channel", "give both"],
    ),
    (
        INTERNAL,
        'emails = ["platform-oncall@example.com"]\npagerduty = true',
        "",
        ["approval = true asks a person", "[incidents] reaches nobody"],
    ),
]

# The same, for what no sum of the tier's parts can keep.
OUT_OF_REACH: list[tuple[str, str, str, list[str]]] = [
    (CUSTOMER, "approval = false", "approval = true", ["RTO of 120 s", "a person approves 1800 s", "approval_minutes"]),
    (
        CUSTOMER,
        'kind = "aurora-global"',
        'kind = "rds-replica"',
        ["RTO of 120 s", "promote 422 s", "change state.kind"],
    ),
    (INTERNAL, "approval_minutes = 3", "approval_minutes = 8", ["RTO of 900 s", "a person approves 480 s"]),
    (INTERNAL, 'kind = "rds-replica"', 'kind = "snapshots"', ["RTO of 900 s", "promote 1502 s", "state.kind"]),
    (
        INTERNAL,
        'embedding_model = "titan-embed-text-v2"',
        'embedding_model = "titan-embed-text-v2"\njournalled = false',
        ["RPO of memory 'notes' of 300 s", "since the last snapshot 300 s", "pattern.snapshot_minutes"],
    ),
    (
        BATCH,
        'embedding_model = "titan-embed-text-v2"',
        'embedding_model = "titan-embed-text-v2"\njournalled = false',
        ["RPO of memory 'documents' of 3600 s", "since the last snapshot 3600 s", "memory.collections.journalled"],
    ),
    (BATCH, "memory = 2048", "memory = 2048\nstorage_gib = 300", ["RTO of 3600 s", "filled", "vector.storage_gib"]),
    (
        CUSTOMER,
        "approval = false",
        "approval = false\nprobe_threshold = 10",
        ["RTO of 120 s", "probes fail 53 s", "recovery.probe_interval_s"],
    ),
]


NAT = 'zones = ["a", "b", "c"]\nnat = true'
BAD += [
    (
        CUSTOMER,
        f"{NAT}               # agents",
        "nat = false # agents",
        ["network.primary.nat = false with dns.routing", "send what writes on", "vpc_id"],
    ),
    (
        CUSTOMER,
        f'cidr = "10.20.0.0/16"\n{NAT}',
        'cidr = "10.20.0.0/16"\nnat = false',
        ["network.standby.nat = false with dns.routing", "no way"],
    ),
    (
        BATCH,
        "[large_work]",
        '[large_work]\nimage = "333333333333.dkr.ecr.eu-west-1.amazonaws.com/worker:1"',
        ["large_work.image = 333333333333", "needs that region", "{region}"],
    ),
]


def edited(folder: Path, example: str, old: str, new: str) -> Path:
    text = EXAMPLES[example]
    assert old in text
    path = folder / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(("example", "old", "new", "words"), BAD, ids=[f"{i}-{e}" for i, (e, *_) in enumerate(BAD)])
def test_a_contradiction_is_refused(tmp_path: Path, example: str, old: str, new: str, words: list[str]) -> None:
    """One clear error: the file, the values, the rule that they break, and what to change."""
    path = edited(tmp_path, example, old, new)
    with pytest.raises(ConfigError) as refused:
        load_environment(path)
    message = str(refused.value)
    for word in [str(path), *words]:
        assert word in message
    assert refused.value.hint
    assert "\n" not in message


@pytest.mark.parametrize(
    ("example", "old", "new", "words"), OUT_OF_REACH, ids=[f"{i}-{e}" for i, (e, *_) in enumerate(OUT_OF_REACH)]
)
def test_an_objective_out_of_reach_is_refused(
    tmp_path: Path, example: str, old: str, new: str, words: list[str]
) -> None:
    """The file can be read and explained; a synthesis fails, and says which numbers to change."""
    path = edited(tmp_path, example, old, new)
    environment = load_environment(path)
    with pytest.raises(ConfigError) as refused:
        keep_promises(environment, source=str(path))
    message = str(refused.value)
    for word in [str(path), f"tier {environment.tier}", *words]:
        assert word in message


def test_an_environment_may_tighten(tmp_path: Path) -> None:
    """More than the tier has is taken: a full standby, a quicker database, a shorter interval, more rehearsals."""
    path = edited(tmp_path, BATCH, 'standby = "none"', 'standby = "pilot"')
    text = path.read_text().replace('kind = "snapshots"', 'kind = "rds-replica"')
    text = text.replace("check_interval_s = 30\nttl_s = 30", "check_interval_s = 10\nttl_s = 5")
    path.write_text(text.replace("snapshot_minutes = 60", "snapshot_minutes = 15"))
    environment = load_environment(path)
    keep_promises(environment, source="mine")
    assert (environment.shape.check_interval_s, environment.shape.ttl_s, environment.shape.snapshot_minutes) == (
        10,
        5,
        15,
    )
    assert (environment.acknowledge, environment.confirm_replicas) == (Acknowledge.REMOTE, 1)


def test_what_confirms_follows_from_where_the_state_is(tmp_path: Path) -> None:
    """A file that is silent gets what its database can do."""
    expected = {
        StateKind.EXISTING: (Acknowledge.REMOTE, ConfirmBy.COMMIT, 1),
        StateKind.RDS_REPLICA: (Acknowledge.REMOTE, ConfirmBy.POSITION, 1),
        StateKind.AURORA_GLOBAL: (Acknowledge.REMOTE, ConfirmBy.AURORA, 1),
        StateKind.SNAPSHOTS: (Acknowledge.LOCAL, ConfirmBy.POSITION, 0),
    }
    demo = (environments_folder() / "demo.toml").read_text()
    for kind, (acknowledge, by, replicas) in expected.items():
        path = tmp_path / "mine.toml"
        path.write_text(demo.replace('kind = "existing"', f'kind = "{kind}"'))
        found = load_environment(path)
        assert (found.acknowledge, found.confirm_by, found.confirm_replicas) == (acknowledge, by, replicas)


@pytest.mark.parametrize("tier", list(Tier))
def test_demo_makes_sense_in_every_tier(tier: Tier) -> None:
    """The drill takes demo and another tier: nothing contradicts, and every objective is within reach."""
    environment = load_named("demo").with_tier(tier)
    assert list(contradictions(environment)) == []
    keep_promises(environment, source="demo")


def test_every_example_keeps_its_promises() -> None:
    """There is one of each tier, it contradicts nothing, and it can do what its tier promises."""
    found = load_environments(examples_folder())
    assert sorted(environment.tier for environment in found) == sorted(Tier)
    for environment in found:
        assert environment.name == environment.tier.value
        check(environment, source=environment.name)
        keep_promises(environment, source=environment.name)


def test_examples_are_examples() -> None:
    """Nobody's account, domain or address: they could be deployed by mistake."""
    for environment in load_environments(examples_folder()):
        assert len(set(environment.account)) == 1
        assert environment.domain.endswith(".example.com")
        assert all(address.endswith("@example.com") for address in environment.incidents.emails)
        assert environment.providers


def test_networks_of_ones_own_may_have_any_range() -> None:
    """What Relight does not make it cannot know: no overlap is seen where a region's network exists already."""
    demo = load_named("demo")
    existing = Network(vpc_id="vpc-0e0a0000000000001")
    values = {name: getattr(demo, name) for name in ("name", "account", "tier", "domain", "regions", "agent", "vector")}
    mixed = Environment(**values, networks={Role.PRIMARY: existing, Role.STANDBY: Network()}, given=demo.given)
    assert list(contradictions(mixed)) == []


def test_without_a_way_out_one_region_may_serve(tmp_path: Path) -> None:
    """Where callers come to the region that works alone nothing is sent on, and what agents cannot reach is said."""
    text = EXAMPLES[CUSTOMER].replace("nat = true", "nat = false").replace('routing = "latency"', DNS)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    said = " ".join(promises(load_environment(path)).not_covered)
    assert "network.primary.nat = false agents reach no hosted LLM provider" in said
    assert "network.standby.nat = false" in said
    assert "nat = false" not in " ".join(promises(load_environments(examples_folder())[0]).not_covered)
    sandbox = EXAMPLES[SANDBOX].replace("[network.standby]\n", "[network.standby]\nnat = false\n")
    path.write_text(sandbox)
    assert "nat = false" not in " ".join(promises(load_environment(path)).not_covered)


def test_read_only_is_said(tmp_path: Path) -> None:
    """fails when somebody is told what an environment can promise, and not that it begins nothing."""
    path = edited(tmp_path, CUSTOMER, "read_only = false", "read_only = true")
    assert "read_only = true agents answer" in " ".join(promises(load_environment(path)).not_covered)
    assert "read_only" not in " ".join(promises(load_environments(examples_folder())[0]).not_covered)


def two(folder: Path, *, account: str = "222222222222", region: str = "eu-west-1", more: str = "") -> list[Environment]:
    """The example `internal`, and a copy of it with a domain of its own."""
    text = EXAMPLES[INTERNAL]
    (folder / "first.toml").write_text(text)
    second = text.replace("assistant.example.com", "second.example.com").replace("222222222222", account)
    (folder / "second.toml").write_text(more + second.replace("eu-west-1", region))
    return load_environments(folder)


@pytest.mark.parametrize(("one", "other"), [("prod", "prod-eu"), ("prod-rehearsal", "prod")])
def test_no_name_begins_another(tmp_path: Path, one: str, other: str) -> None:
    """fails when `deploy 'prod-*'` takes another environment's stacks too, of whatever account, or what prod makes for
    rehearsals is called as what prod-rehearsal makes."""
    first, second = two(tmp_path, account="555555555555")
    said = replace(first, name=one), replace(second, name=other)
    with pytest.raises(ConfigError, match=rf"{other}: prod is the beginning of prod-\w+, and 'prod-\*'") as caught:
        check_together(said)
    assert "rename one of the two" in str(caught.value)
    check_together([replace(first, name="prod"), replace(second, name="production")])
    text = (tmp_path / "first.toml").read_text()
    for name in (one, other):
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(ConfigError, match="prod is the beginning of"):
        load_with_others(tmp_path / f"{other}.toml")


def test_a_point_is_locked_for_as_long_as_the_ladder_keeps_one(tmp_path: Path) -> None:
    """fails when 24 hourly points of one a day are taken for a day's: the oldest is 24 days old."""
    path = edited(tmp_path, SANDBOX, 'lock = "none"', 'lock = "governance"\nlock_days = 24')
    path.write_text(path.read_text().replace("keep_hourly = 1", "keep_hourly = 24"))
    assert load_environment(path).vaults.lock_days == 24
    path.write_text(path.read_text().replace("lock_days = 24", "lock_days = 25"))
    with pytest.raises(ConfigError, match="end after 24 days"):
        load_environment(path)


IMAGES = {
    "agent.image": lambda e, image: replace(e, agent=replace(e.agent, image=image)),
    "vector.image": lambda e, image: replace(e, vector=replace(e.vector, image=image)),
    "queue.image": lambda e, image: replace(e, queue=replace(e.queue, image=image)),
    "large_work.image": lambda e, image: replace(e, large_work=replace(e.large_work, image=image)),
}


@pytest.mark.parametrize("key", IMAGES)
def test_an_image_of_the_internet_needs_a_way_there(key: str) -> None:
    """fails when a task is deployed that can never start, or when it depends on others and nobody is told."""
    internal = load_environment(examples_folder() / "internal.toml")
    assert "registry" not in " ".join(promises(internal).not_covered)
    elsewhere = IMAGES[key](internal, "docker.io/someone/image:1")
    (line,) = (line for line in promises(elsewhere).not_covered if "registry" in line)
    assert key in line
    assert [*contradictions(elsewhere)] == []
    for role in Role:
        closed = {**internal.networks, role: replace(internal.network(role), nat=False)}
        ((problem, hint),) = contradictions(replace(elsewhere, networks=closed))
        assert problem.startswith(f"{key} = docker.io/someone/image:1 is pulled over the internet")
        assert f"network.{role}.nat = false" in problem
        assert "nat = true" in hint
        assert [*contradictions(replace(internal, networks=closed))] == []
        own = {**internal.networks, role: Network(vpc_id="vpc-0e0a0000000000001", nat=False)}
        assert [*contradictions(replace(elsewhere, networks=own))] == []


def test_a_sandboxes_other_network_is_not_there_yet() -> None:
    """What the standby's network lacks is refused on the day that it is made."""
    sandbox = load_environment(examples_folder() / "sandbox.toml")
    closed = {**sandbox.networks, Role.STANDBY: replace(sandbox.network(Role.STANDBY), nat=False)}
    image = replace(sandbox.agent, image="docker.io/someone/image:1")
    assert [*contradictions(replace(sandbox, agent=image, networks=closed))] == []


def test_one_environment_configures_a_registry(tmp_path: Path) -> None:
    """fails when two of one account and primary region both copy images: who deploys last would replace the other's."""
    with pytest.raises(ConfigError) as refused:
        two(tmp_path)
    message = str(refused.value)
    for words in ("second: replicate_images = true", "first copies images", "222222222222 in eu-west-1", "in one of"):
        assert words in message


@pytest.mark.parametrize(
    "differs",
    [{"account": "555555555555"}, {"region": "eu-west-3"}, {"more": "replicate_images = false\n"}],
    ids=["account", "region", "said"],
)
def test_registries_of_their_own_are_apart(tmp_path: Path, differs: dict[str, str]) -> None:
    """Another account, another primary region, or one that leaves images to the operator."""
    assert [environment.name for environment in two(tmp_path, **differs)] == ["first", "second"]


def test_a_sandbox_copies_no_images(tmp_path: Path) -> None:
    """Where there is no standby there is nothing to copy to, and nothing to collide."""
    environments = two(tmp_path, more="replicate_images = false\n")
    sandbox = environments[1].with_tier(Tier.SANDBOX)
    check_together([environments[0], replace(sandbox, replicate_images=True)])
    with pytest.raises(ConfigError, match="can be configured once"):
        check_together([environments[0], replace(environments[1], replicate_images=True)])


def test_a_slack_channel_is_one_environments_in_an_account(tmp_path: Path) -> None:
    """fails when the second deployment would be refused by Slack's service: a channel can be configured once."""
    first, second = two(tmp_path, more="replicate_images = false\n")
    said = Incidents(slack_team="T0EXAMPLE1", slack_channel="C0EXAMPLE1")
    with pytest.raises(ConfigError, match=r"second: incidents\.slack_channel = 'C0EXAMPLE1' is first's") as caught:
        check_together([replace(item, incidents=said) for item in (first, second)])
    assert "use a channel of its own" in str(caught.value)
    check_together([first, second])
    check_together([replace(first, incidents=said), replace(second, incidents=said, account="555555555555")])
    other = replace(said, slack_channel="C0EXAMPLE2")
    check_together([replace(first, incidents=said), replace(second, incidents=other)])


def test_where_pagerduty_is_asks_for_pagerduty(tmp_path: Path) -> None:
    """fails when an account of the EU is named, and nobody is paged."""
    environment = replace(two(tmp_path, more="replicate_images = false\n")[0], incidents=Incidents(pagerduty_eu=True))
    problems = [problem for problem, _ in contradictions(environment)]
    assert "incidents.pagerduty_eu = true says where, and incidents.pagerduty is false" in problems
    said = replace(environment, incidents=Incidents(pagerduty=True, pagerduty_eu=True))
    assert [*contradictions(said)] == []


def test_what_is_synthesized_together_is_looked_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when environments that were named one by one escape: each of them is read alone."""
    two(tmp_path, more="replicate_images = false\n")
    text = (tmp_path / "second.toml").read_text()
    (tmp_path / "second.toml").write_text(text.replace("replicate_images = false\n", ""))
    monkeypatch.setattr(loading, "environments_folder", lambda: tmp_path)
    assert app.main(["--environment", "first", "--environment", "second", "--output", str(tmp_path / "out")]) == 1
    assert "can be configured once" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", ['kind = "eks"\ncluster = "c"\ndeployment = "d"', 'kind = "auto-scaling"\ngroup = "g"']
)
def test_agents_of_ones_own_leave_an_image_to_say(tmp_path: Path, kind: str) -> None:
    """fails when a task is deployed without an image: what is too large for a function needs Relight's library."""
    head, _, rest = EXAMPLES[INTERNAL].partition("[agent]")
    text = f"{head}[agent]\nreplicas = 3\n[vector]{rest.partition('[vector]')[2]}\n[capacity]\n{kind}\n"
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"large_work\.image is missing: with capacity\.kind"):
        load_environment(path)
    path.write_text(f'{text}[large_work]\nimage = "222222222222.dkr.ecr.{{region}}.amazonaws.com/worker:1"\n')
    assert load_environment(path).work_image.endswith("/worker:1")

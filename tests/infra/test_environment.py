"""The environment's file is read whole, or refused with what is wrong and what is allowed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from synthesis import ROOT

from relight.config import Acknowledge, ConfirmBy, OnLeaseLost, OnStandbyAway, Role, Settings
from relight.errors import ConfigError
from relight.objectives import Tier
from relight.providers.spec import Api, ProviderLimits, ProviderSpec
from relight.tasks.ledger import Kind
from relight.tasks.timetravel import TimeTravel
from relight_constructs.props import most_storage_gib
from relight_stacks.loading import (
    environments_folder,
    examples_folder,
    load_environment,
    load_environments,
    load_named,
)
from relight_stacks.settings import AGENT_SERVICE, VECTOR_SERVICE, settings_for

if TYPE_CHECKING:
    from pathlib import Path

DEMO = (environments_folder() / "demo.toml").read_text()


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_the_demo_environment_is_what_the_drill_raises() -> None:
    """demo is tier internal from us-east-1 to us-west-2, with side effects and writes confirmed in the standby."""
    demo = load_named("demo")
    assert (demo.name, demo.tier, demo.account) == ("demo", Tier.INTERNAL, "000000000000")
    assert (demo.regions.primary, demo.regions.standby) == ("us-east-1", "us-west-2")
    assert (demo.acknowledge, demo.on_lease_lost) == (Acknowledge.REMOTE, OnLeaseLost.FENCE)
    assert demo.agent.replicas == 2


def test_every_shipped_environment_is_valid() -> None:
    """Each file beside demo.toml loads, and the list is sorted by name."""
    names = [environment.name for environment in load_environments()]
    assert "demo" in names
    assert names == sorted(names)


def test_two_environments_of_one_account_have_a_domain_each(tmp_path: Path) -> None:
    """Each makes a zone of its own and finds it by its name, which must tell it from the other's."""
    write(tmp_path, DEMO, "staging")
    write(tmp_path, DEMO.replace("000000000000", "111111111111"), "other")
    assert [environment.name for environment in load_environments(tmp_path)] == ["other", "staging"]
    write(tmp_path, DEMO, "prod")
    with pytest.raises(ConfigError, match=r"staging: domain = 'relight\.example' is the domain of prod"):
        load_environments(tmp_path)


def test_optional_keys_are_read(tmp_path: Path) -> None:
    """What may be left out is read when it is there."""
    text = 'acknowledge = "local"\non_lease_lost = "serve"\nconfirm_timeout_s = 2\n' + DEMO
    text = text.replace("[vector]", 'command = ["agent", "--serve"]\n\n[vector]')
    mine = load_environment(write(tmp_path, text))
    assert (mine.acknowledge, mine.on_lease_lost) == (Acknowledge.LOCAL, OnLeaseLost.SERVE)
    assert mine.confirm_timeout_s == 2.0
    assert mine.agent.command == ("agent", "--serve")


def test_the_page_on_deploying_names_what_the_stacks_make(tmp_path: Path) -> None:
    """Fails when a name changes that an operator is told to use."""
    names = load_environment(write(tmp_path, DEMO, "prod")).names
    page = " ".join((ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").split())
    for name in (
        names.connections_secret,
        names.vector_password_secret,
        names.operations_key_alias,
        names.incidents_topic,
        names.endpoint_host(Role.PRIMARY).replace(names.domain, "<domain>"),
    ):
        assert name in page
    assert f"--cluster {names.cluster} --service {VECTOR_SERVICE}" in page
    assert f"--cluster {names.cluster} --service {AGENT_SERVICE}" in page


ACCOUNT = 'account = "000000000000"'
TIER = 'tier = "internal"'
VPC = """[network.primary]
vpc_id = "vpc-0e0a0000000000001"
private_subnet_ids = ["subnet-0e0a0000000000001", "subnet-0e0a0000000000002"]
public_subnet_ids = ["subnet-0e0a0000000000003", "subnet-0e0a0000000000004"]
route_table_ids = ["rtb-0e0a0000000000001"]
"""
CIDR = 'cidr = "10.1.0.0/16"'
PRIMARY = f"[network.primary]\n{CIDR}\n"
STATE = 'kind = "existing"'
STORE = 'store = "pgvector"'
MODEL = 'embedding_model = "wordllama-l2-supercat-256"'
IMAGE = '"000000000000.dkr.ecr.{region}.amazonaws.com/agent:1"'

PROVIDER = '[[providers]]\nname = "openai"\napi = "openai"\nmodel = "m"'

# What is replaced in demo.toml, which has one provider here, by what; then the words that the refusal must hold: key,
# value, what is allowed.
BAD: list[tuple[str, str, list[str]]] = [
    (STORE, 'store = "chroma"', ["memory.store = 'chroma'", "pgvector, qdrant, weaviate"]),
    (STORE, f"{STORE}\nrecall_floor = 1.5", ["memory.recall_floor = 1.5", "from 0 to 1"]),
    (STORE, f"{STORE}\nkeep_monthly = 13", ["memory.keep_monthly = 13", "from 0 to 12"]),
    (STORE, f"{STORE}\nkeep_hourly = 0", ["memory.keep_hourly = 0", "from 1 to 720"]),
    (STORE, f'{STORE}\nrehearsal_check = " "', ["memory.rehearsal_check = ' '", "a command"]),
    (STORE, f"{STORE}\nkeep_weekly = 4", ["memory.keep_weekly = 4 is not a key", "keep_daily"]),
    ('name = "memory"', 'name = ""', ["memory.collections[0].name = ''", "1 to 255 characters"]),
    ("dimension = 256", "dimension = 0", ["memory.collections[0].dimension = 0", "from 1 to 16000"]),
    ("dimension = 256", "", ["memory.collections[0].dimension is missing", "a whole number"]),
    (MODEL, f'{MODEL}\nindex = "ivf"', ["memory.collections[0].index = 'ivf'", "hnsw or exact"]),
    (MODEL, f'{MODEL}\ndistance = "l1"', ["memory.collections[0].distance = 'l1'", "cosine, euclidean, dot"]),
    (MODEL, f"{MODEL}\njournalled = 1", ["memory.collections[0].journalled = 1", "true or false"]),
    (MODEL, f"{MODEL}\nmodel = 1", ["memory.collections[0].model = 1 is not a key", "embedding_model"]),
    (
        MODEL,
        f'{MODEL}\n[[memory.collections]]\nname = "memory"\ndimension = 1\nembedding_model = "m"',
        ["memory.collections = ['memory', 'memory']", "different names"],
    ),
    ("[[memory.collections]]", "[memory.collections]", ["memory.collections = a table", "[[memory.collections]]"]),
    (ACCOUNT, "account = 0", ["account = 0", "12 digits in quotes"]),
    (ACCOUNT, 'account = "123"', ["account = '123'", "12 digits in quotes"]),
    (ACCOUNT, "", ["account is missing", "12 digits in quotes"]),
    (TIER, 'tier = "gold"', ["tier = 'gold'", "customer-facing, internal, batch, sandbox"]),
    (TIER, "tier = 1", ["tier = 1", "customer-facing, internal, batch, sandbox"]),
    (TIER, f'{TIER}\nacknowledge = "never"', ["acknowledge = 'never'", "remote, local"]),
    (TIER, f'{TIER}\non_lease_lost = "panic"', ["on_lease_lost = 'panic'", "fence, serve"]),
    (TIER, f"{TIER}\nconfirm_timeout_s = 0", ["confirm_timeout_s = 0", "from 0.1 to 60"]),
    (TIER, f"{TIER}\nconfirm_timeout_s = nan", ["confirm_timeout_s = nan", "from 0.1 to 60"]),
    (TIER, f"{TIER}\nconfirm_timeout_s = true", ["confirm_timeout_s = True", "from 0.1 to 60"]),
    (TIER, f"{TIER}\nhold_sends_after_s = -1", ["hold_sends_after_s = -1", "from 0 to"]),
    (TIER, f"{TIER}\nhold_timers_after_s = inf", ["hold_timers_after_s = inf", "from 0 to"]),
    (TIER, f'{TIER}\nconfirm_by = "hope"', ["confirm_by = 'hope'", "one of commit, position"]),
    (TIER, f'{TIER}\non_standby_away = "maybe"', ["on_standby_away = 'maybe'", "one of wait, proceed"]),
    (TIER, f"{TIER}\nconfirm_replicas = 11", ["confirm_replicas = 11", "from 0 to 10"]),
    (TIER, f'{TIER}\nconfirm_timeout_s = "5"', ["confirm_timeout_s = '5'", "from 0.1 to 60"]),
    (TIER, f"{TIER}\nteir = 1", ["teir = 1 is not a key", "tier"]),
    ('domain = "relight.example"', 'domain = "Relight"', ["domain = 'Relight'", "lower case"]),
    ('domain = "relight.example"', 'domain = "relight.example."', ["domain = 'relight.example.'", "lower case"]),
    ('primary = "us-east-1"', 'primary = "Virginia"', ["regions.primary = 'Virginia'", "us-west-2"]),
    ('primary = "us-east-1"', 'primary = "us-gov-east-1"', ["regions.primary = 'us-gov-east-1'", "outside China"]),
    ('standby = "us-west-2"', 'standby = "us-east-1"', ["regions.standby = 'us-east-1'", "other than regions.primary"]),
    (
        'standby = "us-west-2"',
        'standby = "us-west-2"\nwitness = "x"',
        ["regions.witness = 'x' is not a key", "primary"],
    ),
    ("replicas = 2", "replicas = 0", ["agent.replicas = 0", "from 1 to 100"]),
    ("replicas = 2", "replicas = 2.5", ["agent.replicas = 2.5", "a whole number"]),
    ("replicas = 2", "replicas = true", ["agent.replicas = True", "a whole number"]),
    ("replicas = 2", "replicas = 2\ncommand = []", ["agent.command = []", "at least one"]),
    ("replicas = 2", 'replicas = 2\ncommand = "run"', ["agent.command = 'run'", "a list"]),
    ("replicas = 2", "replicas = 2\ncommand = [1]", ["agent.command = [1]", "a list"]),
    ("cpu = 512", "cpu = 500", ["agent.cpu = 500", "256, 512, 1024"]),
    ("memory = 1024", "memory = 9000", ["agent.memory = 9000", "from 1024 to 4096"]),
    ("memory = 1024", "memory = 1500", ["agent.memory = 1500", "steps of 1024"]),
    (IMAGE, '""', ["agent.image = ''", "container image"]),
    (IMAGE, '"a.us-east-1.example/agent:1"', ["agent.image", "us-east-1", "write {region}"]),
    (IMAGE, '"{account}/agent:1"', ["agent.image", "no placeholder but {region}"]),
    (PRIMARY, VPC.replace("vpc-", "net-"), ["network.primary.vpc_id = 'net-", "vpc-0123456789abcdef0"]),
    (
        PRIMARY,
        VPC.partition("private")[0],
        ["network.primary.private_subnet_ids is missing", "subnet-0123456789abcdef0"],
    ),
    (PRIMARY, VPC.replace('["rtb-0e0a0000000000001"]', "[]"), ["network.primary.route_table_ids = []", "at least one"]),
    (PRIMARY, VPC.replace("subnet-0e0a0000000000003", "sg-1"), ["network.primary.public_subnet_ids", "subnet-0123"]),
    (PRIMARY, VPC.replace("0000002", "0000001"), ["network.primary.private_subnet_ids", "each once"]),
    (PRIMARY, VPC.replace(', "subnet-0e0a0000000000002"', ""), ["network.primary.private_subnet_ids", "two zones"]),
    (PRIMARY, f"{VPC}{CIDR}", ["network.primary.cidr = '10.1.0.0/16' is not a key", "vpc_id"]),
    (CIDR, 'cidr = "10.1.0.1/16"', ["network.primary.cidr = '10.1.0.1/16'", "host bits set"]),
    (CIDR, 'cidr = "10.1.0.0/24"', ["network.primary.cidr = '10.1.0.0/24'", "from /16 to /22"]),
    (CIDR, 'cidr = "8.8.0.0/16"', ["network.primary.cidr = '8.8.0.0/16'", "a private range"]),
    (CIDR, 'zones = ["a"]', ["network.primary.zones = ['a']", "two zones at least"]),
    (CIDR, 'zones = ["us-east-1a", "us-east-1b"]', ["network.primary.zones", "letters"]),
    (CIDR, "ports = [0]", ["network.primary.ports = [0]", "from 1 to 65535"]),
    (CIDR, "ports = [true]", ["network.primary.ports = [True]", "whole numbers"]),
    (
        CIDR,
        'certificate_arn = "arn:aws:acm:us-west-2:000000000000:certificate/x"',
        ["network.primary.certificate_arn", "account 000000000000 in us-east-1"],
    ),
    ("[network.standby]", "[network.spare]", ["network.spare = a table is not a key", "primary, standby"]),
    (STATE, 'kind = "mongodb"', ["state.kind = 'mongodb'", "aurora-global, rds-replica, snapshots, existing"]),
    (STATE, f"{STATE}\nstorage_gib = 100", ["state.storage_gib is not a key", "allowed here: kind"]),
    (STATE, 'kind = "rds-replica"\nstorage_gib = 5', ["state.storage_gib = 5", "from 20 to 59578"]),
    (STATE, 'kind = "rds-replica"\nstorage_gib = 59579', ["state.storage_gib = 59579", "from 20 to 59578"]),
    (STATE, 'kind = "rds-replica"\ninstance_class = "large"', ["state.instance_class = 'large'", "db.r6g.large"]),
    (STATE, f'{STATE}\npassword = "hunter2"', ["state.password is not a key"]),
    ("[queue]\nnodes = 1", "[queue]\nnodes = 2", ["queue.nodes = 2", "one of 1, 3"]),
    ("[queue]\nnodes = 1", "[queue]\nexisting = true\nnodes = 1", ["queue.nodes = 1 is not a key", "existing"]),
    ("[queue]", '[pattern]\nstandby = "half"\n[queue]', ["pattern.standby = 'half'", "full, pilot, none"]),
    ("[queue]", "[pattern]\nsnapshot_minutes = 1\n[queue]", ["pattern.snapshot_minutes = 1", "from 5 to 1440"]),
    ("[queue]", '[capacity]\nkind = "eks"\n[queue]', ["capacity.cluster is missing", "the name of the cluster"]),
    (
        "[queue]",
        '[capacity]\nkind = "auto-scaling"\ngroup = "g"\nmost = 9\n[queue]',
        ["capacity.most = 9 is not a key", "allowed here: group, kind"],
    ),
    ("[queue]", '[capacity]\ncluster = "x"\n[queue]', ["capacity.cluster = 'x' is not a key", "kind"]),
    ("[queue]", '[vault]\nlock = "forever"\n[queue]', ["vault.lock = 'forever'", "none, governance, compliance"]),
    (
        "[queue]",
        '[vault.standby]\nendpoint = "http://r2.example.com"\nbucket = "points"\n[queue]',
        ["vault.standby.endpoint = 'http://r2.example.com'", "https://host"],
    ),
    (
        "[queue]",
        '[vault.standby]\nendpoint = "https://r2.example.com"\nbucket = "points"\nsecret = "hunter2"\n[queue]',
        ["vault.standby.secret is not a key"],
    ),
    ("[queue]", "[dns]\ncheck_interval_s = 20\n[queue]", ["dns.check_interval_s = 20", "one of 10, 30"]),
    ("[queue]", '[dns]\nrouting = "geo"\n[queue]', ["dns.routing = 'geo'", "failover, weighted, latency, single"]),
    ("[queue]", "[dns]\nprimary_threshold = 11\n[queue]", ["dns.primary_threshold = 11", "from 1 to 10"]),
    ('standby = "us-west-2"', 'standby = "us-wst-2"', ["regions.standby = 'us-wst-2'", "(us-west-2)", "botocore"]),
    ('primary = "us-east-1"', 'primary = "us-east-9"', ["regions.primary = 'us-east-9'", "a region of AWS"]),
    (
        "[queue]",
        '[recovery]\nrehearse = "rate(1 minute)"\n[queue]',
        ["recovery.rehearse = 'rate(1 minute)'", "once a day"],
    ),
    (
        "[queue]",
        '[recovery]\nrehearse = "rate(23 hours)"\n[queue]',
        ["recovery.rehearse = 'rate(23 hours)'", "once a day"],
    ),
    (
        "[queue]",
        '[recovery]\nrehearse = "cron(0 * * * ? *)"\n[queue]',
        ["rehearse = 'cron(0 * * * ? *)'", "once a day"],
    ),
    ("[queue]", '[recovery]\nrehearse = "monthly"\n[queue]', ["recovery.rehearse = 'monthly'", "rate(30 days)"]),
    (
        "[queue]",
        '[recovery]\nrehearse = "cron(0 4 1 * 2 *)"\n[queue]',
        ["recovery.rehearse = 'cron(0 4 1 * 2 *)'", "cron(0 4 1 * ? *)"],
    ),
    (
        "[queue]",
        '[recovery]\nrehearse = "cron(0 99 1 * ? *)"\n[queue]',
        ["recovery.rehearse = 'cron(0 99 1 * ? *)'", "cron(0 4 1 * ? *)"],
    ),
    ("[queue]", "[recovery]\napproval_minutes = 0\n[queue]", ["recovery.approval_minutes = 0", "from 1 to 1440"]),
    ("[queue]", '[incidents]\npagerduty = "hunter2"\n[queue]', ["incidents.pagerduty", "true or false"]),
    ("[queue]", '[incidents]\nrouting_key = "hunter2"\n[queue]', ["incidents.routing_key is not a key", "pagerduty"]),
    ("[queue]", '[incidents]\nemails = ["me"]\n[queue]', ["incidents.emails = ['me']", "on-call@example.com"]),
    ("[queue]", "[large_work]\ncpu = 2048\nmemory = 2048\n[queue]", ["large_work.memory = 2048", "from 4096 to"]),
    ("[regions]", 'read_only = "no"\n[regions]', ["read_only = 'no'", "true or false"]),
    (
        "[network.primary]",
        "[network.third]\na = 1\n\n[network.primary]",
        ["network.third = a table", "primary, standby"],
    ),
    ("[vector]", "[vectors]\na = 1\n\n[vector]", ["vectors = a table is not a key", "vector"]),
    ("[regions]", "[regions", ["is not TOML", "correct the line"]),
    (PROVIDER, f'{PROVIDER}\nkey = "hunter2"', ["providers[0].key is not a key", "silence_s", "thinks"]),
    (PROVIDER, f"{PROVIDER}\nsilence_s = 0", ["providers[0]: silence_s of provider openai is 0"]),
    (PROVIDER, f'{PROVIDER}\nsilence_s = "long"', ["providers[0].silence_s = 'long'", "a number"]),
    (PROVIDER, f"{PROVIDER}\ncontext_tokens = 1.5", ["providers[0].context_tokens = 1.5", "a whole number"]),
    (PROVIDER, f"{PROVIDER}\nkeyless = 1", ["providers[0].keyless = 1", "true or false"]),
    (PROVIDER, '[[providers]]\nname = "openai"', ["providers[0].api is missing", "anthropic, openai, compatible"]),
    (
        PROVIDER,
        PROVIDER.replace('"openai"', '"azure"'),
        ["providers[0].api = 'azure'", "anthropic, openai, compatible"],
    ),
    (PROVIDER, PROVIDER.replace("model", "modle"), ["providers[0].model is missing", "a text"]),
    (PROVIDER, f"{PROVIDER}\n{PROVIDER}", ["providers = ['openai', 'openai'", "two providers are named openai"]),
    (PROVIDER, f'{PROVIDER}\nbase_url = "http://{{zone}}.x"', ["providers[0].base_url", "no placeholder but {region}"]),
    (PROVIDER, f'{PROVIDER}\nbase_url = "http://u:hunter2@x"', ["providers[0]: base_url of provider openai holds"]),
    (PROVIDER, f'{PROVIDER}\nbase_url = "http://[hunter2"', ["providers[0]: base_url of provider openai is no"]),
    (PROVIDER, "[providers]", ["providers = a table", "begin with [[providers]]"]),
    (TIER, f"{TIER}\nprovider_check_minutes = 1", ["provider_check_minutes = 1", "from 5 to 720"]),
    ("[regions]", "[provider_limits]\nfailures = 0\n[regions]", ["provider_limits: failures is 0"]),
    ("[regions]", "[provider_limits]\npatience = 0\n[regions]", ["provider_limits.patience is not a key", "open_s"]),
]


@pytest.mark.parametrize(("old", "new", "words"), BAD, ids=[f"{i}-{new[:40]}" for i, (_, new, _) in enumerate(BAD)])
def test_a_bad_file_is_refused(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    """The refusal names the file, the key, the value got and what is allowed."""
    text = f"{DEMO.partition('[[providers]]')[0]}{PROVIDER}\n[network{DEMO.partition('[network')[2]}"
    assert old in text
    path = write(tmp_path, text.replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        load_environment(path)
    message = str(refused.value)
    assert "hunter2" not in message
    for word in [str(path), *words]:
        assert word in message


@pytest.mark.parametrize(("gib", "most_gib"), [(100, 500), (13_107, 65_535), (13_108, 65_536), (59_578, 65_536)])
def test_storage_grows_no_further_than_rds_lets_it(tmp_path: Path, gib: int, most_gib: int) -> None:
    """fails when a large instance is refused on the day that a recovery restores it, or has no tenth to grow into."""
    batch = (examples_folder() / "batch.toml").read_text().replace("storage_gib = 50", f"storage_gib = {gib}")
    found = settings_for(load_environment(write(tmp_path, batch)), Role.STANDBY)
    assert found.state_most_gib == most_storage_gib(gib) == most_gib >= 1.1 * gib


@pytest.mark.parametrize("name", ["Prod", "1st", "a--b", "a-", "far-too-long-a-name", "ünicode", "a_b"])
def test_a_name_that_no_resource_can_carry_is_refused(tmp_path: Path, name: str) -> None:
    """The file's stem becomes part of bucket and role names, so it is held to what both allow."""
    with pytest.raises(ConfigError, match="is not allowed"):
        load_environment(write(tmp_path, DEMO, name))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are not TOML."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_environment(path)


def test_an_unknown_environment_is_answered_with_those_that_exist() -> None:
    """A typing error in a name shows the names."""
    with pytest.raises(ConfigError, match="demo"):
        load_named("nope")


def test_the_longest_name_fits_every_limit(tmp_path: Path) -> None:
    """With the longest name and the longest regions, buckets have at most 63 characters."""
    text = DEMO.replace("us-east-1", "ap-southeast-1").replace("us-west-2", "ap-northeast-2")
    names = load_environment(write(tmp_path, text, "a" * 16)).names
    buckets = [names.state_bucket(names.primary_region), names.vault_bucket(names.primary_region), names.lease_bucket]
    assert max(map(len, buckets)) <= 63


@pytest.mark.parametrize("role", list(Role))
def test_each_region_is_told_its_own_side(role: Role) -> None:
    """Settings name the region's own vault first and the other as its peer, and survive the environment variables."""
    settings = settings_for(load_named("demo"), role)
    assert settings.region == ("us-east-1" if role is Role.PRIMARY else "us-west-2")
    assert settings.vault_bucket.endswith(settings.region)
    assert settings.peer_vault_bucket.endswith(settings.peer_region)
    assert settings.lease_bucket == "relight-demo-lease-000000000000-us-west-2"
    assert settings.service_url == "https://agent.demo.relight.example"
    assert settings.primary_url == "https://primary.agent.demo.relight.example"
    assert settings.standby_url == "https://standby.agent.demo.relight.example"
    assert Settings.from_env(settings.to_env()) == settings


def test_the_two_sides_differ_only_in_their_side() -> None:
    """What is not a matter of side is the same in both regions."""
    demo = load_named("demo")
    primary, standby = (dataclasses.asdict(settings_for(demo, role)) for role in Role)
    differing = {name for name in primary if primary[name] != standby[name]}
    # The primary's database has a replica, and the standby the machine that rehearses.
    kept_apart = {"role", "region", "vault_bucket", "peer_vault_bucket", "incidents_topic_arn"}
    assert differing == {*kept_apart, "confirm_replicas", "rehearsal_machine_arn"}


def test_each_region_waits_for_the_replicas_that_it_has(tmp_path: Path) -> None:
    """The primary's replicas are those before a recovery, the standby's those that it has once it was relit."""
    text = 'confirm_by = "position"\nconfirm_replicas = 3\non_standby_away = "proceed"\n' + DEMO
    mine = load_environment(write(tmp_path, text))
    primary, standby = (settings_for(mine, role) for role in (Role.PRIMARY, Role.STANDBY))
    assert (primary.confirm_replicas, standby.confirm_replicas) == (3, 0)
    for settings in (primary, standby):
        assert settings.confirm_by is ConfirmBy.POSITION
        assert settings.on_standby_away is OnStandbyAway.PROCEED
        assert Settings.from_env(settings.to_env()) == settings
    rebuilt = load_environment(write(tmp_path, "confirm_replicas_relit = 1\n" + text))
    assert settings_for(rebuilt, Role.STANDBY).confirm_replicas == 1


def test_what_the_environment_chooses_reaches_the_settings(tmp_path: Path) -> None:
    """The tier, the replicas and the choices about acknowledgement and the lease arrive where they are read."""
    text = 'read_only = true\nacknowledge = "local"\non_lease_lost = "serve"\nconfirm_timeout_s = 2.5\n' + DEMO
    text = text.replace("replicas = 2", "replicas = 7").replace(TIER, 'tier = "batch"')
    settings = settings_for(load_environment(write(tmp_path, text)), Role.STANDBY)
    assert settings.read_only is True
    assert settings_for(load_named("demo"), Role.STANDBY).read_only is False
    assert (settings.tier, settings.agent_replicas) == (Tier.BATCH, 7)
    assert (settings.acknowledge, settings.on_lease_lost) == (Acknowledge.LOCAL, OnLeaseLost.SERVE)
    assert settings.confirm_timeout_s == 2.5


def test_providers_reach_the_settings_in_their_order(tmp_path: Path) -> None:
    """Every field and limit that the file may name does, and each region has its own address where it says so."""
    text = f"""{DEMO.partition("[[providers]]")[0]}
[[providers]]
name = "local"
api = "compatible"
model = "llama"
base_url = "http://llm.{{region}}.internal:8000/v1"
context_tokens = 8192
max_output_tokens = 1024
tools = false
images = false
thinks = true
keyless = true
unlisted = true
ca_file = "/etc/ca.pem"
connect_s = 1
silence_s = 20.5
progress_s = 240

[[providers]]
name = "openai"
api = "openai"
model = "gpt-5"

[provider_limits]
failures = 5
open_s = 30

[network{DEMO.partition("[network")[2]}"""
    mine = load_environment(write(tmp_path, text))
    for role, region in ((Role.PRIMARY, "us-east-1"), (Role.STANDBY, "us-west-2")):
        settings = settings_for(mine, role)
        local, openai = settings.providers
        assert dataclasses.asdict(local) == {
            "name": "local",
            "api": "compatible",
            "model": "llama",
            "base_url": f"http://llm.{region}.internal:8000/v1",
            "context_tokens": 8192,
            "max_output_tokens": 1024,
            "tools": False,
            "images": False,
            "thinks": True,
            "keyless": True,
            "unlisted": True,
            "ca_file": "/etc/ca.pem",
            "connect_s": 1.0,
            "silence_s": 20.5,
            "progress_s": 240.0,
        }
        assert openai == ProviderSpec(name="openai", api=Api.OPENAI, model="gpt-5")
        assert settings.provider_limits == ProviderLimits(failures=5, open_s=30.0)
        assert Settings.from_env(settings.to_env()) == settings


def test_providers_may_be_left_out(tmp_path: Path) -> None:
    """An environment whose agent asks no model has no providers, and no variables of them."""
    text = f"{DEMO.partition('[[providers]]')[0]}[network{DEMO.partition('[network')[2]}"
    settings = settings_for(load_environment(write(tmp_path, text)), Role.PRIMARY)
    assert settings.providers == ()
    assert not [name for name in settings.to_env() if "PROVIDER" in name]


def test_the_time_travel_policy_reaches_the_settings(tmp_path: Path) -> None:
    """Each of its three limits, and 0 too; what is left out keeps its default."""
    text = "hold_timers_after_s = 60\nhold_sends_after_s = 0\n" + DEMO
    settings = settings_for(load_environment(write(tmp_path, text)), Role.STANDBY)
    policy = TimeTravel.of(settings)
    assert policy.limits == {Kind.TIMER: 60.0, Kind.SEND: 0.0, Kind.CREDENTIAL: 0.0}
    assert TimeTravel.of(settings_for(load_environment(write(tmp_path, DEMO)), Role.STANDBY)) == TimeTravel()

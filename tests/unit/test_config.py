"""The seam between stacks and handlers."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight import errors
from relight.config import (
    Acknowledge,
    ConfirmBy,
    Connections,
    MemoryStore,
    OnLeaseLost,
    OnStandbyAway,
    Role,
    Settings,
)
from relight.errors import ConfigError
from relight.memory.store import CollectionSpec, Distance, HnswIndex
from relight.objectives import OBJECTIVES, Tier, uploads_to_standby_first
from relight.providers.spec import Api, ProviderLimits, ProviderSpec

SETTINGS = Settings(
    environment="demo",
    tier=Tier.INTERNAL,
    role=Role.STANDBY,
    region="us-west-2",
    primary_region="us-east-1",
    standby_region="us-west-2",
    vault_bucket="v2",
    peer_vault_bucket="v1",
    lease_bucket="l",
    lease_region="us-west-2",
    connections_secret="relight/demo/connections",
    service_url="https://agent.demo.relight.example",
    primary_url="https://primary.agent.demo.relight.example",
    standby_url="https://standby.agent.demo.relight.example",
    cluster="relight-demo",
    agent_service="agent",
    agent_replicas=2,
)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(
            SETTINGS,
            confirm_by=ConfirmBy.POSITION,
            confirm_replicas=0,
            on_standby_away=OnStandbyAway.PROCEED,
            acknowledge=Acknowledge.LOCAL,
            on_lease_lost=OnLeaseLost.SERVE,
            lease_ttl_s=7.5,
            probe_threshold=5,
        ),
    ],
)
def test_what_a_stack_writes_a_handler_reads(settings: Settings) -> None:
    """The environment variables give back an equal value."""
    assert Settings.from_env(settings.to_env()) == settings


def test_missing_variables_are_all_named() -> None:
    """fails when variables are missing: one error names every one of them."""
    with pytest.raises(ConfigError, match=r"RELIGHT_REGION.*RELIGHT_AGENT_REPLICAS"):
        Settings.from_env({"RELIGHT_ENVIRONMENT": "demo", "RELIGHT_TIER": "internal"})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RELIGHT_TIER", "gold", "'gold' is not one of customer-facing, internal, batch, sandbox"),
        ("RELIGHT_AGENT_REPLICAS", "two", "'two' is not a valid int"),
        ("RELIGHT_CONFIRM_BY", "luck", "'luck' is not one of commit, position"),
        ("RELIGHT_ON_STANDBY_AWAY", "hope", "'hope' is not one of wait, proceed"),
        ("RELIGHT_LEASE_TTL_S", "", "'' is not a valid float"),
        ("RELIGHT_REGION", "", "RELIGHT_REGION is empty"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, says: str) -> None:
    """fails when a variable is wrong: the error names it, its value and the rule."""
    with pytest.raises(ConfigError, match=says):
        Settings.from_env({**SETTINGS.to_env(), name: value})


def test_the_other_region() -> None:
    """A region knows its peer, whichever of the two it is."""
    assert SETTINGS.peer_region == "us-east-1"
    assert replace(SETTINGS, region="us-east-1").peer_region == "us-west-2"


def test_connections_keep_their_secrets() -> None:
    """Passwords are in the secret's value and never in a repr or an error."""
    connections = Connections(state_dsn="password=hunter2", memory_dsn="hunter2", queue_url="hunter2")
    assert Connections.from_json(connections.to_json(), source="s") == connections
    assert "hunter2" not in repr(connections)
    for text in (
        "hunter2",
        '"hunter2"',
        '{"hunter": "hunter2"}',
        '{"state_dsn": "hunter2", "memory_dsn": 2, "queue_url": ""}',
    ):
        with pytest.raises(ConfigError, match="the secret s ") as caught:
            Connections.from_json(text, source="s")
        assert "hunter2" not in str(caught.value)


def test_points_go_where_the_objective_needs_them() -> None:
    """Only tiers whose RPO is shorter than replication's promise upload to the standby's vault first."""
    first = {tier for tier in Tier if uploads_to_standby_first(OBJECTIVES[tier])}
    assert first == {Tier.CUSTOMER_FACING, Tier.INTERNAL}


def test_every_error_survives_pickling() -> None:
    """Step errors are stored, so each one comes back with its class, its fields and its text."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RelightError)]
    assert len(kinds) > 10
    for kind in kinds:
        back = pickle.loads(pickle.dumps(kind("a problem", hint="a way out")))
        assert (type(back), back.problem, back.hint, str(back)) == (
            kind,
            "a problem",
            "a way out",
            "a problem; a way out",
        )


SEVERAL = replace(
    SETTINGS,
    memory_store=MemoryStore.QDRANT,
    collections=(
        CollectionSpec(name="notes", dimension=3, embedding_model="m", distance=Distance.DOT, prefix="passage: "),
        CollectionSpec(name="a,b", dimension=4, embedding_model="n", index=None, journalled=False),
        CollectionSpec(name="Ä", dimension=5, embedding_model="o", index=HnswIndex(m=8, ef_construction=100)),
    ),
)


def test_collections_come_back_from_the_environment_variables() -> None:
    """Every field of every collection does, those too that equality leaves out."""
    before = SEVERAL
    after = Settings.from_env(before.to_env())
    assert after == before
    for field in ("index", "journalled"):
        assert [getattr(spec, field) for spec in after.collections] == [getattr(s, field) for s in before.collections]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "memory",
        "[]",
        "{}",
        "[1]",
        '[{"name": "a"}]',
        '[{"name":"a","dimension":3,"embedding_model":"m","distance":"far","prefix":"","index":null}]',
    ],
)
def test_collections_that_are_none_are_refused(text: str) -> None:
    """fails when the variable is no list of collections, with its name and what to do."""
    with pytest.raises(ConfigError, match="RELIGHT_COLLECTIONS="):
        Settings.from_env(SEVERAL.to_env() | {"RELIGHT_COLLECTIONS": text})


def test_names_come_back_from_the_environment_variables() -> None:
    """With commas between; where none is set there is none, and not one that is empty."""
    named = replace(SETTINGS, large_subnets=("subnet-1", "subnet-2"), server_services=("vector",))
    assert named.to_env()["RELIGHT_LARGE_SUBNETS"] == "subnet-1,subnet-2"
    assert Settings.from_env(named.to_env()) == named
    assert Settings.from_env(SETTINGS.to_env()).server_services == ()
    for text in ("", "a,", "a, b"):
        with pytest.raises(ConfigError, match=r"RELIGHT_LARGE_SUBNETS=.* is not a list of names"):
            Settings.from_env(SETTINGS.to_env() | {"RELIGHT_LARGE_SUBNETS": text})


def test_one_collection_twice_is_refused() -> None:
    """fails when two collections have one name."""
    text = SEVERAL.to_env()["RELIGHT_COLLECTIONS"].replace("a,b", "notes")
    with pytest.raises(ConfigError, match="one twice"):
        Settings.from_env(SEVERAL.to_env() | {"RELIGHT_COLLECTIONS": text})


def test_keys_of_a_vault_outside_aws_come_with_their_secret() -> None:
    """fails when one half is missing, without showing the other."""
    keys = Connections(state_dsn="a", memory_dsn="b", queue_url="c", vault_keys="AKIA:hunter2")
    assert Connections.from_json(keys.to_json(), source="s") == keys
    for half in ("hunter2", "hunter2:", ":hunter2"):
        with pytest.raises(ConfigError, match="peer_vault_keys of the connections is not ID:SECRET") as caught:
            replace(keys, peer_vault_keys=half)
        assert "hunter2" not in str(caught.value)


# LLM providers

_seconds = st.floats(min_value=1e-3, max_value=1e6)
_words = st.text(min_size=1, max_size=20)
_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


def specs() -> st.SearchStrategy[ProviderSpec]:
    """Providers of every kind, with any text that a field takes."""
    return st.builds(
        ProviderSpec,
        name=_names,
        api=st.sampled_from(Api),
        model=_words,
        base_url=st.sampled_from(["http://127.0.0.1:8000/v1", "https://llm.example/ä"]),
        context_tokens=st.integers(0, 2**40),
        max_output_tokens=st.integers(0, 2**40),
        **{name: st.booleans() for name in ("tools", "images", "thinks", "keyless", "unlisted")},
        ca_file=st.text(max_size=20),
        **dict.fromkeys(("connect_s", "silence_s", "progress_s"), _seconds),
    )


def limits() -> st.SearchStrategy[ProviderLimits]:
    """Limits of every size."""
    chosen: dict[str, st.SearchStrategy[Any]] = {item.name: _seconds for item in fields(ProviderLimits)}
    chosen |= {"failures": st.integers(1, 100), "slow_samples": st.integers(1, 100)}
    chosen |= {"failure_share": st.floats(0, 1), "slow_factor": st.one_of(st.just(0.0), st.floats(1.01, 100))}
    return st.builds(ProviderLimits, **chosen)


@given(st.lists(specs(), max_size=4, unique_by=lambda spec: spec.name), limits())
def test_providers_come_back_from_the_environment_variables(chosen: list[ProviderSpec], beyond: ProviderLimits) -> None:
    """Every field of every provider and every limit does, in the same order."""
    before = replace(SETTINGS, providers=tuple(chosen), provider_limits=beyond)
    assert Settings.from_env(before.to_env()) == before


def test_of_a_provider_only_what_was_chosen_is_a_variable() -> None:
    """All variables of a function together are 4 KB at most."""
    one = replace(SETTINGS, providers=(ProviderSpec(name="a", api=Api.ANTHROPIC, model="m"),))
    assert one.to_env()["RELIGHT_PROVIDERS"] == '[{"api": "anthropic", "model": "m", "name": "a"}]'
    assert "RELIGHT_PROVIDER_LIMITS" not in one.to_env()


ONE = {"name": "a", "api": "openai", "model": "hunter2"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("hunter2", "RELIGHT_PROVIDERS is not JSON"),
        ("", "RELIGHT_PROVIDERS is not JSON"),
        ({"a": "hunter2"}, "RELIGHT_PROVIDERS is not a list of providers"),
        (["hunter2"], r"RELIGHT_PROVIDERS\[0\] is not an object; its keys are name, api, model, base_url"),
        ([], "RELIGHT_PROVIDERS: there are no providers"),
        ([{**ONE, "hunter2": 1}], r"RELIGHT_PROVIDERS\[0\] has a key that is unknown; its keys are name, api, model"),
        ([{"name": "a"}], r"RELIGHT_PROVIDERS\[0\] lacks api, model"),
        ([ONE, {**ONE, "name": 2}], r"RELIGHT_PROVIDERS\[1\].name is not a str"),
        ([{**ONE, "api": "hunter2"}], r"RELIGHT_PROVIDERS\[0\].api is not one of anthropic, openai, compatible"),
        ([{**ONE, "tools": 1}], r"RELIGHT_PROVIDERS\[0\].tools is not a bool"),
        ([{**ONE, "context_tokens": 1.5}], r"RELIGHT_PROVIDERS\[0\].context_tokens is not a int"),
        ([{**ONE, "silence_s": True}], r"RELIGHT_PROVIDERS\[0\].silence_s is not a float"),
        ([{**ONE, "silence_s": 0}], r"RELIGHT_PROVIDERS\[0\]: silence_s of provider a is 0"),
        ([{**ONE, "base_url": "http://u:hunter2@h"}], "holds a key or password"),
        ([{**ONE, "base_url": "http://[hunter2"}], r"RELIGHT_PROVIDERS\[0\]: base_url of provider a is no http"),
        ([ONE, ONE], "RELIGHT_PROVIDERS: two providers are named a"),
    ],
)
def test_providers_that_are_none_are_refused(value: object, says: str) -> None:
    """fails when the variable is no list of providers, and says where, but nothing that it holds."""
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(ConfigError, match=says) as caught:
        Settings.from_env(SETTINGS.to_env() | {"RELIGHT_PROVIDERS": text})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "RELIGHT_PROVIDER_LIMITS is not an object"),
        ('{"patience": 3}', "RELIGHT_PROVIDER_LIMITS has a key that is unknown; its keys are failures, window_s"),
        ('{"failures": "3"}', "RELIGHT_PROVIDER_LIMITS.failures is not a int"),
        ('{"open_s": -1}', "RELIGHT_PROVIDER_LIMITS: open_s is -1.0"),
        ('{"open_s": NaN}', "RELIGHT_PROVIDER_LIMITS: open_s is nan"),
        ('{"slow_factor": 0.5}', "RELIGHT_PROVIDER_LIMITS: slow_factor=0.5 is not above 1"),
    ],
)
def test_limits_that_are_none_are_refused(text: str, says: str) -> None:
    """fails when the limits are not what they may be, with the variable's name and the field's."""
    with pytest.raises(ConfigError, match=says):
        Settings.from_env(SETTINGS.to_env() | {"RELIGHT_PROVIDER_LIMITS": text})


def test_keys_of_providers_are_kept_secret() -> None:
    """They come back from the secret's value, and are in no repr."""
    keys = Connections(state_dsn="a", memory_dsn="b", queue_url="c", provider_keys={"anthropic": "sk-hunter2"})
    assert Connections.from_json(keys.to_json(), source="s") == keys
    assert "hunter2" not in repr(keys)
    assert "hunter2" not in str(keys)


@pytest.mark.parametrize("key", ["sk-hunter2\n", "sk hunter2", "hunter2\x00", "hünter2", "", 2, None, ["hunter2"]])
def test_a_key_that_no_header_takes_is_refused(key: object) -> None:
    """fails when a key is no single word: the error names the provider, and shows nothing of the key."""
    text = json.dumps({"state_dsn": "a", "memory_dsn": "b", "queue_url": "c", "provider_keys": {"anthropic": key}})
    with pytest.raises(ConfigError, match="the key of provider anthropic in the connections") as caught:
        Connections.from_json(text, source="s")
    assert "nter2" not in str(caught.value)


@pytest.mark.parametrize("keys", ["hunter2", ["hunter2"], 2, None])
def test_keys_without_their_providers_are_refused(keys: object) -> None:
    """fails when the secret holds no object of keys, and shows nothing of it."""
    text = json.dumps({"state_dsn": "a", "memory_dsn": "b", "queue_url": "c", "provider_keys": keys})
    with pytest.raises(ConfigError, match="the secret s has no object under provider_keys") as caught:
        Connections.from_json(text, source="s")
    assert "hunter2" not in str(caught.value)


def test_each_role_has_one_other() -> None:
    """And is that one's other."""
    assert (Role.PRIMARY.other, Role.STANDBY.other) == (Role.STANDBY, Role.PRIMARY)
    assert all(role.other.other is role for role in Role)

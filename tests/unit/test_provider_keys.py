"""Where the keys of LLM providers are read from, and what is said while they are not there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws
from unit.test_config import SETTINGS

from relight.config import Connections
from relight.errors import ConfigError
from relight.wiring import Region

if TYPE_CHECKING:
    from collections.abc import Iterator

APART = replace(SETTINGS, provider_keys_secret="relight/demo/provider-keys")
PLAIN: dict[str, Any] = {"state_dsn": "s", "memory_dsn": "m", "queue_url": "q"}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("secretsmanager", region_name=SETTINGS.region)
        client.create_secret(Name=SETTINGS.connections_secret, SecretString=json.dumps(PLAIN))
        yield client


def test_keys_of_their_own_secret_join_the_connections(secrets: Any) -> None:
    """Who asks providers has both; who does not reads the connections alone."""
    secrets.create_secret(Name=APART.provider_keys_secret, SecretString='{"anthropic": "hunter2"}')
    with Region(APART) as region:
        assert region.connections == Connections(**PLAIN)
        assert region.provider_connections == replace(Connections(**PLAIN), provider_keys={"anthropic": "hunter2"})


def test_without_a_secret_of_their_own_they_are_in_the_connections(secrets: Any) -> None:
    """An operator who writes the connections puts the keys there."""
    value = {**PLAIN, "provider_keys": {"anthropic": "hunter2"}}
    secrets.put_secret_value(SecretId=SETTINGS.connections_secret, SecretString=json.dumps(value))
    with Region(SETTINGS) as region:
        assert region.provider_connections.provider_keys == {"anthropic": "hunter2"}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "has no value yet"),
        ("hunter2", "does not hold JSON"),
        ('["hunter2"]', "does not hold a JSON object"),
        ('{"anthropic": "hunter2\\n"}', "key of provider anthropic"),
    ],
)
def test_keys_that_are_not_there_yet(secrets: Any, value: str | None, problem: str) -> None:
    """fails when nobody has put the keys, or something else: what to put where is said, and no value is shown."""
    given = {} if value is None else {"SecretString": value}
    secrets.create_secret(Name=APART.provider_keys_secret, **given)
    with Region(APART) as region:
        assert region.connections.state_dsn == "s", "nobody else is kept from working"
        with pytest.raises(ConfigError, match=problem) as caught:
            _ = region.provider_connections
    assert "hunter2" not in str(caught.value)
    if not problem.startswith("key"):
        assert 'put {"<name of the provider>": "<key>"} into the secret relight/demo/provider-keys' in str(caught.value)

"""Which providers there are, and their limits: what cannot be right is refused at start."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.errors import ConfigError
from relight.providers.spec import Api, ProviderLimits, ProviderSpec, check_positive, check_specs

SECRET = "sk-ant-api03-very-secret"
NOT_POSITIVE = [0, 0.0, -1, -0.001, math.nan, math.inf, -math.inf, True, "5", None]
NOT_COUNTS = [-1, 0.5, 2.5, math.nan, math.inf, True, "5", None]


def spec(**named: Any) -> ProviderSpec:
    return ProviderSpec(
        **{"name": "local", "api": Api.COMPATIBLE, "model": "m", "base_url": "http://llm:8000/v1"} | named
    )


def refused(**named: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        spec(**named)
    assert caught.value.hint, "the error does not say what to do"
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    return str(caught.value)


@pytest.mark.parametrize("name", ["anthropic", "gpt-5.1_mini", "0", "a" * 63])
def test_names(name: str) -> None:
    """Short lower-case names, as they stand in metrics and in the ledger."""
    assert spec(name=name).name == name


@pytest.mark.parametrize("name", ["", "Anthropic", "my provider", "a/b", "a:b", "-a", "a\n", "é", "a" * 64, None, 5])
def test_what_is_no_name_is_refused(name: object) -> None:
    """fails when a name would break a metric's dimension, a log line, or what a task says that it waits for."""
    told = refused(name=name)
    assert told.startswith(f"provider name {name!r} is not lower-case letters, digits, '.', '_' and '-'; give each")


def test_a_provider_needs_an_api_and_a_model() -> None:
    """fails when a format that is not spoken, or no model, is found out by the first call."""
    assert refused(api="gemini") == (
        "api of provider local is 'gemini', which is unknown; choose from anthropic, openai, compatible"
    )
    assert "is 'openai', which is unknown" in refused(api="openai")  # the text alone would never be equal by identity
    assert refused(model="") == "provider local names no model; set its model"


@pytest.mark.parametrize(("name", "value"), [("tools", "no"), ("keyless", 1), ("model", 5), ("ca_file", 5)])
def test_types_are_what_they_are_said_to_be(name: str, value: object) -> None:
    """fails when `tools="no"`, which is true, lets a provider be asked for tools."""
    said = "bool" if name in ("tools", "keyless") else "str"
    assert refused(**{name: value}) == f"{name} of provider local is no {said}; correct its type"


def test_a_compatible_server_needs_an_address() -> None:
    """The others have one of their own."""
    assert (
        refused(base_url="") == "provider local has no base_url; set the server's address, such as http://llm:8000/v1"
    )
    for api in (Api.ANTHROPIC, Api.OPENAI):
        assert spec(api=api, base_url="").base_url == ""


@pytest.mark.parametrize(
    "address",
    ["http://llm:8000/v1", "https://llm.example/v1/", "http://[::1]:8000/v1", "http://llm.{region}.internal/v1"],
)
def test_addresses(address: str) -> None:
    """With or without a port, of either family."""
    assert spec(base_url=address).base_url == address


@pytest.mark.parametrize(
    "address",
    [
        "llm:8000/v1",
        "ftp://llm/v1",
        "http://",
        "http:///v1",
        "/v1",
        "http://llm:notaport/v1",
        "http://llm:99999/v1",
        "http://llm:0/v1",
        "http://[::1/v1",
        "http://my llm/v1",
        " http://llm/v1",
        "http://llm/v1\n",
        SECRET,
        f"http://llm:{SECRET}/v1",
        f"http://[{SECRET}]/v1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """fails when an address that nothing can be sent to is taken, or shown: it may hold a key."""
    told = refused(base_url=address)
    assert told == "base_url of provider local is no http(s) address; write http://host/v1"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"https://{SECRET}@llm/v1", "holds a key or password; put the key into the secret"),
        (f"https://user:{SECRET}@llm/v1", "holds a key or password"),
        (f"https://:{SECRET}@llm/v1", "holds a key or password"),
        (f"https://:{SECRET}@llm:x/v1", "holds a key or password"),
        (f"https://llm/v1?key={SECRET}", "holds more than host and path; put a key into the secret, and no query"),
        (f"https://llm/v1#{SECRET}", "holds more than host and path"),
    ],
)
def test_an_address_that_holds_a_key_is_refused(address: str, said: str) -> None:
    """fails when a key can be in the settings, where every process and every log of them has it."""
    assert f"base_url of provider local {said}" in refused(base_url=address)


@pytest.mark.parametrize("name", ["connect_s", "silence_s", "progress_s"])
@pytest.mark.parametrize("value", NOT_POSITIVE, ids=repr)
def test_a_time_is_above_zero(name: str, value: object) -> None:
    """fails when a provider would never be waited for, or for ever."""
    told = refused(**{name: value})
    assert told == (
        f"{name} of provider local is {value!r}, not a number above 0; correct it, or leave it out for the default"
    )


@pytest.mark.parametrize("name", ["context_tokens", "max_output_tokens"])
@pytest.mark.parametrize("value", NOT_COUNTS, ids=repr)
def test_tokens_are_counted(name: str, value: object) -> None:
    """A number of tokens is a whole one, and 0 says that it is unknown."""
    told = refused(**{name: value})
    assert told == f"{name} of provider local is {value!r}, not a whole number from 0; set 0 for unknown"
    assert getattr(spec(**{name: 0}), name) == 0


# -- limits


def test_the_defaults_are_limits() -> None:
    """What is documented holds."""
    limits = ProviderLimits()
    assert (limits.failures, limits.window_s, limits.open_s, limits.incident_after_s) == (3, 60.0, 60.0, 1800.0)


LIMITS = [item.name for item in dataclasses.fields(ProviderLimits)]
COUNTS = ["failures", "slow_samples"]
FACTORS = ["failure_share", "slow_factor"]


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in COUNTS + FACTORS])
@pytest.mark.parametrize("value", NOT_POSITIVE, ids=repr)
def test_a_limit_is_above_zero(name: str, value: object) -> None:
    """fails when a breaker would never open, or never close."""
    with pytest.raises(ConfigError, match=rf"^{name} is .*, not a number above 0; correct it, or leave it out"):
        ProviderLimits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, *NOT_COUNTS], ids=repr)
def test_a_limit_that_is_counted_is_a_whole_number(name: str, value: object) -> None:
    """Failures and samples are counted from 1."""
    with pytest.raises(ConfigError, match=rf"^{name} is .*, not a whole number from 1; correct it, or leave it out"):
        ProviderLimits(**{name: value})  # type: ignore[arg-type]
    assert getattr(ProviderLimits(**{name: 1}), name) == 1


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_is_a_share(value: float) -> None:
    """From none to all of the calls."""
    with pytest.raises(ConfigError, match=r"failure_share=.* is not from 0 to 1; 0 counts failures alone"):
        ProviderLimits(failure_share=value)
    assert ProviderLimits(failure_share=1.0).failure_share == 1.0


@pytest.mark.parametrize("value", [-1.0, 0.5, 1.0, math.nan, math.inf])
def test_a_factor_is_above_one(value: float) -> None:
    """fails when every answer would be a slow one; 0 turns it off."""
    with pytest.raises(ConfigError, match=r"slow_factor=.* is not above 1; 0 turns it off"):
        ProviderLimits(slow_factor=value)
    assert ProviderLimits(slow_factor=0).slow_factor == 0


@given(st.floats() | st.integers())
def test_only_finite_numbers_above_zero_are_positive(value: float) -> None:
    """For any number."""
    if value > 0 and value < math.inf:
        check_positive(value, "x")
    else:
        with pytest.raises(ConfigError):
            check_positive(value, "x")


# -- all of them


def test_there_is_a_provider() -> None:
    """fails when an agent starts that could never be answered."""
    with pytest.raises(ConfigError, match="there are no providers; configure one at least, in order of preference"):
        check_specs([])
    check_specs([spec()])


def test_each_has_a_name_of_its_own() -> None:
    """fails when two providers would share a breaker and a key."""
    with pytest.raises(ConfigError, match="two providers are named b; give each a name of its own"):
        check_specs([spec(name=name) for name in "abcb"])
    check_specs([spec(name=name) for name in "abc"])


def test_a_spec_goes_between_processes() -> None:
    """It is a value: equal when it is the same, and the same after a pickle; errors too."""
    assert pickle.loads(pickle.dumps(spec())) == spec()
    with pytest.raises(ConfigError) as caught:
        spec(name="A")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

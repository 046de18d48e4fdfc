"""Whether LLM providers could be asked is found out for all of them at once, whatever one of them does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_config import SETTINGS

from relight.config import Connections
from relight.errors import ConfigError, DeniedError, UnavailableError
from relight.providers import readiness as module
from relight.providers.faults import Fault, FaultKind
from relight.providers.opening import open_one
from relight.providers.readiness import ProviderReadiness, check_providers, check_region
from relight.providers.spec import Api, ProviderSpec
from relight.wiring import Region

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from relight.providers.port import Provider
    from relight.recovery.metrics import Tally

KEYS = Connections(state_dsn="a", memory_dsn="b", queue_url="c", provider_keys={"anthropic": "sk-hunter2"})


def spec(name: str, **more: Any) -> ProviderSpec:
    return ProviderSpec(name=name, api=Api.ANTHROPIC, model=f"{name}-model", unlisted=True, **more)


class Asked:
    """A provider whose check is what the test says."""

    def __init__(self, spec: ProviderSpec, check: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.spec = spec
        self._check = check
        self.closed = False

    async def check(self, *, timeout_s: float) -> None:
        await self._check()

    async def close(self) -> None:
        self.closed = True


def check(
    checks: dict[str, Callable[[], Coroutine[Any, Any, None]]], **options: Any
) -> tuple[dict[str, ProviderReadiness], list[Asked]]:
    opened: list[Asked] = []

    def open_(spec: ProviderSpec) -> Provider:
        opened.append(Asked(spec, checks[spec.name]))
        return opened[-1]  # type: ignore[return-value]

    found = asyncio.run(check_providers([spec(name) for name in checks], open_=open_, **options))
    assert [item.provider for item in found] == [*checks]
    return {item.provider: item for item in found}, opened


async def answers() -> None:
    """It would answer."""


def test_each_is_told_apart() -> None:
    """Ready, or the kind of fault with what the adapter says of it; every one is closed."""

    async def denies() -> None:
        raise Fault(FaultKind.DENIED, "401: the key is not taken")

    found, opened = check({"a": answers, "b": denies, "c": answers})
    assert [item.ready for item in found.values()] == [True, False, True]
    assert (found["b"].fault, found["b"].detail) == ("denied", "401: the key is not taken")
    assert found["a"].model == "a-model"
    assert all(provider.closed for provider in opened)


def test_all_are_asked_at_once() -> None:
    """fails when the second waits for the first: each of these ends once the other has begun."""
    begun = {name: asyncio.Event() for name in "ab"}

    async def meets(own: str, other: str) -> None:
        begun[own].set()
        await begun[other].wait()

    found, _ = check({"a": partial(meets, "a", "b"), "b": partial(meets, "b", "a")})
    assert all(item.ready for item in found.values())


def test_what_opening_takes_is_no_providers_silence() -> None:
    """fails when one is asked, under its time limit, while another's SDK is still to be imported."""
    done: list[str] = []

    async def asked() -> None:
        done.append("asked")

    def open_(spec: ProviderSpec) -> Provider:
        done.append("opened")
        return Asked(spec, asked)  # type: ignore[return-value]

    asyncio.run(check_providers([spec("a"), spec("b")], open_=open_))
    assert done == ["opened", "opened", "asked", "asked"]


def test_one_that_hangs_is_given_up() -> None:
    """fails when an adapter keeps no limit of its own: it is not ready, and the others are."""

    async def hangs() -> None:
        await asyncio.Event().wait()

    found, opened = check({"a": hangs, "b": answers}, timeout_s=0.01)
    assert (found["a"].ready, found["a"].fault) == (False, "error")
    assert found["b"].ready
    assert all(provider.closed for provider in opened)


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_what_cannot_be_closed_is_as_ready_as_it_said(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a connection that does not close makes a provider that answers an error, or hides the real fault."""

    async def close(_: Asked) -> None:
        if how == "raises":
            raise OSError("sk-hunter2")
        await asyncio.Event().wait()

    async def denies() -> None:
        raise Fault(FaultKind.DENIED, "401")

    monkeypatch.setattr(Asked, "close", close)
    monkeypatch.setattr(module, "_CLOSE_S", 0.01)
    found, _ = check({"a": answers, "b": denies})
    assert (found["a"].ready, found["a"].fault) == (True, "")
    assert (found["b"].fault, found["b"].detail) == ("denied", "401")


def test_a_mistake_in_an_adapter_tells_nothing_of_the_key(caplog: pytest.LogCaptureFixture) -> None:
    """fails when an adapter raises what it must not: only the error's kind is told, and the others are asked."""

    async def breaks() -> None:
        raise ValueError("illegal header value 'Bearer sk-hunter2'")

    found, _ = check({"a": breaks, "b": answers})
    assert (found["a"].ready, found["a"].fault, found["a"].detail) == (False, "error", "ValueError")
    assert found["b"].ready
    assert "hunter2" not in caplog.text + repr(found) + str([record.__dict__ for record in caplog.records])


def test_a_provider_without_its_key_is_not_configured() -> None:
    """fails when the secret lacks a key: the provider and the secret are named, and the others are asked."""
    found = asyncio.run(check_providers([spec("openai")], open_=partial(open_one, connections=KEYS, settings=SETTINGS)))
    assert found[0].fault == "not_configured"
    assert found[0].detail.startswith("provider openai has no key in the secret relight/demo/connections")
    assert '"provider_keys": {"openai"' in found[0].detail
    apart = replace(SETTINGS, provider_keys_secret="relight/demo/provider-keys")
    with pytest.raises(ConfigError, match=r'in the secret relight/demo/provider-keys; put "openai": "…" into it'):
        open_one(spec("openai"), connections=KEYS, settings=apart)


def test_a_model_that_the_sdk_does_not_know_is_refused() -> None:
    """fails when a model's name is wrong, without showing the key."""
    with pytest.raises(ConfigError, match="anthropic-model") as caught:
        open_one(replace(spec("anthropic"), unlisted=False), connections=KEYS, settings=SETTINGS)
    assert "hunter2" not in str(caught.value)


class Sink:
    """Metrics that are taken, or refused."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.got: list[Tally] = []

    def put_tallies(self, tallies: Sequence[Tally], *, at: object) -> None:
        if self.error is not None:
            raise self.error
        self.got.extend(tallies)


def region(sink: Sink) -> Region:
    made = Region(replace(SETTINGS, providers=(spec("anthropic", base_url="http://127.0.0.1:1"), spec("openai"))))
    made.__dict__ |= {"connections": KEYS, "metrics": sink}
    return made


def test_a_region_publishes_what_it_found() -> None:
    """One metric for each provider, and the same as the function's result, which is JSON and holds no key."""
    found = check_region(region(sink := Sink()))
    assert [(item["provider"], item["fault"]) for item in found["providers"]] == [
        ("anthropic", "connection_refused"),
        ("openai", "not_configured"),
    ]
    assert [(tally.name, tally.dimensions["provider"], tally.counts) for tally in sink.got] == [
        ("ProviderReady", "anthropic", {0.0: 1}),
        ("ProviderReady", "openai", {0.0: 1}),
    ]
    assert "not_published" not in found
    assert "hunter2" not in repr(found)


def test_what_only_the_agent_can_trust_is_not_called_unready() -> None:
    """fails when a provider is tried whose certificates are in the agent's image, and so always found not ready."""
    made = region(sink := Sink())
    made.settings = replace(made.settings, providers=(spec("anthropic", ca_file="/not/here.pem"),))
    assert check_region(made) == {"region": "us-west-2", "providers": [], "not_tried": ["anthropic"]}
    assert sink.got == []


def test_what_was_found_is_told_though_it_cannot_be_published() -> None:
    """fails when CloudWatch is away: the result says so. A missing permission is the function's failure."""
    assert check_region(region(Sink(UnavailableError("away"))))["not_published"] == "away"
    with pytest.raises(DeniedError):
        check_region(region(Sink(DeniedError("no"))))

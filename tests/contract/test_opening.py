"""A region opens its LLM providers, and the router over them, from its settings and its secret."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_config import SETTINGS

from relight.clock import SystemClock
from relight.config import Connections
from relight.errors import ConfigError, UnavailableError
from relight.providers.board import Board
from relight.providers.faults import Fault
from relight.providers.incidents import Incident, Incidents, Kind
from relight.providers.messages import Request, user
from relight.providers.meter import Meter
from relight.providers.opening import open_router, publish_incident
from relight.providers.spec import Api, ProviderLimits, ProviderSpec
from relight.wiring import Region
from relight_drill.llm import PlayedAnthropic, PlayedOpenAI, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relight.providers.router import Degradation
    from relight.recovery.metrics import Tally

pytestmark = pytest.mark.servers

CLAUDE, GPT = "claude-sonnet-5-5", "gpt-5.5"
HELLO = Request(messages=(user("Hello"),), max_tokens=100)
TOPIC = "arn:aws:sns:us-west-2:000000000000:relight-demo-incidents"
THREADS = ("provider-meter", "relight-breakers", "relight-incidents", "relight-router")


@pytest.fixture
def claude() -> Iterator[PlayedAnthropic]:
    """A played Anthropic."""
    with PlayedAnthropic(models=[CLAUDE]) as played:
        yield played


@pytest.fixture
def gpt() -> Iterator[PlayedOpenAI]:
    """A played OpenAI."""
    with PlayedOpenAI(models=[GPT]) as played:
        yield played


class Sink:
    """Metrics in a list."""

    def __init__(self) -> None:
        self.got: list[Tally] = []

    def put_tallies(self, tallies: Sequence[Tally], *, at: datetime) -> None:
        self.got.extend(tallies)

    def attempts(self) -> dict[tuple[str, str], int]:
        """How often each provider had each outcome."""
        return {
            (tally.dimensions["provider"], tally.dimensions["outcome"]): sum(tally.counts.values())
            for tally in self.got
            if tally.name == "ProviderAttempts"
        }


class Topic:
    """An SNS that keeps what is published, and lets a test wait for it."""

    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []
        self.told = threading.Event()

    def publish(self, **message: str) -> None:
        self.published.append(message)
        self.told.set()


@contextmanager
def opened(claude: PlayedAnthropic, gpt: PlayedOpenAI, **keys: str) -> Iterator[tuple[Region, Sink, Topic]]:
    """A region whose state database nobody serves, and which asks the played providers."""
    specs = (
        ProviderSpec(name="anthropic", api=Api.ANTHROPIC, model=CLAUDE, base_url=claude.base_url),
        ProviderSpec(name="openai", api=Api.OPENAI, model=GPT, base_url=gpt.base_url),
    )
    assert claude.key and gpt.key
    with Region(replace(SETTINGS, providers=specs, incidents_topic_arn=TOPIC)) as region:
        sink, topic = Sink(), Topic()
        region.__dict__["connections"] = Connections(
            state_dsn="host=127.0.0.1 port=1 connect_timeout=2",
            memory_dsn="none",
            queue_url="none",
            provider_keys={"anthropic": claude.key, "openai": gpt.key} | keys,
        )
        region.__dict__["metrics"] = sink
        region._incidents = lambda: topic  # type: ignore[method-assign]
        yield region, sink, topic
    assert threads() == []


def threads() -> list[str]:
    """The threads of routers that run."""
    return [thread.name for thread in threading.enumerate() if thread.name in THREADS]


def test_a_regions_router_asks_in_order_and_is_closed_with_it(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """The first while it answers, then the second, which is said; what was tried is counted, though the state database
    is away."""
    degraded: list[Degradation] = []
    with opened(claude, gpt) as (region, sink, _):
        router = region.router(on_degraded=degraded.append)
        assert router.complete(HELLO).provider == "anthropic"
        claude.trouble = Trouble.SERVER_ERROR
        answer = router.complete(HELLO)
        assert (answer.provider, answer.degraded) == ("openai", True)
    assert [(item.provider, item.degraded) for item in degraded] == [("openai", True)]
    assert sink.attempts() == {
        ("anthropic", "answered"): 1,
        ("anthropic", "server_error"): 1,
        ("openai", "answered"): 1,
    }
    with pytest.raises(ConfigError, match="closed"):
        router.complete(HELLO)


def test_the_same_on_an_event_loop(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """Its threads end with it, or with the region where nobody closed it."""

    async def ask(region: Region, *, close: bool) -> str:
        router = region.async_router()
        answer = await router.complete(HELLO)
        if close:
            await router.close()
            await router.close()
        return answer.provider

    for close in (True, False):
        with opened(claude, gpt) as (region, sink, _):
            assert asyncio.run(ask(region, close=close)) == "anthropic"
        assert sink.attempts() == {("anthropic", "answered"): 1}


def test_threads_end_with_a_router_whose_connections_cannot_be_closed(
    claude: PlayedAnthropic, gpt: PlayedOpenAI
) -> None:
    """fails when a provider that cannot be closed leaves the others open, or the threads running; it is said."""

    async def broken() -> None:
        raise OSError("the connection is stuck")

    async def ask(region: Region) -> None:
        router = region.async_router()
        assert (await router.complete(HELLO)).provider == "openai"
        assert {"provider-meter", "relight-breakers", "relight-incidents"} <= set(threads())
        first, second = router._providers
        first.close = broken  # type: ignore[method-assign]
        with pytest.raises(OSError, match="stuck"):
            await router.close()
        assert threads() == []
        with pytest.raises(Fault):
            await second.check(timeout_s=5)

    with opened(claude, gpt, anthropic="sk-hunter2") as (region, _, _topic):
        asyncio.run(ask(region))


@pytest.mark.parametrize(
    "broken", [[Board], [Incidents], [Meter], [Incidents, Meter]], ids=lambda kinds: "-".join(k.__name__ for k in kinds)
)
def test_each_ends_whatever_another_one_raises(
    claude: PlayedAnthropic, gpt: PlayedOpenAI, monkeypatch: pytest.MonkeyPatch, broken: list[type[Any]]
) -> None:
    """fails when what cannot be ended leaves the threads of the others running; what was raised first is raised."""
    for kind in broken:

        def close(self: Any, *, end: Callable[[Any], None] = kind.close, name: str = kind.__name__) -> None:
            end(self)
            raise RuntimeError(f"{name} is stuck")

        monkeypatch.setattr(kind, "close", close)

    async def ask(region: Region) -> None:
        router = open_router(
            region.settings, region.connections, clock=SystemClock(), metrics=Sink(), page=lambda incident: None
        )
        assert (await router.complete(HELLO)).provider == "openai"
        assert sorted(threads()) == ["provider-meter", "relight-incidents"]
        with pytest.raises(RuntimeError, match=f"{broken[0].__name__} is stuck"):
            await router.close()
        assert threads() == []

    with opened(claude, gpt, anthropic="sk-hunter2") as (region, _, _topic):
        asyncio.run(ask(region))


def test_a_refused_key_is_told_to_a_person(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """fails when a key is refused: the next provider answers, the topic is told once, and nowhere is the key."""
    with opened(claude, gpt, anthropic="sk-hunter2") as (region, _, topic):
        router = region.router()
        for _ in range(3):
            assert router.complete(HELLO).provider == "openai"
        assert topic.told.wait(30)
    [message] = topic.published
    assert message["TopicArn"] == TOPIC
    assert message["Subject"] == "Relight demo: LLM provider anthropic refuses its key"
    assert "a new key goes into provider_keys of the secret relight/demo/connections" in text_of(message)
    assert "hunter2" not in str(message)


@pytest.mark.parametrize(
    ("spec", "keys", "says"),
    [
        ({}, {}, "provider anthropic has no key in the secret relight/demo/connections"),
        ({"model": "claude-2"}, {"anthropic": "sk-hunter2"}, "claude-2"),
    ],
)
def test_what_is_not_configured_is_refused_before_anything_starts(
    spec: dict[str, Any], keys: dict[str, str], says: str
) -> None:
    """fails when a key is missing or a model is unknown: the error says which, and no thread is left behind."""
    given = ProviderSpec(**{"name": "anthropic", "api": Api.ANTHROPIC, "model": CLAUDE} | spec)
    connections = Connections(state_dsn="a", memory_dsn="b", queue_url="c", provider_keys=keys)
    before = threading.active_count()
    with pytest.raises(ConfigError, match=says) as caught:
        open_router(replace(SETTINGS, providers=(given,)), connections, clock=SystemClock(), metrics=Sink())
    assert threading.active_count() == before
    assert "hunter2" not in str(caught.value)


def test_without_providers_there_is_no_router() -> None:
    """fails when nobody is configured who could be asked."""
    with Region(SETTINGS) as region:
        region.__dict__["connections"] = Connections(state_dsn="a", memory_dsn="b", queue_url="c")
        with pytest.raises(ConfigError, match="there are no providers"):
            region.router()


@pytest.mark.parametrize("kind", [*Kind])
def test_an_incident_says_what_to_do(kind: Kind) -> None:
    """The message has the incident's text, since when, and the command to look with; the subject is what SNS takes."""
    topic = Topic()
    name = "a" * 63
    at = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)
    settings = replace(SETTINGS, incidents_topic_arn=TOPIC)
    publish_incident(lambda: topic, settings)(Incident(kind=kind, provider=name, since=at, text="what happened"))
    [message] = topic.published
    assert message["Subject"].isascii()
    assert len(message["Subject"]) <= 100
    assert text_of(message).startswith("what happened\n")
    assert "since 2026-04-19 02:00:00Z" in text_of(message)
    assert "relight status --environment demo" in text_of(message)


def test_what_is_over_ends_what_was_told_before() -> None:
    """fails when a pager's incident stays open: the end carries the keys of what it ends, and of nothing else."""
    topic = Topic()
    settings = replace(SETTINGS, incidents_topic_arn=TOPIC)
    for incident in (
        Incident(kind=Kind.FALLBACK, provider="openai", since=datetime.now(UTC), text="b"),
        Incident(kind=Kind.DENIED, provider="anthropic", since=datetime.now(UTC), text="a"),
        Incident(
            kind=Kind.RECOVERED,
            provider="anthropic",
            since=datetime.now(UTC),
            text="c",
            ended=(Kind.DENIED, Kind.FALLBACK),
        ),
    ):
        publish_incident(lambda: topic, settings)(incident)
    told = [
        {name: item["StringValue"] for name, item in message["MessageAttributes"].items()}
        for message in topic.published
    ]
    assert [item["over"] for item in told] == ["false", "false", "true"]
    begun = [key for item in told[:2] for key in json.loads(item["keys"])]
    assert sorted(json.loads(told[2]["keys"])) == sorted(begun)


def text_of(message: dict[str, Any]) -> str:
    """What people read."""
    text: str = json.loads(message["Message"])["default"]
    return text


def test_a_topic_that_cannot_be_reached_is_an_error() -> None:
    """fails when the topic's region is away: the one who pages is told, and tries again."""
    with Region(replace(SETTINGS, region="us-east-1", incidents_topic_arn=TOPIC)) as region:
        client = region._incidents()
        assert client.meta.region_name == "us-west-2"

        def away(**_: object) -> None:
            from botocore.exceptions import EndpointConnectionError

            raise EndpointConnectionError(endpoint_url="sns")

        client.publish = away
        page = publish_incident(lambda: client, region.settings)
        with pytest.raises(UnavailableError):
            page(Incident(kind=Kind.DENIED, provider="a", since=datetime.now(UTC), text=""))


def test_the_limits_of_the_settings_hold(claude: PlayedAnthropic, gpt: PlayedOpenAI) -> None:
    """fails when the router has limits of its own: here one failure opens the breaker."""
    claude.trouble = Trouble.SERVER_ERROR
    with opened(claude, gpt) as (region, _, _topic):
        region.settings = replace(region.settings, provider_limits=ProviderLimits(failures=1, open_s=3600.0))
        router = region.router()
        for _ in range(3):
            assert router.complete(HELLO).provider == "openai"
    assert len(claude.asked) == 1

"""Route 53's player: thresholds both ways, failover answers, TTLs, over real HTTPS servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from servers import serving

from relight_drill.deployment import HealthCheck, Record
from relight_drill.network import Authority, Internet
from relight_drill.processes import DrillError, free_port
from relight_drill.route53 import CHECKERS, Crowd, HttpProbe, Resolver, Route53Player

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL_S = 0.05
NAME, PRIMARY, STANDBY = "agent.example", "primary.agent.example", "standby.agent.example"
RECORDS = (
    Record(name=f"{NAME}.", type="CNAME", ttl=10, values=(PRIMARY,), failover="PRIMARY", health_check="p"),
    Record(name=NAME, type="CNAME", ttl=10, values=(STANDBY,), failover="SECONDARY", health_check="s"),
    Record(name=PRIMARY, type="CNAME", ttl=10, values=("lb.east.example",)),
    Record(name=STANDBY, type="CNAME", ttl=10, values=("lb.west.example",)),
)


def check(name: str, fqdn: str, threshold: int, port: int = 443) -> HealthCheck:
    return HealthCheck(
        id=name, type="HTTPS", fqdn=fqdn, port=port, path="/ready", interval_s=INTERVAL_S, threshold=threshold
    )


class Endpoint:
    """A region's `/ready`; it counts how often it was asked."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.asked = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.path == "/ready"
        self.asked += 1
        return web.Response(status=self.status)


def test_traffic_fails_over_and_back_by_what_endpoints_answer(tmp_path: Path) -> None:
    """The failover name follows the endpoints' answers; with both down the primary is answered; names are chains."""

    async def scenario() -> None:
        authority, internet = Authority(tmp_path), Internet()
        east, west = Endpoint(200), Endpoint(503)
        outside = await internet.add_side("outside")
        probe = HttpProbe(outside.url)
        player = Route53Player((check("p", PRIMARY, 3), check("s", STANDBY, 1)), RECORDS, probe=probe, seed=1)
        outside._find = lambda host, port: internet.locate(player.canonical(host) or "", port)
        # Checkers do not look at certificates.
        context = authority.server("someone.else")
        try:
            async with serving(east.handle, context) as one, serving(west.handle, context) as two:
                internet.publish("lb.east.example", 443, at=one)
                internet.publish("lb.west.example", 443, at=two)
                assert player.canonical(NAME) == "lb.east.example"
                player.play()
                await player.until(lambda: not player.healthy(STANDBY), what="standby down", timeout_s=20)
                assert player.healthy("p")
                west.status = 200
                await player.until(lambda: player.healthy(STANDBY), what="the standby to be healthy", timeout_s=20)
                assert player.canonical(NAME) == "lb.east.example"
                east.status = 503
                await player.until(lambda: not player.healthy(PRIMARY), what="primary down", timeout_s=20)
                assert player.canonical(NAME) == "lb.west.example"
                west.status = 500
                await player.until(lambda: not player.healthy(STANDBY), what="standby down", timeout_s=20)
                assert player.canonical(NAME) == "lb.east.example"
                east.status = 302
                await player.until(lambda: player.healthy(PRIMARY), what="the primary to be back", timeout_s=20)
        finally:
            await player.close()
            await probe.close()
            await internet.close()
        assert [(t.fqdn, t.healthy) for t in player.history] == [
            (STANDBY, False),
            (STANDBY, True),
            (PRIMARY, False),
            (STANDBY, False),
            (PRIMARY, True),
        ]
        assert all(t.first_at <= t.at for t in player.history)

    asyncio.run(scenario())


class Script:
    """Answers each checker from a script, and stops when it is used up."""

    def __init__(self, answers: list[bool]) -> None:
        self.answers = answers
        self.used = asyncio.Event()

    async def __call__(self, _: HealthCheck) -> bool:
        if not self.answers:
            self.used.set()
            await asyncio.get_running_loop().create_future()
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("threshold", "answers", "changes"),
    [
        (3, [False, False, True, False, False, True], []),
        (3, [False, False, False], [False]),
        (3, [False] * 3 + [True, True, False, True, True, True], [False, True]),
        (1, [False, True, False], [False, True, False]),
    ],
)
def test_a_checker_changes_its_mind_after_the_threshold_both_ways(
    threshold: int, answers: list[bool], changes: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only answers in a row count, good ones as well as bad ones."""
    monkeypatch.setattr("relight_drill.route53.CHECKERS", 1)

    async def scenario() -> None:
        script = Script(list(answers))
        player = Route53Player((check("p", PRIMARY, threshold),), (), probe=script, seed=1)
        player.play()
        await asyncio.wait_for(script.used.wait(), 20)
        await player.close()
        assert [t.healthy for t in player.history] == changes

    asyncio.run(scenario())


def test_one_of_three_checkers_keeps_an_endpoint_healthy() -> None:
    """An endpoint is unhealthy only when no more than 18 % of its checkers think that it is healthy."""

    async def scenario() -> None:
        asked = 0

        async def probe(_: HealthCheck) -> bool:
            nonlocal asked
            asked += 1
            task = asyncio.current_task()
            assert task is not None
            return task.get_name().endswith(" 0") and asked < 20 * CHECKERS

        player = Route53Player((check("p", PRIMARY, 1),), (), probe=probe, seed=1)
        player.play()
        await player.until(lambda: not player.healthy("p"), what="the last checker to give up", timeout_s=20)
        assert asked >= 20 * CHECKERS
        await player.close()

    asyncio.run(scenario())


def test_a_client_keeps_an_answer_for_its_ttl() -> None:
    """A resolver answers from its cache until the TTL is over, then with what is true by then."""

    async def scenario() -> None:
        now = 100.0

        async def probe(_: HealthCheck) -> bool:
            return False

        player = Route53Player((check("p", PRIMARY, 1), check("s", STANDBY, 10_000)), RECORDS, probe=probe, seed=1)
        ports = {"lb.east.example": 1001, "lb.west.example": 1002}
        resolver = Resolver(player, locate=ports.get, monotonic=lambda: now)
        assert await resolver.resolve(NAME.upper()) == ("127.0.0.1", 1001)
        player.play()
        await player.until(lambda: not player.healthy("p"), what="primary down", timeout_s=20)
        await player.close()
        now += 9.9
        assert await resolver.resolve(NAME) == ("127.0.0.1", 1001)
        now += 0.2
        assert await resolver.resolve(NAME) == ("127.0.0.1", 1002)
        with pytest.raises(OSError, match=r"nowhere\.example does not resolve"):
            await resolver.resolve("nowhere.example")

    asyncio.run(scenario())


def both(**half: Any) -> tuple[Record, Record]:
    """A name with a record for each region; `half` gives what the two have of each field."""
    rows = [{field: values[number] for field, values in half.items()} for number in (0, 1)]
    return (
        Record(name=NAME, type="CNAME", ttl=10, values=("east",), health_check="p", **rows[0]),
        Record(name=NAME, type="CNAME", ttl=10, values=("west",), health_check="s", **rows[1]),
    )


def answers(records: tuple[Record, ...], *, up: str, near: str = "", times: int = 200) -> set[str]:
    """Whom a name is answered with, asked many times, where only the checks in `up` are healthy."""

    async def scenario() -> set[str]:
        async def probe(asked: HealthCheck) -> bool:
            return asked.id in up

        player = Route53Player((check("p", PRIMARY, 1), check("s", STANDBY, 1)), records, probe=probe, seed=1)
        player.play()
        await player.until(lambda: all(player.healthy(c) is (c in up) for c in "ps"), what="checks", timeout_s=20)
        await player.close()
        return {end for _ in range(times) if (end := player.canonical(NAME, near=near)) is not None}

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("up", "near", "expected"),
    [
        ("ps", "us-east-1", {"east"}),
        ("ps", "us-west-2", {"west"}),
        ("s", "us-east-1", {"west"}),
        ("p", "us-west-2", {"east"}),
        ("", "us-east-1", {"east"}),
        ("", "us-west-2", {"west"}),
    ],
)
def test_latency_records_answer_with_the_nearer_region_that_is_healthy(up: str, near: str, expected: set[str]) -> None:
    """With both regions unhealthy each caller is sent to its own, as if both were healthy."""
    assert answers(both(latency_region=("us-east-1", "us-west-2")), up=up, near=near) == expected


@pytest.mark.parametrize(
    ("weights", "up", "expected"),
    [
        ((1, 1), "ps", {"east", "west"}),
        ((1, 1), "s", {"west"}),
        ((1, 1), "", {"east", "west"}),
        ((1, 0), "ps", {"east"}),
        ((1, 0), "s", {"west"}),
        ((1, 0), "", {"east"}),
        ((0, 0), "ps", {"east", "west"}),
    ],
)
def test_weighted_records_answer_by_chance_among_the_healthy(
    weights: tuple[int, int], up: str, expected: set[str]
) -> None:
    """What weighs nothing is answered only when nothing that weighs something is healthy."""
    assert answers(both(weight=weights), up=up) == expected


def test_weights_are_shares() -> None:
    """fails when a record of three times the weight is answered as often as the other."""

    async def probe(_: HealthCheck) -> bool:
        return True

    player = Route53Player((check("p", PRIMARY, 1), check("s", STANDBY, 1)), both(weight=(3, 1)), probe=probe, seed=1)
    ends = [player.canonical(NAME) for _ in range(1000)]
    assert 700 < ends.count("east") < 800


def test_callers_are_spread_over_places() -> None:
    """Half of them near each region, in an order that the seed repeats; each place keeps its own answers."""

    async def probe(_: HealthCheck) -> bool:
        return True

    ports = {"east": 1001, "west": 1002}
    records = both(latency_region=("us-east-1", "us-west-2"))
    checks = (check("p", PRIMARY, 1), check("s", STANDBY, 1))

    async def ends(seed: int) -> list[int]:
        player = Route53Player(checks, records, probe=probe, seed=1)
        resolvers = [Resolver(player, locate=ports.get, near=near) for near in ("us-east-1", "us-west-2")]
        crowd = Crowd(resolvers, seed=seed)
        return [(await crowd.resolve(NAME))[1] for _ in range(400)]

    found = asyncio.run(ends(1))
    assert 150 < found.count(1001) < 250
    assert found.count(1002) == 400 - found.count(1001)
    assert asyncio.run(ends(1)) == found
    assert asyncio.run(ends(2)) != found


def test_a_chain_without_an_end_does_not_resolve() -> None:
    """Two CNAMEs that point at each other are an error, not an endless search."""
    circle = (
        Record(name="a.example", type="CNAME", ttl=1, values=("b.example",)),
        Record(name="b.example", type="CNAME", ttl=1, values=("a.example",)),
    )

    async def probe(_: HealthCheck) -> bool:
        return True

    assert Route53Player((), circle, probe=probe, seed=1).canonical("a.example") is None


def test_an_endpoint_that_does_not_answer_fails_the_probe(tmp_path: Path) -> None:
    """Refused connections, names that do not resolve and broken TLS are bad answers, not errors."""

    async def scenario() -> None:
        internet = Internet()
        side = await internet.add_side("outside")
        probe = HttpProbe(side.url)
        internet.publish("refuses.example", 443, at=free_port())
        plain = Endpoint(200)
        try:
            async with serving(plain.handle) as port:
                internet.publish("plain.example", 443, at=port)
                for name in ("refuses.example", "nowhere.example", "plain.example"):
                    assert await probe(check("c", name, 1)) is False
        finally:
            await probe.close()
            await internet.close()

    asyncio.run(scenario())


def test_other_kinds_of_health_checks_are_refused() -> None:
    """fails when a stack deploys a health check that the drill does not play."""

    async def probe(_: HealthCheck) -> bool:
        return True

    odd = HealthCheck(id="c", type="CALCULATED", fqdn="x", port=1, path="", interval_s=10, threshold=1)
    with pytest.raises(DrillError, match="CALCULATED"):
        Route53Player((odd,), (), probe=probe, seed=1)

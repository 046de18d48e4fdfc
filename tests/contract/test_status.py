"""`relight status`: both regions on one page, which changes nothing and fails on nothing."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from contract.test_recovery import EAST, WEST, Pair, pair, remember, renewing

from relight.config import ConfirmBy, Role
from relight.errors import LeaseLostError, UnavailableError
from relight.objectives import Tier
from relight.providers.breaker import BreakerState, Phase
from relight.providers.episodes import FALLBACK_KEY, Episode, Kind, Stage
from relight.providers.shared import PostgresBreakers, PostgresEpisodes
from relight.providers.spec import Api, ProviderSpec
from relight.recovery.points import take_point
from relight.recovery.run import STATES, Run, run_state
from relight.recovery.status import Line, State, look, peer_of
from relight.tasks.ledger import Ledger
from relight.wiring import Region
from relight_cli.main import main
from relight_drill.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.config import Settings

__all__ = ["pair"]

pytestmark = pytest.mark.servers

SPECS = tuple(ProviderSpec(name=name, api=Api.ANTHROPIC, model="m") for name in ("anthropic", "openai"))
READY: dict[str, Any] = {
    "providers": [{"provider": spec.name, "ready": True, "fault": "", "detail": ""} for spec in SPECS]
}


class Endpoints:
    """What both regions' public endpoints answer on /ready."""

    def __init__(self) -> None:
        self.status = {"primary": 200, "standby": 503, "service": 200}
        self.works = {"primary": True}
        endpoints = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, name, path = self.path.split("/")
                assert path == "ready"
                self.send_response(endpoints.status[name])
                self.end_headers()
                self.wfile.write(json.dumps({"works": endpoints.works.get(name, False)}).encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    """As they are while the primary acts."""
    made = Endpoints()
    yield made
    made.server.shutdown()
    made.server.server_close()


def told(side: Settings, endpoints: Endpoints, **more: Any) -> Settings:
    """The settings of a region whose endpoints are played."""
    urls = {f"{name}_url": endpoints.url(name) for name in endpoints.status}
    return replace(side, **{"providers": SPECS, **urls, **more})


@contextmanager
def regions(endpoints: Endpoints, **more: Any) -> Iterator[tuple[Region, Region]]:
    """Both, as an operator opens them."""
    settings = [told(side, endpoints, lease_ttl_s=30.0, **more) for side in (EAST, WEST)]
    with Region(settings[0]) as east, Region(settings[1]) as west:
        yield east, west


@contextmanager
def acting(region: Region) -> Iterator[None]:
    """A part of the region's agent: the lease is live, and stays so."""
    keeper = region.lease_keeper()

    def held() -> bool:
        try:
            keeper.check()
        except LeaseLostError:
            return False
        return True

    with renewing(keeper):
        asyncio.run(wait_until(held, what="the lease to be live", timeout_s=30))
        yield


def page(east: Region, west: Region, standby: Any = READY) -> dict[str, Line]:
    def ask() -> Any:
        if isinstance(standby, Exception):
            raise standby
        return standby

    return {line.name: line for line in look(east, west, ask_standby=ask)}


def needing(lines: dict[str, Line], state: State = State.LOOK) -> set[str]:
    return {name for name, line in lines.items() if line.state is state}


def test_a_pair_that_is_well_needs_nobody(pair: Pair, endpoints: Endpoints) -> None:
    """Every line is ok, and says what was asked for: who acts and since when, what would be lost, what waits."""
    remember(pair.east, "a", "b")
    take_point(pair.east)
    with regions(endpoints) as (east, west), acting(east):
        lines = page(east, west)
    assert {line.found for line in lines.values() if line.state is not State.OK} == set()
    assert lines["lease"].found.startswith("us-east-1 holds epoch 1, live for ")
    assert lines["epoch"].found.startswith("epoch 1 of us-east-1 has served for ")
    assert lines["standby endpoint"].found.endswith("answers, and is not ready: us-west-2 does not act")
    assert lines["promise"].found.startswith("the standby confirms commits by commit; ")
    assert lines["replica"].found.startswith("us-west-2 is a replica at ")
    assert " of 2 vectors" in lines["recovery point"].found
    assert lines["exposure"].data["seconds"] is not None
    assert lines["tasks"].data["pending"] == 0
    assert lines["memory"].data["lag_seconds"] == 0
    assert lines["providers"].found == "anthropic is asked; openai is asked"
    assert lines["standby providers"].found == "anthropic is ready; openai is ready"


def test_what_needs_a_person_is_told_apart(pair: Pair, endpoints: Endpoints) -> None:
    """fails when a task is parked, a fallback answers for long, the standby's key is refused, or its gate is open."""
    endpoints.status["standby"] = 200
    with regions(endpoints) as (east, west), acting(east):
        ledger = Ledger(east.database, epoch=lambda: 1)
        for name in ("a", "b"):
            ledger.start_task({}, id_=name)
        claimed = ledger.claim("a", worker="w", lease_s=60)
        assert claimed is not None
        ledger.park(claimed, reason="a person must look")
        breakers, episodes = PostgresBreakers(east.database), PostgresEpisodes(east.database)
        breakers.update(
            "anthropic",
            lambda _, now: BreakerState(phase=Phase.OPEN, since=now - 10_800, change="x", open_until=now + 3600),
        )
        raised = Episode(kind=Kind.FALLBACK, provider="openai", since=0, last=0, stage=Stage.RAISED)
        episodes.update(FALLBACK_KEY, lambda _, now: replace(raised, since=now - 7200, last=now))
        refused = {**READY["providers"][1], "ready": False, "fault": "denied", "detail": "401"}
        lines = page(east, west, {"providers": [READY["providers"][0], refused]})
    expected = {"standby endpoint", "recovery point", "tasks", "providers", "standby providers"}
    assert needing(lines) - {"memory", "exposure"} == expected
    assert re.match(r"1 pending, the oldest due \d+ \w+ ago; 0 running; 1 parked; 0 held; 0 ", lines["tasks"].found)
    assert lines["providers"].found == (
        "anthropic has been left alone for 3 h, its breaker open; openai is asked;"
        " answers have come from the fallback openai for 2 h"
    )
    assert lines["providers"].data["degraded_seconds"] == pytest.approx(7200, abs=600)
    assert lines["standby providers"].found == "anthropic is ready; openai: denied, 401"
    assert lines["standby endpoint"].found.endswith("is ready, and us-west-2 does not act")


def test_in_active_active_both_regions_are_ready(pair: Pair, endpoints: Endpoints) -> None:
    """The region that does not act is to be ready, too; one that acts and works nothing needs a person."""
    with regions(endpoints, tier=Tier.CUSTOMER_FACING) as (east, west), acting(east):
        lines = page(east, west)
        assert "standby endpoint" in needing(lines)
        endpoints.status["standby"] = 200
        lines = page(east, west)
        assert not {"primary endpoint", "standby endpoint"} & needing(lines)
        assert lines["standby endpoint"].found.endswith("serves reads: us-west-2 does not act")
        endpoints.works["primary"] = False
        lines = page(east, west)
        assert "primary endpoint" in needing(lines)
        assert lines["primary endpoint"].found.endswith("serves reads alone, and works no tasks")


def test_what_cannot_be_found_out_is_said(pair: Pair, endpoints: Endpoints) -> None:
    """fails when the primary's servers are away and the standby's function cannot be called: lines say so, and the
    others are there."""
    asyncio.run(pair.state.primary.stop(immediate=True))
    endpoints.status["primary"] = 502
    with regions(endpoints) as (east, west):
        lines = page(east, west, UnavailableError("the function is away"))
    unknown = needing(lines, State.UNKNOWN)
    assert {"epoch", "promise", "tasks", "providers", "standby providers"} <= unknown
    assert lines["standby providers"].found == "the function is away"
    assert lines["replica"].state is State.OK
    assert lines["primary endpoint"].found.endswith("answered 502")
    assert lines["primary endpoint"].state is State.LOOK


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({}, "the standby's function answered in another form than this version reads"),
        ({"providers": [{"name": "anthropic"}]}, "the standby's function answered in another form"),
        ([], "the standby's function answered in another form"),
        (ValueError("a secret"), "looking failed, which is a fault of relight's: ValueError in test_status.py:"),
    ],
    ids=["old", "other", "list", "raises"],
)
def test_what_the_standby_says_breaks_no_page(endpoints: Endpoints, answer: Any, found: str) -> None:
    """fails when a function of another version, or a fault of our own, ends the page with an exception."""
    with regions(endpoints) as (east, west):
        lines = page(Mock(settings=east.settings), Mock(settings=west.settings), answer)
    assert {line.state for name, line in lines.items() if name != "primary endpoint"} >= {State.UNKNOWN}
    assert lines["standby providers"].state is State.UNKNOWN
    assert lines["standby providers"].found.startswith(found)
    assert "secret" not in lines["standby providers"].found
    assert {"lease", "exposure", "memory", "providers"} <= lines.keys()


def test_an_old_answer_of_a_fallback_is_no_state(pair: Pair, endpoints: Endpoints) -> None:
    """fails when answers are said to come from a fallback since days ago, where nobody has asked since."""
    begun = Episode(kind=Kind.FALLBACK, provider="openai", since=0, last=0, stage=Stage.BEGUN)
    with regions(endpoints) as (east, west), acting(east):
        episodes = PostgresEpisodes(east.database)
        episodes.update(FALLBACK_KEY, lambda _, now: replace(begun, since=now - 260_000, last=now - 259_200))
        old = page(east, west)["providers"]
        episodes.update(FALLBACK_KEY, lambda _, now: replace(begun, since=now - 10_800, last=now))
        new = page(east, west)["providers"]
    assert (old.state, old.data["degraded_seconds"]) == (State.OK, None)
    assert old.found.endswith("; the last answer of the fallback openai is 3 d old")
    assert new.data["degraded_seconds"] == pytest.approx(10_800, abs=600)
    assert new.found.endswith("; answers have come from the fallback openai for 3 h")


def test_after_a_recovery_the_standby_is_the_one_that_acts(pair: Pair, endpoints: Endpoints) -> None:
    """fails when the page looks at a region that acts no more; that nobody confirms commits needs a person."""
    remember(pair.east, "a", "b")
    take_point(pair.east)
    pair.state.primary.kill()
    endpoints.status |= {"primary": 502, "standby": 200}
    run = Run(run_id="epoch-2-test", decided_at="2026-04-19T02:00:00+00:00")
    with renewing(pair.west.lease_keeper()):
        for name in STATES:
            run_state(name, pair.west, run)
        with regions(endpoints) as (east, west):
            lines = page(east, west)
    assert lines["lease"].data["region"] == "us-west-2"
    assert lines["epoch"].found.startswith("epoch 2 of us-west-2 has served for ")
    assert lines["standby endpoint"].state is State.OK
    assert {"primary endpoint", "promise", "recovery point"} <= needing(lines)
    assert lines["promise"].found.startswith("NOBODY confirms commits")
    assert needing(lines, State.UNKNOWN) == {"replica"}


def code(body: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("h.py", f"def handler(event, context):\n    {body}\n")
    return stream.getvalue()


def test_the_verb_asks_the_standby_itself(
    pair: Pair, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The function is called in the standby; without it, or when it fails, the line says so, and the exit code is 1."""
    lambdas = pair.emulator.client("lambda", "us-west-2")
    role = pair.emulator.client("iam", "us-west-2").create_role(RoleName="x", AssumeRolePolicyDocument="{}")
    for name, value in told(WEST, endpoints).to_env().items():
        monkeypatch.setenv(name, value)

    def asked() -> dict[str, Any]:
        assert main(["status", "--json"]) == 1
        printed = json.loads(capsys.readouterr().out)
        assert printed["environment"] == "demo"
        rows: dict[str, dict[str, Any]] = {row["name"]: row for row in printed["lines"]}
        assert rows["lease"]["region"] == "us-east-1"
        return rows["standby providers"]

    assert asked()["state"] == "unknown"
    for body, state, found in (
        (f"return {READY!r}", "ok", "anthropic is ready; openai is ready"),
        ("raise ValueError('no such secret')", "unknown", "no such secret"),
    ):
        lambdas.create_function(
            FunctionName="relight-demo-providers",
            Role=role["Role"]["Arn"],
            Handler="h.handler",
            Runtime="python3.13",
            Code={"ZipFile": code(body)},
        )
        row = asked()
        assert (row["state"], found in row["found"]) == (state, True), row
        lambdas.delete_function(FunctionName="relight-demo-providers")


def test_the_other_regions_settings_are_told_by_ones_own() -> None:
    """fails when the operator's variables are of one region, and the page looks at the wrong vault of the other."""
    side = replace(WEST, vault_endpoint="http://own", peer_vault_endpoint="http://peer")
    peer = peer_of(side)
    assert (peer.role, peer.region, peer.vault_bucket) == (Role.PRIMARY, "us-east-1", "vault-east")
    assert (peer.vault_endpoint, peer.peer_vault_endpoint) == ("http://peer", "http://own")
    assert peer_of(peer) == replace(side, confirm_replicas=-1)


def test_what_ones_own_settings_do_not_tell_is_not_guessed(endpoints: Endpoints) -> None:
    """fails when the number of the other region's replicas is taken from this region's variables."""
    with regions(endpoints, confirm_by=ConfirmBy.POSITION) as (east, west), Region(peer_of(west.settings)) as peer:
        assert peer.settings.region == east.settings.region
        from relight.recovery import status

        line = status._line("promise", lambda: status._promise(peer))
    assert line.state is State.UNKNOWN
    assert "use --environment" in line.found

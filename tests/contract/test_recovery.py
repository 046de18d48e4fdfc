"""The states of a recovery, run one by one against real servers and the emulator, without a state machine."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import StatePair, start_pair
from unit.test_config import SETTINGS

from relight.adapters import aws, postgres
from relight.clock import SystemClock
from relight.config import ConfirmBy, Connections, Role
from relight.errors import AgainLaterError, ConfigError, ConflictError, IntegrityError, NotFoundError, StaleEpochError
from relight.memory.api import Applier, Memory, Point
from relight.memory.store import CollectionSpec
from relight.queue.queues import open_queue
from relight.recovery import capacity
from relight.recovery.first_day import prepare
from relight.recovery.gate import readiness
from relight.recovery.large import hydrate_or_hand_over
from relight.recovery.points import take_point
from relight.recovery.replica import PhysicalReplica
from relight.recovery.run import STATES, Run, run_state
from relight.recovery.smoke import smoke_test
from relight.tasks.divergence import divergence
from relight.tasks.ledger import Kind, Ledger, Status
from relight.tasks.outbox import Relay
from relight.wiring import Region
from relight_cli.main import main
from relight_constructs.recovery_machine import LATER_ERRORS
from relight_drill.ecs import RUNNING_TAG
from relight_drill.emulator import Emulator
from relight_drill.nats import NatsServer
from relight_drill.postgres import PostgresServer
from relight_lambdas.replay import handler as replay_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.recovery.epoch import LeaseKeeper
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

WAY_BACK = Path(__file__).parents[2] / "docs" / "way-back.md"

EAST = replace(
    SETTINGS,
    role=Role.PRIMARY,
    region="us-east-1",
    vault_bucket="vault-east",
    peer_vault_bucket="vault-west",
    lease_bucket="lease",
    collections=(CollectionSpec(name="memory", dimension=4, embedding_model="test"),),
    lease_ttl_s=1.0,
    lease_margin_s=0.1,
    incidents_topic_arn="arn:aws:sns:us-west-2:000000000000:incidents",
)
WEST = replace(EAST, role=Role.STANDBY, region="us-west-2", vault_bucket="vault-west", peer_vault_bucket="vault-east")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two regions and what runs in them."""

    east: Region
    west: Region
    state: StatePair
    stores: dict[str, PostgresServer]
    emulator: Emulator


@pytest.fixture
def pair(
    server_group: ProcessGroup, server_dir: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pair]:
    folder = server_dir / f"recovery-{request.node.name[:40]}"
    folder.mkdir(mode=0o711)
    emulator = Emulator(server_group, folder / "emulator")
    stores = {
        name: PostgresServer(server_group, folder / f"vector-{name}", name=f"vector-{name}", database="memory")
        for name in ("east", "west")
    }
    queues = {name: NatsServer(server_group, folder / f"nats-{name}", name=name) for name in ("east", "west")}

    async def start() -> StatePair:
        async with asyncio.TaskGroup() as group:
            state = group.create_task(start_pair(server_group, folder))
            group.create_task(emulator.start())
            for store in stores.values():
                group.create_task(store.create())
            for queue in queues.values():
                group.create_task(queue.start())
        return state.result()

    state = asyncio.run(start())
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", emulator.account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws._session.cache_clear()  # an earlier test may have made it with credentials of its own
    for region, bucket in (("us-east-1", "vault-east"), ("us-west-2", "vault-west"), ("us-west-2", "lease")):
        place: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        emulator.client("s3", region).create_bucket(Bucket=bucket, **place)
    for settings, name, server in ((EAST, "east", state.primary), (WEST, "west", state.standby)):
        connections = Connections(state_dsn=server.dsn(), memory_dsn=stores[name].dsn(), queue_url=queues[name].url())
        emulator.client("secretsmanager", settings.region).create_secret(
            Name=settings.connections_secret, SecretString=connections.to_json()
        )
    ecs = emulator.client("ecs", "us-west-2")
    ecs.create_cluster(clusterName=WEST.cluster)
    ecs.register_task_definition(
        family="agent", containerDefinitions=[{"name": "agent", "image": "agent", "memory": 64}]
    )
    ecs.create_service(cluster=WEST.cluster, serviceName="agent", taskDefinition="agent", desiredCount=1)
    emulator.client("sns", "us-west-2").create_topic(Name="incidents")
    with Region(EAST) as east, Region(WEST) as west:
        prepare(east)
        yield Pair(east=east, west=west, state=state, stores=stores, emulator=emulator)

    async def stop() -> None:
        for server in (state.standby, state.primary, *stores.values()):
            if server.running:
                await server.stop(immediate=True)
        await asyncio.gather(emulator.stop(), *(queue.stop() for queue in queues.values() if queue.running))

    asyncio.run(stop())


def remember(region: Region, *names: str, epoch: int = 1) -> None:
    memory = Memory(store=region.store, spec=region.specs[0])
    with region.database.transaction(confirmed=True) as cur:
        points = [Point(id=name, vector=[1.0, float(len(name)), float(hash(name) % 7), 0.5]) for name in names]
        memory.upsert(cur, points, epoch=epoch)


@contextmanager
def renewing(keeper: LeaseKeeper) -> Iterator[None]:
    """The part of a standby's agent that keeps the lease which fence takes, as long as the recovery lasts."""
    stop = threading.Event()
    thread = threading.Thread(target=keeper.run, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_recovery_from_end_to_end(pair: Pair) -> None:
    """Every state in order, each run twice, brings back tasks, memory and an open gate under the next epoch."""
    ledger = Ledger(pair.east.database, epoch=lambda: 1)
    remember(pair.east, *(f"before-{number}" for number in range(40)))
    point = take_point(pair.east)
    assert (point["region"], point["points"]) == ("us-west-2", 40)
    remember(pair.east, "since", "the", "snapshot")
    for number in range(5):
        ledger.start_task({"n": number}, id_=f"t{number}")
    done = ledger.claim("t0", worker="w", lease_s=300)
    assert done is not None
    ledger.finish(done, "early")
    assert ledger.claim("t1", worker="w", lease_s=300) is not None
    pair.state.primary.kill()

    run = Run(run_id="epoch-2-test", decided_at="2026-04-19T02:00:00+00:00")
    keeper = pair.west.lease_keeper()
    with renewing(keeper):
        for name in STATES:
            first = run_state(name, pair.west, run)
            json.dumps(first)
            again = run_state(name, pair.west, run)
            if name in ("fence", "verify", "open-gate"):
                assert first.keys() == again.keys()
        answer = readiness(
            region="us-west-2",
            lease=keeper,
            epochs=pair.west.epochs,
            memory=pair.west.store,
            edges=pair.west.edges,
            collections=["memory"],
        )
    assert (answer.ready, answer.epoch) == (True, 2)
    collection = pair.west.store.describe("memory")
    assert collection is not None
    assert (collection.points, collection.restored_from) == (43, point["id"])
    with pytest.raises(StaleEpochError):
        Ledger(pair.west.database, epoch=lambda: 1).start_task({}, id_="stale")

    async def queued() -> list[str]:
        async with open_queue(pair.west.connections.queue_url, environment="demo") as queue:
            return [item.task_id for item in await queue.fetch(10, timeout_s=2)]

    assert asyncio.run(queued()) == ["t1", "t2", "t3", "t4"]
    states = [(event.state, event.status) for event in pair.west.timeline(run.run_id).events()]
    assert states == [(name, status) for name in STATES for status in ("started", "done") * 2]
    assert (
        pair.emulator.client("ecs", "us-west-2").describe_services(cluster=WEST.cluster, services=["agent"])[
            "services"
        ][0]["desiredCount"]
        == EAST.agent_replicas
    )


def test_states_out_of_order_are_refused(pair: Pair) -> None:
    """A state whose time has not come says so and changes nothing."""
    run = Run(run_id="impatient")
    for name in ("promote", "verify", "replay", "open-gate"):
        with pytest.raises(ConflictError, match="does not hold the lease"):
            run_state(name, pair.west, run)
    assert not pair.west.replica.position().promoted
    run_state("fence", pair.west, run)
    run_state("promote", pair.west, run)
    with pytest.raises(ConflictError, match="verify is not done"):
        run_state("open-gate", pair.west, run)
    with pytest.raises(ConflictError, match="does not hold the lease"):
        run_state("open-gate", pair.west, Run(run_id="another"))


def test_memory_that_is_behind_is_not_verified(pair: Pair) -> None:
    """fails when the journal has more than the store: the gate must not open on it."""
    remember(pair.east, "one")
    run = Run(run_id="behind")
    run_state("fence", pair.west, run)
    run_state("promote", pair.west, run)
    with pytest.raises(IntegrityError, match="no collection"):
        run_state("verify", pair.west, run)
    run_state("hydrate", pair.west, run)
    run_state("verify", pair.west, run)
    remember(pair.west, "two", epoch=2)
    with pytest.raises(IntegrityError, match="lacks the entry"):
        run_state("verify", pair.west, run)
    with pair.west.state() as state:
        Applier(store=pair.west.store, spec=pair.west.specs[0], state=state).catch_up()
    run_state("verify", pair.west, run)


def test_an_old_primary_that_returns_is_not_ready(pair: Pair) -> None:
    """After a recovery the old region holds nothing, though its own database still believes in its epoch."""
    keeper = pair.east.lease_keeper()
    keeper.renew()
    ask = {
        "lease": keeper,
        "epochs": pair.east.epochs,
        "memory": pair.east.store,
        "edges": pair.east.edges,
        "collections": ["memory"],
    }
    assert readiness(region="us-east-1", **ask).ready  # type: ignore[arg-type]
    run = Run(run_id="split")
    for name in ("assess", "fence", "promote"):
        run_state(name, pair.west, run)
    newest = pair.east.epochs.newest()
    assert newest is not None
    assert newest.number == 1
    assert take_point(pair.east) == {"skipped": "us-east-1 does not hold the lease, us-west-2 does"}
    keeper.renew()
    answer = readiness(region="us-east-1", **ask)  # type: ignore[arg-type]
    assert (answer.ready, answer.reason) == (False, "us-east-1 holds no lease")


def test_a_former_primary_is_not_made_the_primary_again(pair: Pair) -> None:
    """fails when somebody recovers back into the old region: its database is no replica, and its past is another."""
    run = Run(run_id="there")
    assert run_state("assess", pair.west, run)["newest_eligible_point"] is None
    for name in ("fence", "promote", "promote"):
        run_state(name, pair.west, run)
    back = Run(run_id="and-back")
    with pytest.raises(ConflictError, match="us-east-1 accepts writes, and epoch 2 is held by us-west-2"):
        run_state("assess", pair.east, back)
    run_state("fence", pair.east, back)
    with pytest.raises(ConflictError, match="knows 1 as its newest epoch, and 3 is to be taken"):
        run_state("promote", pair.east, back)
    newest = pair.east.epochs.newest()
    assert newest is not None
    assert newest.number == 1


def test_a_replica_that_somebody_promotes_is_promoted_after_the_fence(pair: Pair) -> None:
    """On the way back RDS promotes what Relight may not: before the fence that is refused, as two would take writes;
    after it, the run goes on."""
    replica = PhysicalReplica(pair.state.standby.dsn())
    run = Run(run_id="back")
    run_state("fence", pair.west, run)
    assert replica.promote()
    run_state("assess", pair.west, run)
    assert run_state("promote", pair.west, run)["newly_promoted"] is False
    newest = pair.west.epochs.newest()
    assert newest is not None
    assert (newest.number, newest.region) == (2, "us-west-2")


def test_who_fenced_and_promoted_nothing_can_turn_round(pair: Pair) -> None:
    """As docs/way-back.md says it: the database that takes writes is told of the epoch that never acted, and is
    recovered in place. Without that, it is taken for a former one; with it, the other region's run is over."""
    run_state("fence", pair.west, Run(run_id="there"))
    back = Run(run_id="turned-round")
    run_state("fence", pair.east, back)
    with pytest.raises(ConflictError, match="knows 1 as its newest epoch, and 3 is to be taken"):
        run_state("promote", pair.east, back)
    (told,) = re.findall(r"^ +(insert into relight\.epochs .*;)$", WAY_BACK.read_text(encoding="utf-8"), re.MULTILINE)
    with pair.east.state() as state, state, state.cursor() as cur:
        cur.execute(told.replace("EPOCH", "2").replace("<S>", "us-east-1"))
    for name in ("assess", "promote"):
        run_state(name, pair.east, back)
    newest = pair.east.epochs.newest()
    assert newest is not None
    assert (newest.number, newest.region) == (3, "us-east-1")
    with pytest.raises(ConflictError, match="run there does not hold the lease"):
        run_state("promote", pair.west, Run(run_id="there"))


def test_a_replica_that_is_promoted_before_the_fence_is_refused(pair: Pair) -> None:
    """fails when a database takes writes beside the one of the region that acts, and a run begins with it."""
    assert PhysicalReplica(pair.state.standby.dsn()).promote()
    with pytest.raises(ConflictError, match="us-west-2 accepts writes, and epoch 1 is held by us-east-1"):
        run_state("assess", pair.west, Run(run_id="early"))


def test_the_first_day_is_only_once(pair: Pair) -> None:
    """`init` again changes nothing; in the other region, or without a standby that confirms, it is refused."""
    assert prepare(pair.east)["migrations"] == []
    with pytest.raises(ConfigError, match="us-east-1 holds epoch 1"):
        prepare(pair.west)
    with pair.east.database.transaction() as cur:
        cur.execute("commit")
        cur.execute("alter system set synchronous_standby_names = ''")
        cur.execute("select pg_reload_conf()")
    pair.east.database.close()
    refused = {
        "synchronous_standby_names is empty": EAST,
        "count the replicas under confirm_replicas": replace(EAST, confirm_by=ConfirmBy.POSITION, confirm_replicas=0),
        'confirm_by = "aurora", and the database of us-east-1 is none': replace(EAST, confirm_by=ConfirmBy.AURORA),
    }
    for problem, settings in refused.items():
        with Region(settings) as east, pytest.raises(ConfigError, match=problem):
            prepare(east)


def test_the_smoke_test_changes_nothing_and_names_what_is_wrong(pair: Pair) -> None:
    """Each check says what it found; a server that is away is a failed check and not an error."""
    found = {check.name: check for check in smoke_test(pair.west)}
    # The lease of these tests lives for a second only, so it may or may not be live here.
    failed = {name for name, check in found.items() if not check.ok} - {"lease"}
    assert failed == {"vault", "memory", "service", "primary endpoint", "standby endpoint"}
    assert found["state"].found.startswith("a replica at")
    asyncio.run(pair.state.standby.stop(immediate=True))
    found = {check.name: check for check in smoke_test(pair.west)}
    assert not found["state"].ok
    assert "postgres" in found["state"].found


def test_a_run_needs_a_first_day(pair: Pair) -> None:
    """fails when nobody ever took the first epoch: the fence says what to run."""
    pair.emulator.client("s3", "us-west-2").delete_object(Bucket="lease", Key="lease.json")
    with pytest.raises(NotFoundError, match="relight init"):
        run_state("fence", pair.west, Run(run_id="r"))


def test_a_state_that_was_restored_to_an_earlier_moment_is_recovered_like_a_lost_region(
    pair: Pair, server_group: ProcessGroup
) -> None:
    """Under a new epoch in the same region: credentials and old sends are held for review, the rest is published again,
    though the same queue had confirmed it, and no worker of before can write."""
    ledger = Ledger(pair.east.database, epoch=lambda: 1)
    hours_ago = datetime.now(UTC) - timedelta(hours=3)
    ledger.start_task({}, id_="mail", kind=Kind.SEND, due_at=hours_ago)
    ledger.start_task({}, id_="token", kind=Kind.CREDENTIAL, due_at=datetime.now(UTC) + timedelta(days=1))
    ledger.start_task({}, id_="work")

    async def publish() -> None:
        async with open_queue(pair.east.connections.queue_url, environment="demo") as queue:
            await Relay(ledger).empty(queue, incarnation=await queue.ensure())

    asyncio.run(publish())
    folder = pair.state.primary.data_dir.with_name("restored")
    restored = PostgresServer(server_group, folder, name="restored", database="relight")
    asyncio.run(restored.base_backup(pair.state.primary, slot="restored"))
    (folder / "standby.signal").unlink()
    for name in ("mail", "work"):
        task = ledger.claim(name, worker="w", lease_s=300)
        assert task is not None
        ledger.finish(task, "done since")
    asyncio.run(restored.start())
    secrets = pair.emulator.client("secretsmanager", "us-east-1")
    connections = replace(pair.east.connections, state_dsn=restored.dsn())
    secrets.put_secret_value(SecretId=EAST.connections_secret, SecretString=connections.to_json())

    with Region(EAST) as east:
        run = Run(run_id="restored")
        keeper = east.lease_keeper()
        with renewing(keeper):
            found = {name: run_state(name, east, run) for name in STATES if name not in ("scale", "announce")}
        assert found["replay"]["held"] == {"send": 1, "credential": 1}
        assert found["replay"]["published_by_status"] == {"pending": 1}
        now = Ledger(east.database, epoch=lambda: 2)
        assert {task.id for task in now.tasks([Status.HELD])} == {"mail", "token"}
        assert now.task("work").status is Status.PENDING
        with pytest.raises(StaleEpochError):
            Ledger(east.database, epoch=lambda: 1).start_task({}, id_="stale")
        with closing(postgres.connect(pair.state.primary.dsn())) as former, east.state() as state:
            since = divergence(former, state)
    # What had been done since that moment, for whoever decides about the held and the repeated.
    assert {(task.id, task.status, task.here) for task in since.tasks} == {
        ("mail", "done", "held"),
        ("work", "done", "pending"),
    }
    asyncio.run(restored.stop(immediate=True))


class Invocation:
    """What Lambda tells of one that ends in so many seconds."""

    def __init__(self, left_s: float) -> None:
        self._left_s = left_s

    def get_remaining_time_in_millis(self) -> int:
        return int(self._left_s * 1000)


def test_a_replay_that_does_not_fit_into_one_invocation_goes_on_in_the_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function stops before Lambda ends it, with an error that the state machine tries again, and nothing is
    recorded until all is published."""
    ledger = Ledger(pair.east.database, epoch=lambda: 1)
    for number in range(3):
        ledger.start_task({}, id_=f"t{number}")
    for name in ("fence", "promote"):
        run_state(name, pair.west, Run(run_id="r"))
    for key, value in WEST.to_env().items():
        monkeypatch.setenv(key, value)
    with pytest.raises(AgainLaterError, match="0 of 3 tasks were published"):
        replay_handler({"run_id": "r"}, Invocation(0.0))
    newest = pair.west.epochs.newest()
    assert newest is not None
    assert newest.replayed_at is None
    assert replay_handler({"run_id": "r"}, Invocation(60.0))["published"] == 3
    newest = pair.west.epochs.newest()
    assert newest is not None
    assert newest.replayed_at is not None
    assert [
        (event.status, event.detail.get("published"))
        for event in pair.west.timeline("r").events()
        if event.state == "replay" and event.status != "started"
    ] == [("waiting", None), ("done", 3)]
    assert AgainLaterError.__name__ in LATER_ERRORS


class Hurried(SystemClock):
    """Real time, in which nobody sleeps: so much more of it has passed, and `then` has happened."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._then = then
        self._slept = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._slept)

    def monotonic(self) -> float:
        return super().monotonic() + self._slept

    def sleep(self, seconds: float) -> None:
        self._slept += seconds
        self._then()


def test_a_store_that_is_being_started_is_waited_for(pair: Pair) -> None:
    """fails when the recovery of a cold standby, or the rule on a task that has just started, meets a store that does
    not answer yet, and gives up; how long to go on asking is the state machine's to say."""
    remember(pair.east, "one", "two")
    point = take_point(pair.east)
    run, store = Run(run_id="cold"), pair.stores["west"]
    for name in ("fence", "promote"):
        run_state(name, pair.west, run)
    asyncio.run(store.stop(immediate=True))
    with Region(replace(WEST, large_bytes=1), clock=Hurried()) as west:
        with pytest.raises(AgainLaterError, match="the vector store does not answer yet"):
            run_state("hydrate", west, run)
        with pytest.raises(AgainLaterError, match="the vector store does not answer yet"):
            hydrate_or_hand_over(west, run, in_recovery=True)
    started = iter([lambda: asyncio.run(store.start())])
    with Region(WEST, clock=Hurried(lambda: next(started)())) as west:
        (done,) = run_state("hydrate", west, run)["collections"]
    assert (done["restored"], done["points"]) == (point["id"], 2)


def test_a_gate_waits_for_an_agent(pair: Pair) -> None:
    """fails when the agents of a cold standby, which start while tasks are replayed, come too late for their gate."""
    remember(pair.east, "one")
    run = Run(run_id="cold")
    for name in ("fence", "promote", "hydrate", "verify", "replay"):
        run_state(name, pair.west, run)
    later = Hurried()
    with Region(WEST, clock=later) as west:
        later.sleep(WEST.lease_ttl_s + 1)
        with pytest.raises(AgainLaterError, match="no agent there renews it"):
            run_state("open-gate", west, run)
    with renewing(pair.west.lease_keeper()):
        found = run_state("open-gate", pair.west, run)
    assert found["epoch"] == 2


def test_by_hand_a_cold_standby_is_waited_for_too(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when `relight recover` ends where a state machine would call the state again."""
    arn = f"arn:aws:ecs:us-west-2:{pair.emulator.account}:service/{WEST.cluster}/agent"
    ecs = pair.emulator.client("ecs", "us-west-2")
    ecs.tag_resource(resourceArn=arn, tags=[{"key": RUNNING_TAG, "value": "0"}])
    for name, value in WEST.to_env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(capacity, "WAIT_S", 0.0)
    slept: list[float] = []

    def sleep(_: SystemClock, seconds: float) -> None:
        slept.append(seconds)
        ecs.tag_resource(resourceArn=arn, tags=[{"key": RUNNING_TAG, "value": "1"}])

    monkeypatch.setattr(SystemClock, "sleep", sleep)
    assert main(["recover", "--run-id", "by-hand", "--state", "scale", "--yes", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["scale"]["agents"] == {"before": 2, "desired": 2, "serve": 1}
    assert "scale: agents: 0 of 2 serve, and 1 must" in said.err
    assert said.err.endswith("; waiting ...\n")
    assert slept == [capacity.LOOK_EVERY_S]

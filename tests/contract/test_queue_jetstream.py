"""What JetStream is configured to, what of it is an operator's, and what a cluster adds."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

import nats
import pytest
from queue_contract import error_of, ids, run, take, tickets, until

from relight.errors import ConfigError, QueueLostError, UnavailableError
from relight.queue.jetstream import JetStreamQueue
from relight.queue.jetstream_config import (
    consumer_as_promised,
    dead_as_promised,
    new_stream,
    stream_as_promised,
)
from relight.queue.queues import open_queue
from relight_drill.nats import NatsServer
from relight_drill.processes import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from relight_drill.processes import ProcessGroup

WEEK = 7 * 24 * 3600 * 10**9
SUBJECT = "relight.demo.tasks"


def promised(config: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a configuration."""
    return stream_as_promised(config, subject=SUBJECT, max_age=WEEK, window=600 * 10**9)


class Operator:
    """Somebody with the server's own tools."""

    def __init__(self, server: NatsServer, environment: str) -> None:
        self._server = server
        self.stream = f"RELIGHT-{environment.upper()}"

    async def ask(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        client = await nats.connect(self._server.url())
        try:
            answer = await client.request(f"$JS.API.{call}", json.dumps(request or {}).encode(), timeout=5)
        finally:
            await client.close()
        found: dict[str, Any] = json.loads(answer.data)
        assert "error" not in found, found["error"]
        return found

    async def config(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.ask(f"STREAM.INFO.{self.stream}"))["config"]
        return found

    async def change(self, **settings: Any) -> None:
        await self.ask(f"STREAM.UPDATE.{self.stream}", {**await self.config(), **settings})

    async def consumer(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.ask(f"CONSUMER.INFO.{self.stream}.workers"))["config"]
        return found


@pytest.fixture
def environment() -> str:
    """A name that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


# -- configurations, without a server


def test_a_new_stream_is_what_is_promised() -> None:
    """A work queue on disk with an age limit of seven days that drops nothing when it is full."""
    config = promised(new_stream("S"))
    assert config["subjects"] == [SUBJECT]
    assert (config["retention"], config["storage"], config["discard"]) == ("workqueue", "file", "new")
    assert (config["max_age"], config["duplicate_window"]) == (WEEK, 600 * 10**9)
    assert promised(config) == config


def test_no_limit_drops_what_was_acknowledged() -> None:
    """fails when a limit for each subject stays, under which the server drops old messages: all tasks share one."""
    theirs = {
        "max_msgs_per_subject": 1,
        "discard_new_per_subject": True,
        "subject_transform": {"src": ">", "dest": "x"},
    }
    config = promised({**promised(new_stream("S")), **theirs})
    assert config == promised(new_stream("S"))
    dead = dead_as_promised({**new_stream("D"), **theirs}, subject="d.*")
    assert dead == dead_as_promised(new_stream("D"), subject="d.*")


def test_what_an_operator_set_stays() -> None:
    """Limits, placement, words, replicas, a longer window and settings that nobody here knows are not touched."""
    theirs = {
        "max_bytes": 1 << 30,
        "placement": {"tags": ["ssd"]},
        "description": "ours",
        "metadata": {"team": "a"},
        "num_replicas": 5,
        "duplicate_window": 3600 * 10**9,
        "of_the_future": {"x": [1]},
    }
    config = promised({**promised(new_stream("S")), **theirs})
    assert {key: config[key] for key in theirs} == theirs


@pytest.mark.parametrize(
    ("subjects", "after"),
    [
        (["other"], ["other", SUBJECT]),
        (["relight.>"], ["relight.>"]),
        (["relight.*.tasks"], ["relight.*.tasks"]),
        (["relight.*"], ["relight.*", SUBJECT]),
        ([f"{SUBJECT}.>"], [f"{SUBJECT}.>", SUBJECT]),
        ([">"], [">"]),
    ],
)
def test_the_subject_is_added_where_none_covers_it(subjects: list[str], after: list[str]) -> None:
    """An operator's subjects stay, and ours is added unless one of them takes it already: two may not overlap."""
    assert promised({**new_stream("S"), "subjects": subjects})["subjects"] == after


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retention", "limits"),
        ("storage", "memory"),
        ("mirror", {"name": "X"}),
        ("sealed", True),
        ("persist_mode", "async"),
    ],
)
def test_a_stream_that_cannot_be_changed_is_refused(key: str, value: Any) -> None:
    """fails when the stream is of a kind that the server never changes: the value, the rule and what to do."""
    with pytest.raises(ConfigError, match=rf"'S' has {key} .*; it cannot be changed; delete the stream") as caught:
        promised({**promised(new_stream("S")), key: value})
    assert repr(value) in caught.value.problem


def test_dead_letters_are_kept_one_for_each_task() -> None:
    """They do not age, and only the newest of each task is kept."""
    config = dead_as_promised(new_stream("D"), subject="relight.demo.dead.*")
    assert (config["retention"], config["max_age"], config["max_msgs_per_subject"]) == ("limits", 0, 1)


def test_a_consumer_is_brought_to_what_is_promised() -> None:
    """What would lose deliveries goes; an operator's limit on what is outstanding stays."""
    theirs = {
        "max_deliver": 3,
        "backoff": [1, 2],
        "inactive_threshold": 5,
        "max_ack_pending": 7,
        "headers_only": True,
        "priority_groups": ["a"],
        "priority_policy": "overflow",
        "metadata": {"team": "a"},
    }
    config = consumer_as_promised(theirs, name="workers", subject=SUBJECT, ack_wait=9)
    assert (config["max_deliver"], config["ack_wait"], config["ack_policy"]) == (-1, 9, "explicit")
    assert (config["max_ack_pending"], config["metadata"]) == (7, {"team": "a"})
    assert not {"backoff", "inactive_threshold", "headers_only", "priority_groups", "priority_policy"} & config.keys()
    assert consumer_as_promised(config, name="workers", subject=SUBJECT, ack_wait=9) == config


@pytest.mark.parametrize(("key", "value"), [("ack_policy", "none"), ("deliver_subject", "x")])
def test_a_consumer_that_cannot_be_changed_is_refused(key: str, value: str) -> None:
    """fails when the consumer is of another kind: it can be deleted without a loss, and the hint says so."""
    with pytest.raises(ConfigError, match=f"'workers' has {key} '{value}'.*no message is lost"):
        consumer_as_promised({key: value}, name="workers", subject=SUBJECT, ack_wait=9)


# -- on a server


@pytest.mark.servers
def test_a_queue_is_reconciled_and_not_clobbered(nats_server: NatsServer, environment: str) -> None:
    """Over a stream that an operator changed, `ensure` brings back what is promised, and leaves the rest and the
    messages."""
    operator = Operator(nats_server, environment)

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            made = await queue.ensure()
            first = await operator.config()
            assert (first["retention"], first["storage"], first["num_replicas"]) == ("workqueue", "file", 1)
            await queue.publish(tickets("a"))
            theirs = {"max_bytes": 1 << 20, "description": "ours", "max_msg_size": 5000}
            await operator.change(
                **theirs, max_age=3600 * 10**9, duplicate_window=10**9, discard="old", metadata={"team": "a"}
            )
            worker = await operator.consumer()
            changed = {**worker, "max_deliver": 3, "max_ack_pending": 7, "ack_wait": 10**9}
            await operator.ask(
                f"CONSUMER.CREATE.{operator.stream}.workers.{worker['filter_subject']}",
                {"stream_name": operator.stream, "config": changed, "action": "update"},
            )
            assert await queue.ensure() == made
            config = await operator.config()
            assert {key: config[key] for key in theirs} == theirs
            assert config["metadata"]["team"] == "a"
            promises = ("max_age", "duplicate_window", "discard", "subjects")
            assert {key: config[key] for key in promises} == {key: first[key] for key in promises}
            worker = await operator.consumer()
            assert (worker["max_deliver"], worker["max_ack_pending"], worker["ack_wait"]) == (-1, 7, 20 * 10**9)
            assert ids(await take(queue)) == ["a"]

    run(scenario())


@pytest.mark.servers
@pytest.mark.parametrize(
    "settings",
    [
        {"max_msgs_per_subject": 1},
        {"max_msgs_per_subject": 1, "discard_new_per_subject": True},
        {"subject_transform": {"src": ">", "dest": "elsewhere.>"}},
        {"republish": {"src": ">", "dest": "copies.>"}},
        {"allow_rollup_hdrs": True, "allow_msg_ttl": True, "deny_delete": True},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_no_setting_takes_an_acknowledged_message(
    nats_server: NatsServer, environment: str, settings: dict[str, Any]
) -> None:
    """fails when the server drops, under an operator's setting, what it acknowledged, or stores it where nobody looks;
    what takes nothing away stays."""
    operator = Operator(nats_server, environment)

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            made = await queue.ensure()
            await operator.change(**settings)
            assert await queue.ensure() == made
            assert await queue.publish(tickets(*"abc")) == 3
            assert await queue.publish(tickets("d")) == 1
            assert ids(await take(queue, 4)) == [*"abcd"]
            config = await operator.config()
            harmless = {key: value for key, value in settings.items() if key in ("republish", "allow_rollup_hdrs")}
            assert {key: config[key] for key in harmless} == harmless

    run(scenario())


@pytest.mark.servers
def test_a_consumer_that_asks_for_groups_is_brought_back(nats_server: NatsServer, environment: str) -> None:
    """fails when the server hands out to members of a group only: the fetch says so, and `ensure` ends it."""
    operator = Operator(nats_server, environment)

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            await queue.publish(tickets("a"))
            worker = await operator.consumer()
            changed = {**worker, "priority_groups": ["a"], "priority_policy": "overflow"}
            await operator.ask(
                f"CONSUMER.CREATE.{operator.stream}.workers.{worker['filter_subject']}",
                {"stream_name": operator.stream, "config": changed, "action": "update"},
            )
            error = await error_of(queue.fetch(1, timeout_s=0.2))
            assert isinstance(error, ConfigError)
            assert "Priority Group" in error.problem
            await queue.ensure()
            assert ids(await take(queue)) == ["a"]

    run(scenario())


@pytest.mark.servers
def test_a_pause_is_the_operators(nats_server: NatsServer, environment: str) -> None:
    """While the consumer is paused nothing is handed out, nothing is lost, and `ensure` does not end it."""
    operator = Operator(nats_server, environment)

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            await operator.ask(f"CONSUMER.PAUSE.{operator.stream}.workers", {"pause_until": "2100-01-01T00:00:00Z"})
            await queue.ensure()
            await queue.publish(tickets("a"))
            assert list(await queue.fetch(1, timeout_s=0.2)) == []
            await operator.ask(f"CONSUMER.PAUSE.{operator.stream}.workers", {})
            assert ids(await take(queue)) == ["a"]

    run(scenario())


@pytest.mark.servers
def test_the_age_is_that_of_tasks(nats_server: NatsServer, environment: str) -> None:
    """What an operator has stored beside them under other subjects says nothing of what the queue has."""
    operator = Operator(nats_server, environment)

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            subject = f"other.{environment}"
            await operator.change(subjects=[*(await operator.config())["subjects"], subject])
            client = await nats.connect(nats_server.url())
            await client.jetstream().publish(subject, b"x")
            await client.close()
            assert await queue.depth() == 1
            assert await queue.age_s() == 0.0
            await queue.publish(tickets("a"))
            assert await queue.age_s() > 0.0

    run(scenario())


@pytest.mark.servers
@pytest.mark.parametrize("kind", [{"storage": "memory", "retention": "workqueue"}, {"retention": "limits"}])
def test_a_stream_of_another_kind_is_left_alone(
    nats_server: NatsServer, environment: str, kind: dict[str, str]
) -> None:
    """fails when a stream of our name is of another kind: ConfigError, and the stream is as it was."""
    operator = Operator(nats_server, environment)

    async def scenario() -> None:
        subject = f"relight.{environment}.tasks"
        await operator.ask(
            f"STREAM.CREATE.{operator.stream}",
            {"name": operator.stream, "subjects": [subject], "num_replicas": 1, **kind},
        )
        before = await operator.config()
        async with open_queue(nats_server.url(), environment=environment) as queue:
            assert isinstance(await error_of(queue.ensure()), ConfigError)
        assert await operator.config() == before

    run(scenario())


@pytest.mark.servers
def test_a_full_queue_refuses_and_drops_nothing(nats_server: NatsServer, environment: str) -> None:
    """fails when a limit of the stream is reached: the call may succeed later, and what is in the queue stays."""

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            await Operator(nats_server, environment).change(max_msgs=3)
            error = await error_of(queue.publish(tickets(*"abcde")))
            assert type(error) is UnavailableError
            assert "maximum messages" in error.problem
            first, *others = await take(queue, 3)
            assert ids([first, *others]) == [*"abc"]
            await asyncio.gather(*(item.ack() for item in (first, *others)))
            assert await queue.publish(tickets(*"abcde")) == 2
            assert ids(await take(queue, 2)) == [*"de"]

    run(scenario())


@pytest.mark.servers
def test_many_are_stored_as_one(nats_server: NatsServer, environment: str) -> None:
    """fails when each of many tasks costs a sync of the disk: they come as a batch, but for those that the server has
    to look at one by one, because it knows some of them or may take no batches."""

    async def scenario() -> None:
        operator = Operator(nats_server, environment)
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            assert (await operator.config())["allow_atomic"] is True
            many = tickets(*(f"t{number}" for number in range(40)))
            assert await queue.publish(many[:20]) == 20
            stored = await operator.ask(f"STREAM.MSG.GET.{operator.stream}", {"seq": 20})
            assert b"Nats-Batch-Commit" in base64.b64decode(stored["message"]["hdrs"])
            assert await queue.publish(many[10:30]) == 10
            await operator.ask(f"STREAM.UPDATE.{operator.stream}", {**(await operator.config()), "allow_atomic": False})
            assert await queue.publish(many[30:]) == 10
            assert await queue.depth() == 40

    run(scenario())


@pytest.mark.servers
def test_a_consumer_that_is_deleted_is_made_again(nats_server: NatsServer, environment: str) -> None:
    """fails when somebody deletes the consumer: QueueLostError, and after `ensure` nothing is missing."""

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            made = await queue.ensure()
            await queue.publish(tickets("a"))
            operator = Operator(nats_server, environment)
            await operator.ask(f"CONSUMER.DELETE.{operator.stream}.workers")
            assert isinstance(await error_of(queue.fetch(1, timeout_s=0.2)), QueueLostError)
            assert await queue.ensure() == made
            assert ids(await take(queue)) == ["a"]

    run(scenario())


@pytest.mark.servers
def test_a_client_that_its_server_closed_is_replaced(nats_server: NatsServer, environment: str) -> None:
    """fails when the client was closed for good, as after some errors of a server: the next call has another."""

    async def scenario() -> None:
        queue = await JetStreamQueue.connect(nats_server.url(), environment=environment)
        await queue.ensure()
        await queue._client.close()
        assert await queue.publish(tickets("a")) == 1
        assert ids(await take(queue)) == ["a"]
        await queue.close()
        assert type(await error_of(queue.depth())) is UnavailableError

    run(scenario())


@pytest.mark.servers
def test_messages_as_long_as_the_server_takes(nats_server: NatsServer, environment: str) -> None:
    """fails when an id is longer than a message may be: ConfigError, and the queue works on."""

    async def scenario() -> None:
        async with open_queue(nats_server.url(), environment=environment) as queue:
            await queue.ensure()
            assert isinstance(await error_of(queue.publish(tickets("x" * (2 << 20)))), ConfigError)
            assert await queue.publish(tickets("a")) == 1

    run(scenario())


class TestCluster:
    """Three servers on loopback."""

    @pytest.fixture
    def servers(self, server_group: ProcessGroup, server_dir: Path) -> list[NatsServer]:
        ports = [free_port() for _ in range(3)]
        routes = [f"nats://127.0.0.1:{port}" for port in ports]
        folder = server_dir / f"cluster-{uuid.uuid4().hex[:8]}"
        servers: list[NatsServer] = []
        for number, port in enumerate(ports):
            cluster = {"name": "C", "listen": f"127.0.0.1:{port}", "routes": routes}
            password = servers[0].password if servers else ""
            servers.append(
                NatsServer(server_group, folder / f"n{number}", name=f"n{number}", cluster=cluster, password=password)
            )
        return servers

    @pytest.mark.servers
    def test_three_replicas_survive_the_loss_of_any_server(self, servers: list[NatsServer], environment: str) -> None:
        """fails when a server of the cluster is killed, then another after the first is back: the same incarnation,
        every message, and clients that go on; a stream that was made with one replica gets three."""
        url = ",".join(server.url() for server in servers)
        operator = Operator(servers[2], environment)
        names = [f"task-{number}" for number in range(300)]

        async def scenario() -> None:
            await asyncio.gather(*(server.start() for server in servers))
            try:
                async with open_queue(url, environment=environment, ack_wait_s=5.0) as queue:
                    made = await until(queue.ensure)
                    assert (await operator.config())["num_replicas"] == 3
                    assert await queue.publish(tickets(*names[:100])) == 100
                    servers[0].kill()
                    assert await until(queue.incarnation) == made
                    await until(lambda: queue.publish(tickets(*names[100:200])))
                    await servers[0].start()
                    await until(lambda: self._current(operator))
                    servers[1].kill()
                    await until(lambda: queue.publish(tickets(*names[200:])))
                    await until(queue.ensure)
                    got: set[str] = set()
                    while got != {*names}:
                        for item in await until(lambda: queue.fetch(50, timeout_s=1.0)):
                            got.add(item.task_id)
                            await until(item.ack)
                    await servers[1].start()
                    await until(lambda: self._current(operator))
                    await until(lambda: operator.change(num_replicas=1))
                    assert await until(queue.ensure) == made
                    assert (await operator.config())["num_replicas"] == 3
            finally:
                for server in servers:
                    server.kill()

        run(scenario())

    async def _current(self, operator: Operator) -> None:
        """All three replicas have everything; UnavailableError until then."""
        try:
            info = await operator.ask(f"STREAM.INFO.{operator.stream}")
        except (AssertionError, nats.errors.Error) as exc:
            raise UnavailableError("no leader yet") from exc
        replicas = info["cluster"].get("replicas", [])
        if len(replicas) < 2 or not all(replica["current"] for replica in replicas):
            raise UnavailableError("replicas lag")

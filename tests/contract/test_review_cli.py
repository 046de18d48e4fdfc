"""`relight replay`, `tasks`, `effects` and `divergence` as an operator runs them, against real servers."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import psycopg2.extensions
import pytest
from memory_helpers import make_state
from runtime_helpers import RecordingTool, sql

from relight.adapters import aws, postgres
from relight.clock import SystemClock
from relight.config import Connections, Role, Settings
from relight.objectives import Tier
from relight.recovery.epoch import LEASE_KEY, Lease, LeaseStore
from relight.tasks.database import Database
from relight.tasks.effects import Effects, EffectStatus, effect_key
from relight.tasks.epochs import EpochLog
from relight.tasks.ledger import Kind, Ledger, Status
from relight_cli.console import open_region
from relight_cli.main import main, parser
from relight_drill.emulator import SECRET_KEY
from relight_drill.processes import free_port
from relight_stacks.loading import load_named
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import StatePair

    from relight.tasks.ledger import Task
    from relight_drill.emulator import Emulator
    from relight_drill.nats import NatsServer

pytestmark = pytest.mark.servers

HERE, PEER = "us-west-2", "us-east-1"


class Stage:
    """A region that was just relit, as the CLI finds it, and its ledger under the present epoch."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.database = Database(dsn)
        EpochLog(self.database).take(2, region=HERE, run_id="r")
        self.ledger = Ledger(self.database, epoch=lambda: 2)

    def restored(self, id_: str, *, kind: Kind = Kind.WORK, late_s: float = 0.0) -> None:
        """A task that the lost region left behind."""
        due_at = datetime.now(UTC) - timedelta(seconds=late_s)
        with self.database.transaction() as cur:
            cur.execute("set local session_replication_role = replica")
            cur.execute(
                "insert into relight.tasks (id, payload, kind, due_at, epoch) values (%s, %s, %s, %s, 1)",
                [id_, json.dumps({"for": id_}), kind.value, due_at],
            )

    def claim(self, id_: str) -> Task:
        """A task that a worker holds."""
        self.ledger.start_task({}, id_=id_)
        task = self.ledger.claim(id_, worker="w", lease_s=300)
        assert task is not None
        return task

    def unknown_effect(self, id_: str, request: Any) -> str:
        """The key of an effect of which nobody knows whether it happened; its task was parked for it."""
        task = self.claim(id_)
        tool = RecordingTool(name="mail")
        key = effect_key(tool.name, request, task_id=id_)
        effects = Effects(self.ledger)
        sending = effects.intend(task, key=key, tool=tool.name, request=request, final_s=0.0)
        assert sending is not None
        effects.settle(key, EffectStatus.UNKNOWN, sending=sending, error="no answer")
        self.ledger.park(task, reason="mail may have been sent", waits_for=key)
        return key


@pytest.fixture
def stage(
    emulator: Emulator, state_pair: StatePair, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    dsns = make_state(state_pair, f"review_{secrets.token_hex(4)}")
    name = f"review-{secrets.token_hex(4)}"
    settings = Settings(
        environment=name,
        tier=Tier.INTERNAL,
        role=Role.STANDBY,
        region=HERE,
        primary_region=PEER,
        standby_region=HERE,
        vault_bucket=f"{name}-here",
        peer_vault_bucket=f"{name}-peer",
        lease_bucket=f"{name}-lease",
        lease_region=HERE,
        connections_secret=name,
        service_url="http://127.0.0.1:9",
        primary_url="http://127.0.0.1:9",
        standby_url="http://127.0.0.1:9",
        cluster="c",
        agent_service="a",
        agent_replicas=1,
    )
    connections = Connections(state_dsn=dsns.primary, memory_dsn="unused", queue_url=nats_server.url())
    emulator.client("secretsmanager", HERE).create_secret(Name=name, SecretString=connections.to_json())
    for key, value in settings.to_env().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    monkeypatch.setattr(aws, "_session", lambda: session)
    stage = Stage(dsns.primary)
    yield stage
    stage.database.close()


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# -- relight replay


def test_a_replay_shows_its_plan_and_waits_for_a_yes(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """What is published, what is held and why, and how long it takes; `--dry-run` stops there."""
    for number in range(30):
        stage.restored(f"t{number:02}", late_s=60)
    stage.restored("mail", kind=Kind.SEND, late_s=7200)
    assert main(["replay", "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "publish      30 tasks, due" in told
    assert "unconfirmed work 30" in told
    assert "hold send    1, due 2 h ago: it is a send of a restored state, due more than 900 s ago" in told
    assert "takes about  0 s at 10,000 a second" in told
    assert "dry run: nothing was done" in told
    assert main(["replay", "--dry-run", "--json"]) == 0
    plan = output(capsys)
    assert (plan["total"], plan["hold"][0]["kind"], plan["hold"][0]["count"]) == (30, "send", 1)
    assert stage.ledger.task("mail").status is Status.PENDING
    assert main(["replay", "--yes", "--json"]) == 0
    told_json = capsys.readouterr()
    assert json.loads(told_json.out)["published"] == 30
    assert "published 30 of 30" in told_json.err
    assert "relight tasks list --status held" in told_json.err
    assert main(["replay", "--yes", "--json"]) == 0
    assert output(capsys)["published"] == 0


def test_a_replay_of_a_part(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Only since a moment, or only in some statuses, at a speed."""
    stage.restored("t", late_s=60)
    later = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    assert main(["replay", "--since", later, "--yes", "--json"]) == 0
    assert output(capsys)["published"] == 0
    assert main(["replay", "--status", "running,pending", "--yes", "--json"]) == 0
    assert output(capsys)["published"] == 0
    assert main(["replay", "--status", "running", "--status", "unconfirmed", "--per-second", "5", "--yes"]) == 0
    assert "published: 1" in capsys.readouterr().out
    assert main(["replay", "--per-second", "0", "--yes"]) == 2
    with pytest.raises(SystemExit):
        main(["replay", "--status", "lost"])
    assert "'lost' is not of pending, running, unconfirmed" in capsys.readouterr().err


def test_a_region_that_holds_no_epoch_changes_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when the other region holds the newest epoch, for each verb that writes, and says which."""
    stage.restored("t")
    EpochLog(stage.database).take(3, region=PEER, run_id="back")
    for argv in (
        ["replay", "--yes"],
        ["tasks", "resume", "t", "--yes"],
        ["tasks", "cancel", "t", "--reason", "x", "--yes"],
        ["effects", "resolve", "aa", "--happened", "--yes"],
    ):
        assert main(argv) == 1
        assert f"{PEER} holds epoch 3" in capsys.readouterr().err


# -- relight tasks


def test_what_waits_for_a_person_is_listed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Held and parked tasks with their reasons, or those in the given statuses; the oldest first."""
    stage.restored("mail", kind=Kind.SEND, late_s=7200)
    assert main(["replay", "--yes"]) == 0
    stage.ledger.park(stage.claim("poisoned"), reason="it ended five workers")
    stage.restored("t")
    capsys.readouterr()
    assert main(["tasks", "list"]) == 0
    told = capsys.readouterr().out
    assert "mail  held send, due 2 h ago, begun 0 times: it is a send of a restored state" in told
    assert "poisoned  parked work" in told
    assert "it ended five workers" in told
    assert main(["tasks", "list", "--status", "pending,held", "--json"]) == 0
    assert {(row["id"], row["status"], row["kind"]) for row in output(capsys)} == {
        ("mail", "held", "send"),
        ("t", "pending", "work"),
    }
    assert main(["tasks", "list", "--limit", "1"]) == 0
    assert "and perhaps more: --limit 1" in capsys.readouterr().out


def test_one_task_is_shown_whole(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Its payload, its steps with their failures, and its effects."""
    key = stage.unknown_effect("t", {"to": "zoe@example.org"})
    assert main(["tasks", "show", "t"]) == 0
    told = capsys.readouterr().out
    assert "t: parked work under epoch 2, begun 1 times" in told
    assert f"effect {key[:12]} of mail: unknown: no answer" in told
    assert "zoe@example.org" not in told
    assert main(["tasks", "show", "t", "--json"]) == 0
    assert output(capsys)["effects"][0]["status"] == "unknown"
    assert main(["tasks", "show", "nobody"]) == 1


def test_what_a_task_waits_for_is_said(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is pending for a provider, and one that is parked for an effect."""
    key = stage.unknown_effect("parked", {})
    task = stage.claim("t")
    stage.ledger.release(task, error="it would degrade", delay_s=259_200, counted=False, waits_for="provider:anthropic")
    assert main(["tasks", "list", "--status", "pending,parked"]) == 0
    told = capsys.readouterr().out
    assert "t  pending work, due in 3 d, waits for provider:anthropic, begun 0 times: it would degrade" in told
    assert f"waits for effect {key[:12]}, begun" in told
    assert main(["tasks", "show", "t", "parked"]) == 0
    told = capsys.readouterr().out
    assert "  waits for: provider:anthropic\n" in told
    assert f"  waits for: effect {key[:12]}\n" in told
    for verb in (["list", "--status", "pending"], ["show", "t"]):
        assert main(["tasks", *verb, "--json"]) == 0
        told = output(capsys)
        assert (told[0] if isinstance(told, list) else told)["waits_for"] == "provider:anthropic"


def test_held_tasks_go_on_after_a_yes(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """One by its id, or all of a kind; a plan comes first."""
    for name in ("mail-1", "mail-2"):
        stage.restored(name, kind=Kind.SEND, late_s=7200)
    stage.restored("token", kind=Kind.CREDENTIAL)
    assert main(["replay", "--yes"]) == 0
    capsys.readouterr()
    assert main(["tasks", "resume", "mail-1", "--dry-run"]) == 0
    assert "mail-1       held send" in capsys.readouterr().err
    assert stage.ledger.task("mail-1").status is Status.HELD
    assert main(["tasks", "resume", "mail-1", "--yes", "--json"]) == 0
    assert output(capsys) == {"resumed": 1}
    assert main(["tasks", "resume", "--all-held", "--kind", "send", "--yes", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"resumed": 1}
    assert "resume send  1 held tasks" in told.err
    assert {stage.ledger.task(name).status for name in ("mail-1", "mail-2")} == {Status.PENDING}
    assert stage.ledger.task("token").status is Status.HELD
    assert main(["tasks", "resume", "token", "--all-held", "--yes"]) == 2
    assert main(["tasks", "resume", "--yes"]) == 2
    assert main(["tasks", "resume", "mail-1", "--yes"]) == 1
    assert "mail-1' is pending" in capsys.readouterr().err


def test_a_task_is_cancelled_with_a_reason(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """It is ended for good, and whoever looks later reads why."""
    stage.restored("t")
    with pytest.raises(SystemExit):
        main(["tasks", "cancel", "t", "--yes"])
    assert "required: --reason" in capsys.readouterr().err
    assert main(["tasks", "cancel", "t", "--reason", "the customer left", "--yes"]) == 0
    task = stage.ledger.task("t")
    assert (task.status, task.error) == (Status.CANCELLED, "the customer left")
    assert main(["tasks", "cancel", "t", "--reason", "again", "--yes"]) == 1


# -- relight effects


def test_open_effects_are_listed_without_what_was_requested(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """A request may be private: the list names tool, task and age, and only `show` prints it."""
    key = stage.unknown_effect("t", {"to": "zoe@example.org"})
    assert main(["effects", "list"]) == 0
    told = capsys.readouterr().out
    assert f"{key[:12]}  unknown mail of task t, " in told
    assert "no answer" in told
    assert "zoe@example.org" not in told
    assert main(["effects", "list", "--json"]) == 0
    told = capsys.readouterr().out
    assert "zoe@example.org" not in told
    assert [(row["key"], row["status"]) for row in json.loads(told)] == [(key, "unknown")]
    assert main(["effects", "list", "--status", "failed,intent", "--json"]) == 0
    assert output(capsys) == []
    assert main(["effects", "show", key[:8]]) == 0
    assert output(capsys)["request"] == {"to": "zoe@example.org"}
    assert main(["effects", "show", "0" * 64]) == 1
    assert main(["effects", "show", "%"]) == 1


def test_a_person_says_that_it_happened(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The effect is done with the response that the person gives, and its task goes on and does not repeat it."""
    key = stage.unknown_effect("t", {"to": "zoe@example.org"})
    assert main(["effects", "resolve", key[:8], "--happened", "--response", '{"id": 7}', "--dry-run"]) == 0
    assert "zoe@example.org" in capsys.readouterr().err
    effect = Effects(stage.ledger).get(key)
    assert effect is not None
    assert effect.status is EffectStatus.UNKNOWN
    argv = ["effects", "resolve", key[:8], "--happened", "--response", '{"id": 7}', "--by", "zoe", "--yes", "--json"]
    assert main(argv) == 0
    assert output(capsys) == {"resolved": key, "happened": True, "by": "zoe"}
    effect = Effects(stage.ledger).get(key)
    assert effect is not None
    assert (effect.status, effect.response, effect.error) == (EffectStatus.DONE, {"id": 7}, "resolved by zoe")
    assert stage.ledger.task("t").status is Status.PENDING
    assert main(["effects", "resolve", key[:8], "--happened", "--yes"]) == 1


def test_a_person_says_that_it_did_not_happen(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The effect has certainly failed, so that it may be sent; one of both has to be said, and what did not happen has
    no response."""
    key = stage.unknown_effect("t", {"to": "a"})
    with pytest.raises(SystemExit):
        main(["effects", "resolve", key, "--yes"])
    assert "one of the arguments --happened --did-not-happen is required" in capsys.readouterr().err
    assert main(["effects", "resolve", key, "--did-not-happen", "--response", "1", "--yes"]) == 2
    assert main(["effects", "resolve", key, "--did-not-happen", "--yes"]) == 0
    effect = Effects(stage.ledger).get(key)
    assert effect is not None
    assert effect.status is EffectStatus.FAILED
    assert (effect.error or "").startswith("resolved by ")
    with pytest.raises(SystemExit):
        main(["effects", "resolve", key, "--happened", "--response", "{"])
    assert "is not JSON" in capsys.readouterr().err


# -- relight divergence


def test_what_diverged_is_listed(
    stage: Stage, state_pair: StatePair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By kind, with what is known of it on either side; that there is some is no failure of the command."""
    name = f"former_{secrets.token_hex(4)}"
    stage.database.close()
    admin = postgres.connect(state_pair.primary.dsn("postgres"), autocommit=True)
    with admin.cursor() as cur:
        cur.execute(f"create database {name} template {psycopg2.extensions.parse_dsn(stage.dsn)['dbname']}")
    admin.close()
    former = Database(state_pair.primary.dsn(name))
    sql(former, "delete from relight.epochs where epoch = 2")
    ledger = Ledger(former, epoch=lambda: 1)
    ledger.start_task({}, id_="lost")
    task = ledger.claim("lost", worker="w", lease_s=300)
    assert task is not None
    effects = Effects(ledger)
    assert effects.intend(task, key="e" * 64, tool="mail", request={"to": "zoe"}, final_s=0.0) == 1
    effects.settle("e" * 64, EffectStatus.DONE, sending=1, response=1)
    former.close()
    monkeypatch.setenv("OLD_DSN", state_pair.primary.dsn(name))
    assert main(["divergence", "--old-dsn-env", "OLD_DSN"]) == 0
    told = capsys.readouterr()
    assert "the histories parted at epoch 2" in told.err
    assert told.out.splitlines() == [
        "tasks: 1",
        "  lost  running there, not known here",
        "steps: 0",
        "effects: 1",
        f"  HAPPENED: mail of task lost, {'e' * 12}, not known here",
        "memories: 0",
    ]
    assert main(["divergence", "--old-dsn-env", "OLD_DSN", "--json"]) == 0
    [effect] = output(capsys)["effects"]
    assert (effect["task_id"], effect["happened"], effect["here"]) == ("lost", True, None)


def test_divergence_asks_for_the_old_side(
    stage: Stage, state_pair: StatePair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when the old database is not named, is not its ancestor, or cannot be read; no password is shown."""
    assert main(["divergence"]) == 2
    assert "give --environment NAME, or --old-dsn-env VARIABLE" in capsys.readouterr().err
    assert main(["divergence", "--old-dsn-env", "OLD_DSN"]) == 2
    monkeypatch.setenv("OLD_DSN", "host=127.0.0.1 port=9 user=x password=hidden dbname=x")
    assert main(["divergence", "--old-dsn-env", "OLD_DSN"]) == 1
    assert "hidden" not in capsys.readouterr().err
    monkeypatch.setenv("OLD_DSN", stage.dsn)
    assert main(["divergence", "--old-dsn-env", "OLD_DSN"]) == 1
    assert "no recovery came between" in capsys.readouterr().err
    stranger = make_state(state_pair, f"stranger_{secrets.token_hex(4)}")
    monkeypatch.setenv("OLD_DSN", stranger.primary)
    assert main(["divergence", "--old-dsn-env", "OLD_DSN"]) == 1
    assert "the new side does not have it" in capsys.readouterr().err


# -- which region


@pytest.fixture
def demo(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseStore]:
    """The lease of the environment `demo`, before its first day."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    session = boto3.Session(aws_access_key_id=emulator.account, aws_secret_access_key=SECRET_KEY)
    monkeypatch.setattr(aws, "_session", lambda: session)
    settings = settings_for(load_named("demo"), Role.STANDBY)
    s3 = emulator.client("s3", settings.lease_region)
    where: Any = {"LocationConstraint": settings.lease_region}
    s3.create_bucket(Bucket=settings.lease_bucket, CreateBucketConfiguration=where)
    yield LeaseStore(s3, settings.lease_bucket)
    s3.delete_object(Bucket=settings.lease_bucket, Key=LEASE_KEY)
    s3.delete_bucket(Bucket=settings.lease_bucket)


def region_of(*argv: str) -> Role:
    """The region on which a verb would work."""
    with open_region(parser().parse_args([*argv, "--environment", "demo"])) as region:
        return region.settings.role


LOOKING = [["tasks", "list"], ["effects", "list"], ["db", "status"], ["journal", "show"]]


@pytest.mark.parametrize("verb", LOOKING, ids=" ".join)
def test_what_the_agent_works_on_is_looked_at_where_it_acts(demo: LeaseStore, verb: list[str]) -> None:
    """In the primary before the first epoch and until a recovery, then in the standby; --role decides otherwise."""
    settings = settings_for(load_named("demo"), Role.STANDBY)
    assert region_of(*verb) is Role.PRIMARY
    tag = None
    for epoch, region, expected in (
        (1, settings.primary_region, Role.PRIMARY),
        (2, settings.standby_region, Role.STANDBY),
    ):
        lease = Lease(epoch=epoch, region=region, run_id="r", expires_at=SystemClock().now())
        tag = demo.write(lease, instead_of=tag)
        assert region_of(*verb) is expected
    assert region_of(*verb, "--role", "primary") is Role.PRIMARY
    assert region_of("replay") is Role.STANDBY
    assert region_of("snapshot") is Role.PRIMARY


def test_nobody_recovers_into_the_region_that_acts_by_mistake(
    demo: LeaseStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when `relight recover` takes the standby although that acts already, and is the one that is lost: going on
    with its run, and either region by its name, are what can be meant."""
    settings = settings_for(load_named("demo"), Role.STANDBY)
    plan = ["recover", "--environment", "demo", "--dry-run"]
    lease = Lease(epoch=1, region=settings.primary_region, run_id="first", expires_at=SystemClock().now())
    tag = demo.write(lease, instead_of=None)
    assert main(plan) == 0
    assert f"recover in   {settings.standby_region}" in capsys.readouterr().err
    demo.write(replace(lease, epoch=2, region=settings.standby_region, run_id="epoch-2"), instead_of=tag)
    assert main(plan) == 1
    assert "holds epoch 2 already, by run epoch-2" in (told := capsys.readouterr().err)
    assert "--run-id epoch-2" in told
    for chosen, region in (
        (["--run-id", "epoch-2"], settings.standby_region),
        (["--role", "standby"], settings.standby_region),
        (["--role", "primary"], settings.primary_region),
    ):
        assert main([*plan, *chosen]) == 0
        assert f"recover in   {region}" in capsys.readouterr().err


def test_nobody_guesses_which_region_acts(
    demo: LeaseStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when the lease cannot be read, and asks for --role."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert main(["tasks", "list", "--environment", "demo"]) == 1
    assert "which region acts cannot be read" in (told := capsys.readouterr().err)
    assert "say it with --role" in told

"""Policies are enforced, and minimal: without any one of its permissions, a function is refused.

The permissions are those of the deployed roles. The functions are called in the order of a recovery: first without each
of their permissions, and then with all of them, which is what brings the recovery forward.

The roles of state machines and schedules are not here, because the emulator does not enforce them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from memory_helpers import settle

from relight.adapters import postgres
from relight.clock import point_id
from relight.config import Role
from relight.errors import RelightError
from relight.recovery.epoch import LeaseStore
from relight.recovery.evidence import HistoryStore, ProbeHistory
from relight.recovery.run import STATES
from relight.vault import points
from relight.vault.points import manifest_key, record_key
from relight.vault.segments import segment_key
from relight.vault.store import Vault
from relight_drill.network import Mode
from relight_drill.processes import DrillError, wait_until
from relight_drill.wire import workers
from relight_stacks.settings import AGENT_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from drill.conftest import Stage

    from relight_drill.world import World

# The walk is more than two minutes of both cores' work, which a busy machine doubles.
pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

UNTIL_FENCED, AFTERWARDS = [*STATES][:2], [*STATES][2:]
# Those of one region, and those that each region has of its own.
FUNCTIONS = ("snapshot", "observe", "sentinel", "providers", *STATES)
OF_EACH = ("verify-points", "prune")
EACH = (*((verb, role) for role in Role for verb in OF_EACH), ("hydrate", Role.PRIMARY))
# Without the lease, which it has after a recovery only, the standby seals nothing and exposes nothing. These are not
# called there, and may do what the primary's may, with the regions exchanged.
MIRRORED = ("snapshot", "observe")
# In a stack of their own, of nothing that is live: the contract's tests run them, and what they may do is asserted on
# the JSON.
REHEARSING = ("rehearse", "rehearse-age", "rehearse-close", "rehearse-open")
AGENTS = tuple(f"agent of the {role}" for role in Role)

# A function's worker starts anew after every failure, which takes the processor and not the emulator.
TOGETHER = 3

# Permissions whose absence cannot be seen here, as (policy, action), and why they are needed all the same.
UNSEEN = {
    ("*", "kms:Decrypt"): "S3, SNS and Secrets Manager ask KMS with the caller's permission; the emulator does not",
    ("*", "kms:GenerateDataKey"): "as above",
    ("log", "logs:*"): "Lambda writes a function's log under its role; the emulator keeps none that way",
    ("trace", "xray:*"): "Lambda sends traces under the role; the emulator sends none",
    ("dead-letters", "sqs:SendMessage"): "Lambda sends what it gives up under the role; the emulator sends it itself",
    ("start-work", "*"): "for a memory that is too large for a function; the contract's tests have one",
    ("join-network", "ec2:*"): "Lambda joins the network under the role; the handler is denied all of it",
    ("seal-*", "s3:AbortMultipartUpload"): "for a snapshot of more than one part whose upload breaks off",
    ("archive-*", "s3:GetObject"): "to compare with what a killed run put there; the contract's tests do so",
    ("prune-journal-*", "s3:GetObject"): "to ask for a head, which the emulator lets everybody do",
    ("cover-*", "s3:GetObject"): "for a newest point that somebody has read already; here it is seconds old",
    ("bring-forward-*", "s3:*"): "for a point older than what the state database has; contract tests do so",
    ("prune-*", "s3:GetObjectLegalHold"): "S3 tells of locks only to who may know of them; the emulator tells all",
    ("prune-*", "s3:GetObjectRetention"): "as above",
    ("hold-lease", "s3:ListBucket"): "S3 hides a missing lease from who may not list; the emulator says 404 to all",
    ("read-lease", "s3:ListBucket"): "as above",
    ("remember", "s3:ListBucket"): "as above, for the notes of a sentinel's first minute",
    ("results-*", "s3:ListBucket"): "as above, for a result that the other vault has",
    ("scale-*", "ecs:*"): "the emulator asks for the cluster, which each service's grant names; AWS for the service",
    ("bounds-*", "application-autoscaling:RegisterScalableTarget"): "an earlier try has raised the minimum by then",
}

# What the agent does with its role, in a process that has the role's credentials and nothing else.
AGENT = """
from contextlib import suppress

from relight.errors import ConflictError, NotFoundError
from relight.memory.segments import fetch
from relight.providers.incidents import Incident, Kind
from relight.recovery.metrics import CloudWatchMetrics
from relight.tasks.results import VaultResults
from relight.wiring import Region

with Region.from_env() as region:
    region.connections
    lease, tag = region.leases.read()
    with suppress(ConflictError):  # a real agent renewed it in between
        region.leases.write(lease, instead_of=tag)
    fetch(region.vault, "journal/x")
    for vault in (region.vault, region.peer_vault):  # the ledger has both, and asks the second where the first fails
        results = VaultResults([vault])
        results.put("results/x", b"x")
        results.put("results/x", b"x")
        results.get("results/x")
        with suppress(NotFoundError):
            results.get("results/missing")
    metrics = CloudWatchMetrics(region.aws("cloudwatch"), environment="test", region=region.settings.region)
    metrics.put({"JournalLagSeconds": 0.0}, collection="memory")
    region.page(Incident(kind=Kind.RECOVERED, provider="anthropic", since=region.clock.now(), text="a try"))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """One action that one statement of a role's inline policy allows."""

    policy: str
    statement: int
    action: str

    def __str__(self) -> str:
        return f"{self.action} of {self.policy}"

    @property
    def unseen(self) -> list[tuple[str, str]]:
        """The entries of UNSEEN that speak of it."""
        return [entry for entry in UNSEEN if fnmatchcase(self.policy, entry[0]) and fnmatchcase(self.action, entry[1])]


class DeployedRole:
    """A role as it was deployed, from which a permission can be taken for a while."""

    def __init__(self, iam: Any, arn: str) -> None:
        self._iam = iam
        self._name = arn.rpartition("/")[2]

    def permissions(self) -> list[Permission]:
        """Everything it allows."""
        return [
            Permission(policy=policy, statement=number, action=action)
            for policy in self._iam.list_role_policies(RoleName=self._name)["PolicyNames"]
            for number, statement in enumerate(self._document(policy)["Statement"])
            if statement["Effect"] == "Allow"
            for action in statement["Action"]
        ]

    @contextmanager
    def without(self, permission: Permission) -> Iterator[None]:
        """Take one permission out, and put it back."""
        target = {"RoleName": self._name, "PolicyName": permission.policy}
        whole, less = self._document(permission.policy), self._document(permission.policy)
        actions = less["Statement"][permission.statement]["Action"]
        actions.remove(permission.action)
        if not actions:
            del less["Statement"][permission.statement]
        if less["Statement"]:
            self._iam.put_role_policy(**target, PolicyDocument=json.dumps(less))
        else:
            self._iam.delete_role_policy(**target)
        try:
            yield
        finally:
            self._iam.put_role_policy(**target, PolicyDocument=json.dumps(whole))

    def _document(self, policy: str) -> dict[str, Any]:
        document: dict[str, Any] = self._iam.get_role_policy(RoleName=self._name, PolicyName=policy)["PolicyDocument"]
        return document


def refusals(
    role: DeployedRole, call: Callable[[], Any], elsewhere: Mapping[tuple[str, str], Callable[[], Any]] | None = None
) -> dict[Permission, str]:
    """What `call` fails with when each permission is taken out, "" when it does not.

    `elsewhere` has the calls that come to a (policy, action) where `call` does not.
    """
    found = {}
    for permission in role.permissions():
        found[permission] = ""
        if not permission.unseen:
            with role.without(permission):
                try:
                    (elsewhere or {}).get((permission.policy, permission.action), call)()
                except DrillError as exc:
                    found[permission] = str(exc)
    return found


class Walk:
    """A recovery, state by state, in a world whose own clockwork stands still."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._world: World = stage.world
        self._standby = self._world.region(Role.STANDBY)
        self._iam = self._client("iam")
        settings = self._world.settings(Role.STANDBY)
        self._machine = settings.state_machine_arn
        self._leases = LeaseStore(self._client("s3"), settings.lease_bucket)
        self._history = HistoryStore(self._client("s3"), settings.lease_bucket)
        self._threshold = settings.probe_threshold

    def to_the_end(self) -> dict[str, dict[Permission, str]]:
        """Go through all of it; the refusals of each function and agent."""
        self._stop_the_clockwork()
        found = {"snapshot": self._snapshot()}
        found |= self._together(
            {f"verify-points of the {role}": partial(self._verify_points, role) for role in Role}
            | {f"agent of the {role}": partial(self._agent, role) for role in Role}
        )
        # Prunes come by turns, because what is put there for one to remove is replicated to the other.
        providers = partial(self._refusals, "providers", Role.STANDBY)
        first, second = (partial(self._prune, role) for role in Role)
        found |= self._together({"providers": providers, f"prune of the {Role.PRIMARY}": first})
        found["observe"] = self._observe()
        found[f"hydrate of the {Role.PRIMARY}"] = self._hydrate()
        found[f"prune of the {Role.STANDBY}"] = second()
        self._stage.run(self._world.lose(Role.PRIMARY, Mode.DEAD))
        found["sentinel"], run_id = self._sentinel()
        event = {"run_id": run_id, "at": self._world.clock.now().isoformat()}
        calls = {state: partial(self._invoke, state, Role.STANDBY, event) for state in STATES}
        self._until_memory_is_empty()
        # Every state after fence works under the lease that fence takes.
        for states in (UNTIL_FENCED, AFTERWARDS):
            found |= self._together(
                {state: partial(refusals, self._role_of(state, Role.STANDBY), calls[state]) for state in states}
            )
            for state in states:
                calls[state]()
        return found

    @staticmethod
    def _together(work: Mapping[str, Callable[[], dict[Permission, str]]]) -> dict[str, dict[Permission, str]]:
        """Roles do not stand in one another's way."""
        with ThreadPoolExecutor(TOGETHER) as threads:
            futures = {name: threads.submit(call) for name, call in work.items()}
        return {name: future.result() for name, future in futures.items()}

    def _stop_the_clockwork(self) -> None:
        """No schedule and no rule calls a function from now on, and an execution of the state machine does nothing."""
        for role in Role:
            scheduler = self._world.emulator.client("scheduler", self._world.region(role))
            for schedule in scheduler.list_schedules()["Schedules"]:
                scheduler.delete_schedule(Name=schedule["Name"], GroupName=schedule["GroupName"])
        for worker in workers(self._world.emulator, self._standby):
            worker.kill()  # a sentinel that began before would go on for two minutes
        for role in Role:
            events = self._world.emulator.client("events", self._world.region(role))
            events.disable_rule(Name=f"{self._world.environment.names.prefix}-hydrate-on-boot")
        nothing = json.dumps({"StartAt": "Nothing", "States": {"Nothing": {"Type": "Succeed"}}})
        self._client("stepfunctions").update_state_machine(stateMachineArn=self._machine, definition=nothing)
        self._stage.run(self._world.lose_volume(Role.STANDBY))

    def _snapshot(self) -> dict[Permission, str]:
        clock = self._world.clock

        def next_second() -> None:
            """A point is named by its second, which one that was refused after its point was sealed has taken."""
            taken_by_now = point_id(clock.now())
            while point_id(clock.now()) == taken_by_now:
                clock.sleep(0.02)

        def call() -> None:
            """What was written by now is old enough to be archived, and the standby has a point that holds it."""
            next_second()
            with closing(postgres.connect(self._world.state_dsn(Role.PRIMARY))) as state:
                with state, state.cursor() as cur:
                    cur.execute(
                        "insert into relight.journal (epoch, collection, op, id)"
                        " select max(epoch), %s, 'delete', 'x' from relight.epochs",
                        [self._world.collection],
                    )
                    cur.execute("update relight.journal set at = at - interval '1 day'")
                settle(state)
            self._invoke("snapshot", Role.PRIMARY)

        @contextmanager
        def standby_away() -> Iterator[None]:
            """The standby cannot be reached, so that the point goes to the primary's vault."""
            self._world.gate.lose(self._standby, Mode.DEAD)
            try:
                yield
            finally:
                self._world.gate.restore(self._standby)

        @contextmanager
        def taken(role: Role) -> Iterator[None]:
            """The manifest's name is taken by another, whatever the second; one behind them is the newest."""
            now = clock.now()
            keys = [manifest_key(point_id(now + timedelta(seconds=number))) for number in range(30)]
            bucket = self._world.settings(role).vault_bucket
            s3 = self._world.emulator.client("s3", self._world.region(role))
            for key in keys:
                s3.put_object(Bucket=bucket, Key=key, Body=b"another's")
            try:
                yield
            finally:
                # In both, because deletions are not replicated.
                for s3, bucket, _ in map(self._vault, Role):
                    for key in keys:
                        s3.delete_object(Bucket=bucket, Key=key)

        def under(*circumstances: Callable[[], AbstractContextManager[None]]) -> Callable[[], None]:
            def called() -> None:
                with ExitStack() as stack:
                    for circumstance in circumstances:
                        stack.enter_context(circumstance())
                    call()

            return called

        role = self._role_of("snapshot", Role.PRIMARY)
        own, other = "seal-primary-vault", "seal-standby-vault"
        elsewhere = {
            (own, "s3:ListBucket"): under(standby_away),
            (own, "s3:PutObject"): under(standby_away),
            (own, "s3:GetObject"): under(partial(taken, Role.PRIMARY), standby_away),
            (other, "s3:GetObject"): under(partial(taken, Role.STANDBY)),
        }
        with pytest.raises(DrillError, match="PreconditionFailed"):
            elsewhere[other, "s3:GetObject"]()
        found = refusals(role, call, elsewhere)
        call()
        return found

    def _refusals(self, verb: str, role: Role, before: Callable[[], None] | None = None) -> dict[Permission, str]:
        """Those of a function that one circumstance brings to all that it may do, and that it then does."""

        def call() -> None:
            if before is not None:
                before()
            self._invoke(verb, role)

        found = refusals(self._role_of(verb, role), call)
        call()
        return found

    def _verify_points(self, role: Role) -> dict[Permission, str]:
        """One point is not verified yet, and the others are."""
        self._invoke("verify-points", role)
        s3, bucket, region = self._vault(role)
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=record_key(region, "").removesuffix(".json"))["Contents"]
        assert len(listed) > 1
        newest = max(item["Key"] for item in listed)
        return self._refusals("verify-points", role, lambda: s3.delete_object(Bucket=bucket, Key=newest))

    def _observe(self) -> dict[Permission, str]:
        """It goes on after each look that is refused, and says so; the points that it sees were verified."""
        for role in Role:
            self._invoke("verify-points", role)

        def call() -> None:
            if failed := self._invoke("observe", Role.PRIMARY)["failed"]:
                raise DrillError(json.dumps(failed))

        found = refusals(self._role_of("observe", Role.PRIMARY), call)
        call()
        return found

    def _hydrate(self) -> dict[Permission, str]:
        """The primary's memory is lost with its store, after its journal was archived: its agents leave it alone."""
        event = {"source": "aws.ecs", "detail": {"taskArn": "task/relight/walk"}}

        def call() -> None:
            self._world.store(Role.PRIMARY).drop(self._world.collection)
            done = self._invoke("hydrate", Role.PRIMARY, event)
            assert [item["restored"] for item in done["collections"]] != [None]

        found = refusals(self._role_of("hydrate", Role.PRIMARY), call)
        call()
        self._stage.run(self._world.until_memory_is_whole(Role.PRIMARY, timeout_s=60))
        return found

    def _prune(self, role: Role) -> dict[Permission, str]:
        """Of two points of one old minute the older has to go, with an object and with what was found of it; and a part
        of the journal that the newer one does not need."""
        s3, bucket, region = self._vault(role)
        older, newer = "20200101T000000Z", "20200101T000001Z"
        real = next(points.eligible(Vault(s3, bucket, region=region)))
        segment = segment_key(self._world.collection, (0, 0), (1, 1), "0" * 64)

        def old_points() -> None:
            for key in (
                *(manifest_key(older), manifest_key(newer)),
                *(manifest_key(older).replace("manifest.json", "x"), record_key(region, older)),
            ):
                s3.put_object(Bucket=bucket, Key=key, Body=b"{}")
            s3.put_object(Bucket=bucket, Key=manifest_key(newer), Body=replace(real, id=newer).to_json().encode())
            s3.put_object(Bucket=bucket, Key=segment, Body=b"{}")

        found = self._refusals("prune", role, old_points)
        left = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"] if older in item["Key"]]
        assert left == []
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix=segment)
        return found

    def _vault(self, role: Role) -> tuple[Any, str, str]:
        """A client with every right, the bucket, and the region."""
        region = self._world.region(role)
        return self._world.emulator.client("s3", region), self._world.settings(role).vault_bucket, region

    def _agent(self, role: Role) -> dict[Permission, str]:
        region, cluster = self._world.region(role), self._world.settings(role).cluster
        ecs = self._world.emulator.client("ecs", region)
        service = ecs.describe_services(cluster=cluster, services=[AGENT_SERVICE])["services"][0]
        task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
        sts = self._world.emulator.client("sts", region)
        s3, bucket, _ = self._vault(role)
        s3.put_object(Bucket=bucket, Key="journal/x", Body=b"x")
        given = sts.assume_role(RoleArn=task["taskRoleArn"], RoleSessionName="test")["Credentials"]
        credentials = {
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

        def work() -> None:
            done = subprocess.run(
                [sys.executable, "-P", "-c", AGENT],
                env=self._world.operator_env(role) | credentials,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode != 0:
                raise DrillError(done.stderr)

        found = refusals(DeployedRole(self._iam, task["taskRoleArn"]), work)
        work()
        return found

    def _sentinel(self) -> tuple[dict[Permission, str], str]:
        """Its refusals, and the id of the run that it started at last."""

        def call(*, lease_left_s: float) -> Any:
            lost = ProbeHistory(
                region=self._world.region(Role.PRIMARY), failures=self._threshold - 1, ever_answered=True
            )
            self._history.change(lambda _: lost)
            held = self._leases.read()
            assert held is not None
            expires_at = self._world.clock.now() + timedelta(seconds=lease_left_s)
            self._leases.write(replace(held[0], expires_at=expires_at), instead_of=held[1])
            return self._invoke("sentinel", Role.STANDBY)

        recovers, pages = partial(call, lease_left_s=-60.0), partial(call, lease_left_s=60.0)
        role = self._role_of("sentinel", Role.STANDBY)
        found = refusals(role, recovers, elsewhere={("publish", "sns:Publish"): pages})
        assert not self._executions(), "a sentinel that was refused something started a recovery"
        run_id = recovers()["run_id"]
        assert self._executions() == [run_id]
        return found, run_id

    def _executions(self) -> list[str]:
        listed = self._client("stepfunctions").list_executions(stateMachineArn=self._machine)
        return [execution["name"] for execution in listed["executions"]]

    def _until_memory_is_empty(self) -> None:
        """The vector store's new task has come up on its new volume; otherwise nothing would have to be restored."""

        def empty() -> bool:
            try:
                return self._world.store(Role.STANDBY).describe(self._world.collection) is None
            except RelightError:
                return False

        self._stage.run(wait_until(empty, what="an empty vector store in the standby", timeout_s=60))

    def _invoke(self, verb: str, role: Role, event: Mapping[str, Any] | None = None) -> Any:
        return self._stage.run(self._world.invoke(verb, role=role, event=event))

    def _role_of(self, verb: str, role: Role) -> DeployedRole:
        lambdas = self._world.emulator.client("lambda", self._world.region(role))
        name = self._world.environment.names.function(verb)
        return DeployedRole(self._iam, lambdas.get_function_configuration(FunctionName=name)["Role"])

    def _client(self, service: str) -> Any:
        return self._world.emulator.client(service, self._standby)


@pytest.fixture(scope="module")
def found(stage: Stage) -> dict[str, dict[Permission, str]]:
    """The refusals of every function and agent, from one walk through a recovery."""
    return Walk(stage).to_the_end()


WHO = (*FUNCTIONS, *(f"{verb} of the {role}" for verb, role in EACH), *AGENTS)


@pytest.mark.parametrize("who", WHO)
def test_without_any_one_permission_it_is_refused(found: dict[str, dict[Permission, str]], who: str) -> None:
    """fails when a permission is not enforced, or not needed: then take it out of the stacks."""
    seen = {permission: said for permission, said in found[who].items() if not permission.unseen}
    assert len(seen) >= 2
    for permission, said in seen.items():
        assert f"not authorized to perform: {permission.action}" in said, f"{who} does its work without {permission}"


def test_every_deployed_function_is_tried(stage: Stage, found: dict[str, dict[Permission, str]]) -> None:
    """fails when a function is deployed that is not called here, but for those of rehearsals."""
    world = stage.world
    deployed = [
        function["FunctionName"]
        for role in Role
        for function in world.emulator.client("lambda", world.region(role)).list_functions()["Functions"]
    ]
    verbs = (*FUNCTIONS, *MIRRORED, *REHEARSING, *(verb for verb, _ in EACH))
    assert sorted(deployed) == sorted(world.environment.names.function(verb) for verb in verbs)
    assert found.keys() == {*WHO}


@pytest.mark.parametrize("verb", MIRRORED)
def test_a_function_of_the_standby_mirrors_the_primarys(
    stage: Stage, found: dict[str, dict[Permission, str]], verb: str
) -> None:
    """fails when a relit region may do more, or less, to take points or to look at itself than the primary may."""
    world = stage.world
    lambdas = world.emulator.client("lambda", world.region(Role.STANDBY))
    configuration = lambdas.get_function_configuration(FunctionName=world.environment.names.function(verb))
    role = DeployedRole(world.emulator.client("iam", world.region(Role.STANDBY)), configuration["Role"])
    exchanged = str.maketrans({"\x01": "standby-vault", "\x02": "primary-vault"})

    def mirrored(permission: Permission) -> tuple[str, int, str]:
        policy = permission.policy.replace("primary-vault", "\x01").replace("standby-vault", "\x02")
        return policy.translate(exchanged), permission.statement, permission.action

    own = sorted((item.policy, item.statement, item.action) for item in role.permissions())
    assert own == sorted(mirrored(permission) for permission in found[verb])


def test_what_cannot_be_seen_exists(found: dict[str, dict[Permission, str]]) -> None:
    """fails when UNSEEN excuses a permission that nobody has, or has two reasons for one."""
    spoken_of = [permission.unseen for permissions in found.values() for permission in permissions]
    assert {entry for entries in spoken_of for entry in entries} == UNSEEN.keys()
    assert all(len(entries) <= 1 for entries in spoken_of)

"""What an environment can promise, computed from what it says: the arithmetic behind RTO and RPO. Pure.

Worst cases of what is configured, and figures for what is not. A figure says what it rests on: `measured` in a drill
on a quiet machine of two cores, `documented` by AWS, or `assumed` where neither is to be had. Drills measure; this only
shows which environments cannot work, before anything is deployed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relight.config import Acknowledge, ConfirmBy, OnStandbyAway, Role, StateKind
from relight.errors import ConfigError
from relight.memory.estimate import LOAD_BYTES_PER_S
from relight.objectives import REPLICATION_TIME_CONTROL_S, uploads_to_standby_first
from relight.recovery.decide import START_AGAIN_S
from relight_constructs.recovery_machine import POLL_S
from relight_constructs.timeouts import WAKING_S
from relight_stacks.environment import CapacityKind, Lock
from relight_stacks.tiers import DEFAULTS, Routing, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight_stacks.environment import Environment


class Basis(StrEnum):
    """What a number rests on."""

    SET = "set"
    """The environment or its tier says so."""
    MEASURED = "measured"
    DOCUMENTED = "documented"
    ASSUMED = "assumed"


class Loss(StrEnum):
    """What may be lost: whose RPO it is."""

    STATE = "state"
    MEMORY = "memory"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One line of a sum. `keys` of the environment's file change it. What passes `beside` a longer line is not
    counted."""

    what: str
    seconds: float
    basis: Basis
    why: str
    keys: tuple[str, ...] = ()
    beside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A sum and the objective that it has to fit into; of an RPO, what may be lost so far back."""

    name: str
    objective_s: float
    parts: tuple[Part, ...]
    of: Loss | None = None

    @property
    def seconds(self) -> float:
        """The sum of what is counted."""
        return sum(part.seconds for part in self.parts if not part.beside)

    @property
    def kept(self) -> bool:
        """Whether the sum fits."""
        return self.seconds <= self.objective_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What an environment can promise. The RPO is that of the surface that may lose most."""

    detection_s: float
    rto: Promise
    rpo: tuple[Promise, ...]
    not_covered: tuple[str, ...]

    @property
    def rpo_s(self) -> float:
        """The most that any surface may lose."""
        return max(surface.seconds for surface in self.rpo)

    @property
    def broken(self) -> tuple[Promise, ...]:
        """Those that cannot be kept."""
        return tuple(promise for promise in (self.rto, *self.rpo) if not promise.kept)


# Route 53's checkers each have a phase of their own, and a connection may take 4 s and its answer 2 s. Source: Route 53
# developer guide, "How Route 53 determines whether a health check is healthy".
ROUTE53_ANSWER_S = 6.0
# Until name servers know what checkers found. No bound is documented: what is left of failovers that others measured,
# which took 57 s and 72 s. Source: keycloak/keycloak-benchmark#495.
ROUTE53_PROPAGATION_S = 10.0

# Drills took 0.3 to 2.4 s for a state; twice that is counted, for distances and cold starts in a network.
STATE_S = 5.0
# Where the control planes of IAM and of Route 53 are, whatever region they serve. Source: AWS's "Fault Isolation
# Boundaries", "Global services".
GLOBAL_REGION = "us-east-1"
# EventBridge Scheduler user guide, "Schedule types": all invoke their targets with a precision of 60 s.
SCHEDULE_PRECISION_S = 60.0

PROMOTION: dict[StateKind, tuple[float, Basis, str]] = {
    StateKind.EXISTING: (STATE_S, Basis.MEASURED, "a physical replica, promoted by SQL; 1.7 s in a drill"),
    StateKind.AURORA_GLOBAL: (60.0, Basis.DOCUMENTED, "AWS: a secondary is promoted in under a minute"),
    # A replica of PostgreSQL cannot be backed up beforehand: docs/adr/0010.
    StateKind.RDS_REPLICA: (420.0, Basis.ASSUMED, "AWS: a few minutes; and two that its first backup may take"),
    StateKind.SNAPSHOTS: (1500.0, Basis.ASSUMED, "a new instance from copied backups; AWS promises no time"),
}

START: dict[CapacityKind, tuple[float, Basis, str]] = {
    CapacityKind.ECS: (57.0, Basis.MEASURED, "by others: Fargate's average for an image of 413 MB"),
    CapacityKind.EKS: (57.0, Basis.ASSUMED, "on nodes that have room; as long as Fargate takes"),
    CapacityKind.AUTO_SCALING: (180.0, Basis.ASSUMED, "instances boot and join the load balancer"),
}

# Without a confirmation, what a replica is behind. No bound is documented for other replicas than Aurora's.
LAG: dict[StateKind, tuple[float, Basis, str]] = {
    StateKind.EXISTING: (30.0, Basis.ASSUMED, "the lag of an asynchronous replica in another region"),
    StateKind.AURORA_GLOBAL: (1.0, Basis.DOCUMENTED, "AWS: typically under a second"),
    StateKind.RDS_REPLICA: (30.0, Basis.ASSUMED, "the lag of an asynchronous replica in another region"),
}
# RDS ships its logs every five minutes; a copy that is late by two more rounds is nothing unusual.
COPIED_BACKUPS_S = 900.0

# From the beginning of a snapshot to its sealed manifest, for a memory that a function can move.
SEALING_S = 120.0
# Without Replication Time Control S3 promises nothing; most objects arrive within 15 minutes, some within hours.
REPLICATION_S = 3600.0
# Where no store replicates, how often each region looks for what it lacks, and how quickly that comes.
COPY_EVERY_S = 300
COPY_BYTES_PER_S = 50e6

# By hand: nobody is woken for a sandbox.
NOTICE_S = 8 * 3600.0
DEPLOY_S = 3600.0

_GIB = 1024**3


def promises(environment: Environment) -> Promises:
    """The arithmetic of an environment."""
    rto = _rto(environment)
    detection_s = sum(part.seconds for part in _detection(environment) if not part.beside)
    return Promises(
        detection_s=detection_s if environment.shape.standby else NOTICE_S,
        rto=Promise(name="RTO", objective_s=environment.objectives.rto_s, parts=tuple(rto)),
        rpo=tuple(_rpo(environment)),
        not_covered=tuple(_not_covered(environment)),
    )


def keep_promises(environment: Environment, *, source: str) -> None:
    """Raise ConfigError where an objective of the tier is out of reach; it says by how much, and what to change."""
    for promise in promises(environment).broken:
        counted = sorted((part for part in promise.parts if not part.beside), key=lambda part: -part.seconds)
        largest = ", ".join(f"{part.what} {part.seconds:.0f} s" for part in counted[:3])
        keys = dict.fromkeys(key for part in counted for key in part.keys)
        raise ConfigError(
            f"{source}: {promise.name} of {promise.objective_s:.0f} s, the objective of tier {environment.tier}, is "
            f"out of reach: {promise.seconds:.0f} s at worst ({largest})",
            hint=f"change {', '.join(list(keys)[:4])}, or choose another tier; `relight env check` shows the sum",
        )


def route53_detection_s(environment: Environment) -> float:
    """From the loss of a region until no caller is given its address."""
    return _route53_s(environment, environment.shape.primary_threshold)


def _route53_s(environment: Environment, threshold: int) -> float:
    shape = environment.shape
    looks = shape.check_interval_s * threshold + shape.check_interval_s
    return looks + ROUTE53_ANSWER_S + ROUTE53_PROPAGATION_S + shape.ttl_s


def _detection(environment: Environment) -> Iterator[Part]:
    """From the loss to the sentinel's decision. Two witnesses must agree, and both begin to count at the loss."""
    shape = environment.shape
    ttl_s, margin_s = DEFAULTS["lease_ttl_s"], DEFAULTS["lease_margin_s"]
    probes_s = shape.probe_interval_s * shape.probe_threshold + shape.probe_timeout_s
    lease_s = ttl_s + margin_s + shape.probe_interval_s
    yield Part(
        what="the sentinel's probes fail",
        seconds=probes_s,
        basis=Basis.SET,
        why=f"{shape.probe_interval_s:g} x {shape.probe_threshold} + {shape.probe_timeout_s:g}: interval, threshold, "
        "timeout",
        keys=("recovery.probe_interval_s", "recovery.probe_threshold", "recovery.probe_timeout_s"),
        beside=lease_s > probes_s,
    )
    yield Part(
        what="the lease runs out",
        seconds=lease_s,
        basis=Basis.SET,
        why=f"{ttl_s:g} + {margin_s:g} + {shape.probe_interval_s:g}: how long it lives, the margin, the next look",
        keys=("recovery.probe_interval_s",),
        beside=lease_s <= probes_s,
    )


def _rto(environment: Environment) -> list[Part]:
    shape = environment.shape
    if not shape.standby:
        return list(_by_hand(environment))
    recovered = [*_detection(environment), *_recovery(environment)]
    if shape.routing is Routing.FAILOVER:
        recovered.append(
            Part(
                what="Route 53 believes in the standby",
                seconds=_route53_s(environment, shape.standby_threshold),
                basis=Basis.ASSUMED,
                why=_route53_why(environment, shape.standby_threshold),
                keys=("dns.check_interval_s", "dns.standby_threshold", "dns.ttl_s"),
            )
        )
    # Where both regions serve, the other is in callers' answers already.
    leaves = Part(
        what="Route 53 gives up the lost region",
        seconds=route53_detection_s(environment),
        basis=Basis.ASSUMED,
        why=_route53_why(environment, shape.primary_threshold),
        keys=("dns.check_interval_s", "dns.primary_threshold", "dns.ttl_s"),
    )
    if leaves.seconds > sum(part.seconds for part in recovered if not part.beside):
        return [*(replace(part, beside=True) for part in recovered), leaves]
    return [*recovered, replace(leaves, beside=True)]


def _route53_why(environment: Environment, threshold: int) -> str:
    shape = environment.shape
    return (
        f"{shape.check_interval_s} x {threshold} + {shape.check_interval_s} + {ROUTE53_ANSWER_S:g} + "
        f"{ROUTE53_PROPAGATION_S:g} + {shape.ttl_s}: interval and threshold, phase, answer, propagation (a guess), TTL"
    )


def _recovery(environment: Environment) -> Iterator[Part]:
    """From the decision to the open gate."""
    yield _state("assess")
    if environment.recovery.approval:
        yield Part(
            what="a person approves",
            seconds=environment.recovery.approval_minutes * 60.0,
            basis=Basis.SET,
            why="as long as they may take",
            keys=("recovery.approval_minutes", "recovery.approval"),
        )
    yield _state("fence")
    yield _promote(environment)
    scale, hydrate = _scale(environment), _hydrate(environment)
    yield replace(scale, beside=scale.seconds < hydrate.seconds)
    yield replace(hydrate, beside=hydrate.seconds <= scale.seconds)
    for verb in ("verify", "replay", "open the gate"):
        yield _state(verb)


def _state(verb: str) -> Part:
    return Part(what=verb, seconds=STATE_S, basis=Basis.MEASURED, why="0.3 to 2.4 s in drills; twice that is counted")


def _promote(environment: Environment) -> Part:
    seconds, basis, why = PROMOTION[environment.shape.state]
    if environment.own_state:
        why = f"{seconds:g} + {POLL_S}: {why}; {POLL_S} s pass between two looks"
        seconds += POLL_S
    return Part(what="promote", seconds=seconds, basis=basis, why=why, keys=("state.kind",))


def _scale(environment: Environment) -> Part:
    if environment.shape.waiting is Waiting.FULL:
        return Part(
            what="scale", seconds=STATE_S, basis=Basis.MEASURED, why="all agents run; 1.2 s in a drill to see that"
        )
    seconds, basis, why = START[environment.capacity.kind]
    return Part(
        what="scale: agents start",
        seconds=STATE_S + seconds + POLL_S,
        basis=basis,
        why=f"{STATE_S:g} + {seconds:g} + {POLL_S}: {why}; {POLL_S} s pass between two looks",
        keys=("pattern.standby", "capacity.kind"),
    )


def _hydrate(environment: Environment) -> Part:
    if environment.shape.hydrates_on_boot:
        return Part(
            what="hydrate",
            seconds=STATE_S,
            basis=Basis.MEASURED,
            why="memory is filled, and brought forward; 0.3 s in a drill",
        )
    return _fill(environment)


def _fill(environment: Environment) -> Part:
    """An empty vector store starts, and is filled as far as its volume goes."""
    start_s = START[CapacityKind.ECS][0]
    gib = environment.vector.storage_gib
    # What is too large for a function is moved by a task, which has to start too.
    tasks = 2 if gib > environment.large_work.above_gib else 1
    load_s = gib * _GIB / LOAD_BYTES_PER_S
    return Part(
        what="hydrate: the vector store starts and is filled",
        seconds=STATE_S + tasks * start_s + POLL_S + load_s,
        basis=Basis.MEASURED,
        why=f"{STATE_S:g} + {tasks} x {start_s:g} + {POLL_S} + {load_s:.0f}: containers start and are looked at again, "
        f"and {gib} GiB, the whole volume, at {LOAD_BYTES_PER_S / 1e6:g} MB/s",
        keys=("vector.storage_gib", "pattern.standby"),
    )


def _by_hand(environment: Environment) -> Iterator[Part]:
    yield Part(what="somebody notices", seconds=NOTICE_S, basis=Basis.ASSUMED, why="nobody is woken", keys=("tier",))
    yield Part(
        what="the standby's stack is deployed",
        seconds=DEPLOY_S,
        basis=Basis.ASSUMED,
        why='with tier = "batch", and then `relight recover`',
        keys=("tier",),
    )
    yield _promote(environment)
    yield _fill(environment)
    for verb in ("assess", "fence", "verify", "replay", "open the gate"):
        yield _state(verb)
    yield Part(
        what="the record is moved",
        seconds=ROUTE53_PROPAGATION_S + environment.shape.ttl_s,
        basis=Basis.ASSUMED,
        why=f"{ROUTE53_PROPAGATION_S:g} + {environment.shape.ttl_s}: propagation and TTL",
        keys=("dns.ttl_s",),
    )


def _rpo(environment: Environment) -> Iterator[Promise]:
    """What each surface may lose of what was acknowledged."""
    objective_s = environment.objectives.rpo_s
    state = _state_loss(environment)
    yield Promise(name="RPO of state", objective_s=objective_s, parts=(state,), of=Loss.STATE)
    for collection in environment.memory.collections:
        if collection.journalled:
            parts: tuple[Part, ...] = (replace(state, why=f"its journal is in the state: {state.why}"),)
        else:
            parts = tuple(_point_age(environment))
        name = f"RPO of memory {collection.name!r}"
        yield Promise(name=name, objective_s=objective_s, parts=parts, of=Loss.MEMORY)
    rebuilt = replace(state, why=f"it is rebuilt from the state: {state.why}")
    yield Promise(name="RPO of queue", objective_s=objective_s, parts=(rebuilt,), of=Loss.QUEUE)


def _state_loss(environment: Environment) -> Part:
    kind = environment.shape.state
    if kind is StateKind.SNAPSHOTS:
        return Part(
            what="copied backups are behind",
            seconds=COPIED_BACKUPS_S,
            basis=Basis.DOCUMENTED,
            why="typically 5 minutes, and AWS promises none; three times that is counted",
            keys=("state.kind",),
        )
    if environment.acknowledge is Acknowledge.REMOTE:
        by = {
            ConfirmBy.COMMIT: "the commit waits for the synchronous standby",
            ConfirmBy.POSITION: "the replica's position is looked at after the commit",
            ConfirmBy.AURORA: "Aurora's own position of the other region is looked at after the commit",
        }[environment.confirm_by]
        return Part(
            what="acknowledged is in the standby",
            seconds=0.0,
            basis=Basis.SET,
            why=by,
            keys=("acknowledge",),
        )
    seconds, basis, why = LAG[kind]
    return Part(
        what="the replica is behind",
        seconds=seconds,
        basis=basis,
        why=f'{why}; acknowledge = "local"',
        keys=("acknowledge", "state.kind"),
    )


def _point_age(environment: Environment) -> Iterator[Part]:
    """How old the newest eligible point may be in the region that would restore it."""
    minutes = environment.shape.snapshot_minutes
    yield Part(
        what="since the last snapshot",
        seconds=minutes * 60.0,
        basis=Basis.SET,
        why=f"every {minutes} minutes",
        keys=("pattern.snapshot_minutes", "memory.collections.journalled"),
    )
    yield Part(what="a snapshot is made", seconds=SEALING_S, basis=Basis.ASSUMED, why="until its manifest is sealed")
    if uploads_to_standby_first(environment.objectives):
        return
    if environment.vaults.other:
        gib = environment.vector.storage_gib
        yield Part(
            what="it is copied to the other vault",
            seconds=COPY_EVERY_S + gib * _GIB / COPY_BYTES_PER_S,
            basis=Basis.ASSUMED,
            why=f"{COPY_EVERY_S:g} + {gib * _GIB / COPY_BYTES_PER_S:.0f}: Relight looks every "
            f"{COPY_EVERY_S / 60:g} minutes, and {gib} GiB, the whole volume, at "
            f"{COPY_BYTES_PER_S / 1e6:g} MB/s over the internet",
            keys=("vault.primary", "vault.standby", "vector.storage_gib"),
        )
        return
    promised = environment.shape.replication_time_control
    yield Part(
        what="it is replicated",
        seconds=REPLICATION_TIME_CONTROL_S if promised else REPLICATION_S,
        basis=Basis.DOCUMENTED if promised else Basis.ASSUMED,
        why="S3 Replication Time Control's promise" if promised else "nobody promises a time",
        keys=("vault.replication_time_control",),
    )


def _not_covered(environment: Environment) -> Iterator[str]:
    """What the arithmetic leaves out, in sentences."""
    shape = environment.shape
    yield "a loss of both regions at once"
    if shape.standby:
        yield (
            f"a minute in which EventBridge Scheduler calls no sentinel at all; one that is late by the "
            f"{SCHEDULE_PRECISION_S:g} s of its precision costs nothing, because the one before watches until then"
        )
        yield (
            f"a function that Lambda has put to sleep although it is called each day: its state waits for it, up to "
            f"{WAKING_S} s"
        )
        yield "resolvers and clients that keep an address for longer than its TTL"
        yield "capacity that is not to be had: reserve it in the standby where that must not happen"
        if environment.recovery.approval:
            yield (
                f"nobody answers within the {environment.recovery.approval_minutes} min of recovery.approval_minutes: "
                f"nobody is served, and another run asks again {START_AGAIN_S / 60:g} min later"
            )
        if environment.regions.primary == GLOBAL_REGION:
            yield (
                f"a deployment while {GLOBAL_REGION} does not answer: the standby's plan reads Route 53's zone and "
                "refreshes IAM's roles, whose control planes are in that region; a recovery asks neither"
            )
    else:
        yield (
            f"a day on which {GLOBAL_REGION} does not answer: the standby is made by a deployment, and IAM and Route "
            "53, which ACM's certificate waits for, are changed there alone"
        )
        yield "images: the standby's registry holds none, so keep them where they can be pushed from"
        yield "the time of whoever runs the steps of docs/deploy.md, and a host in the new network for `relight`"
    if shape.state is StateKind.RDS_REPLICA:
        yield (
            "a first backup of the promoted database that keeps it from writing for longer than two minutes: promote a "
            "replica of your size once, in a place to try"
        )
    if shape.state is StateKind.EXISTING:
        yield "the state database and its replication, which are yours"
    for role, other in environment.vaults.other.items():
        yield f"the {role}'s vault in {other.endpoint}: its durability, its locks and its speed are that store's"
    if environment.queue.existing:
        yield "the queue's servers, which are yours; what was in the queue is rebuilt"
    if environment.images_elsewhere:
        yield (
            f"the registry of {', '.join(environment.images_elsewhere)}, which is not ECR: what a recovery starts is "
            "pulled from there, over the internet and the way out to it, the NAT gateway"
        )
    if not environment.rehearsed:
        yield "a point that turns out not to be restorable: no restore is rehearsed before the day that needs one"
    if environment.capacity.kind is not CapacityKind.ECS:
        yield f"how quickly {environment.capacity.kind} starts agents: it is yours, and the figure is assumed"
    if any(network.vpc_id for network in environment.networks.values()):
        yield "what else is in a network of your own: its routes, its endpoints, its rules"
    if environment.on_standby_away is OnStandbyAway.PROCEED and environment.acknowledge is Acknowledge.REMOTE:
        yield 'while the standby is away: with on_standby_away = "proceed" the RPO is suspended, and that is shown'
    if any(not collection.journalled for collection in environment.memory.collections):
        yield "between two snapshots, what is written to a collection that is not journalled"
    if environment.acknowledge is Acknowledge.LOCAL:
        yield 'what the figures of lag do not know: with acknowledge = "local" drills and alarms say what is lost'
    if shape.state is not StateKind.SNAPSHOTS and not environment.confirm_replicas:
        yield "the primary at all: confirm_replicas = 0 says that its database has no replica, as on the way back"
    for role, network in environment.networks.items():
        if not network.vpc_id and not network.nat and (shape.standby or role is Role.PRIMARY):
            yield (
                f"the internet: with network.{role}.nat = false agents reach no hosted LLM provider, and no tool of "
                "theirs does"
            )
    if environment.read_only:
        yield "work: with read_only = true agents answer what is asked, and begin nothing, in both regions"
    if environment.vaults.lock is Lock.NONE:
        yield (
            'somebody who may delete: with vault.lock = "none" an administrator, or who has become one, destroys the '
            "points of both regions for good"
        )
    if not environment.providers:
        yield "LLM providers: none is named, so nothing tries whether the standby could ask them"
    for spec in environment.providers:
        if shape.standby and environment.regions.primary in (urlsplit(spec.base_url).hostname or ""):
            yield (
                f"the LLM provider {spec.name} where {environment.regions.primary} is lost: its base_url is in that "
                "region for both; write {region} for the region, or name another after it"
            )
    yield "a mistake that is replicated, such as a deleted table: `relight restore --before TIME` is for that"


def to_json(found: Promises) -> dict[str, object]:
    """The arithmetic as JSON holds it."""

    def promise(item: Promise) -> dict[str, object]:
        return {
            "name": item.name,
            "objective_s": item.objective_s,
            "seconds": round(item.seconds, 1),
            "kept": item.kept,
            "parts": [
                {
                    "what": part.what,
                    "seconds": round(part.seconds, 1),
                    "basis": part.basis.value,
                    "why": part.why,
                    "keys": list(part.keys),
                    "counted": not part.beside,
                }
                for part in item.parts
            ],
        }

    return {
        "detection_s": found.detection_s,
        "rto": promise(found.rto),
        "rpo_s": found.rpo_s,
        "rpo": [promise(item) for item in found.rpo],
        "not_covered": list(found.not_covered),
    }

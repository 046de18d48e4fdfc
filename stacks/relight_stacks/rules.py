"""What an environment may not say although each of its values is allowed. Pure: nothing here starts node.

Each contradiction is a ConfigError that names the values, the rule that they break and what to change.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relight.config import Acknowledge, ConfirmBy, MemoryStore, Role
from relight.errors import ConfigError
from relight.objectives import PATTERNS, Pattern
from relight_stacks.environment import Lock
from relight_stacks.tiers import SHAPES, Routing, StateKind, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from relight_stacks.environment import Environment

# How much waits in the standby, from the least.
_WAITING = (Waiting.NONE, Waiting.PILOT, Waiting.FULL)

# What a region without a standby's stack has no follower of.
_FOLLOWED = (StateKind.AURORA_GLOBAL, StateKind.RDS_REPLICA)
# What can tell of a commit that it is in the standby, by where the state is (docs/adr/0010); and why the others cannot.
_CONFIRMED_BY: dict[StateKind, tuple[ConfirmBy, ...]] = {
    StateKind.AURORA_GLOBAL: (ConfirmBy.AURORA,),
    StateKind.RDS_REPLICA: (ConfirmBy.POSITION,),
    StateKind.EXISTING: tuple(ConfirmBy),
}
_CONFIRMS: dict[ConfirmBy, tuple[str, str]] = {
    ConfirmBy.COMMIT: ("waits for a synchronous standby", "replication is asynchronous"),
    ConfirmBy.POSITION: ("looks at replicas in pg_stat_replication", "the storage replicates, which is not in there"),
    ConfirmBy.AURORA: ("asks aurora_global_db_status()", "the database has no such function"),
}
# What an Aurora Global Database is made of. Source: Aurora user guide, "Configuration requirements of an Amazon Aurora
# global database".
_MEMORY_OPTIMIZED = ("db.r", "db.x")
# The oldest major version that Relight's SQL runs on, of RDS and of Aurora alike: a migration sets
# `client_connection_check_interval`, which came with it.
_LEAST_MAJOR = 14

# A problem and what to change.
_Found = tuple[str, str]


def check(environment: Environment, *, source: str) -> None:
    """Raise ConfigError for the first contradiction in an environment that was read from `source`."""
    for problem, hint in contradictions(environment):
        raise ConfigError(f"{source}: {problem}", hint=hint)


def check_together(environments: Iterable[Environment]) -> None:
    """Raise ConfigError for the first two environments that cannot be deployed side by side."""
    for problem, hint in collisions(environments):
        raise ConfigError(problem, hint=hint)


def collisions(environments: Iterable[Environment]) -> Iterator[_Found]:
    """Two environments whose stacks one pattern takes, whatever their accounts; and what two of one account would each
    make, and there can be only one of."""
    names: list[str] = []
    domains: dict[tuple[str, str], str] = {}
    registries: dict[tuple[str, str], str] = {}
    channels: dict[tuple[str, str], str] = {}
    for environment in environments:
        name, account, region = environment.name, environment.account, environment.regions.primary
        # `deploy 'prod-*'` takes the stacks of prod-eu too, and what prod makes for rehearsals is called as what an
        # environment prod-rehearsal makes.
        for other in names:
            short, long = sorted((name, other), key=len)
            if long.startswith(f"{short}-"):
                yield (
                    f"{name}: {short} is the beginning of {long}, and '{short}-*' the stacks of both",
                    f"rename one of the two, such as {long.replace('-', '')}",
                )
        names.append(name)
        # Each makes the zone of its domain, and finds it by name.
        owner = domains.setdefault((account, environment.domain), name)
        if owner != name:
            yield (
                f"{name}: domain = {environment.domain!r} is the domain of {owner} in the same account",
                f"use one of its own, such as {name}.{environment.domain}",
            )
        # A registry has one configuration of what it replicates and where to, and who deploys last would replace it.
        if environment.replicate_images and environment.shape.standby:
            owner = registries.setdefault((account, region), name)
            if owner != name:
                yield (
                    f"{name}: replicate_images = true, and {owner} copies images from the registry of account "
                    f"{account} in {region} already, which can be configured once",
                    "use replicate_images = false in one of the two, and push its images to both regions yourself",
                )
        channel = environment.incidents.slack_channel
        owner = channels.setdefault((account, channel), name) if channel else name
        if owner != name:
            yield (
                f"{name}: incidents.slack_channel = {channel!r} is {owner}'s in the same account, where a channel can "
                "be configured once",
                "use a channel of its own",
            )


def contradictions(environment: Environment) -> Iterator[_Found]:
    """Every contradiction, as what is wrong and what to change."""
    for rule in _RULES:
        yield from rule(environment)


def _standby(environment: Environment) -> Iterator[_Found]:
    """A tier gets at least what its pattern needs; one without a standby has nothing that a standby would do."""
    shape, tier = environment.shape, environment.tier
    least = SHAPES[tier].waiting
    if _WAITING.index(shape.waiting) < _WAITING.index(least):
        yield (
            f'pattern.standby = "{shape.waiting}" is less than {PATTERNS[tier]} has, the pattern of tier {tier}',
            f'use "{least}" or leave it out, or choose another tier',
        )
    if shape.standby:
        if shape.routing is Routing.SINGLE:
            yield (
                'dns.routing = "single" would leave callers with the primary after a recovery',
                "use failover, or choose tier sandbox, whose recovery is by hand",
            )
        return
    for said, is_said in {
        f'pattern.standby = "{shape.waiting}"': shape.waiting is not Waiting.NONE,
        f'recovery.rehearse = "{shape.rehearse}"': bool(shape.rehearse),
        f'dns.routing = "{shape.routing}"': shape.routing is not Routing.SINGLE,
        "dns.routing_controls = true": environment.routing_controls,
        "recovery.approval = true": environment.recovery.approval,
    }.items():
        if is_said:
            yield f"{said} needs a standby, and tier {tier} has none", "leave it out, or choose tier batch"
    if shape.state in _FOLLOWED:
        yield (
            f'state.kind = "{shape.state}" needs a standby, where its follower would be, and tier {tier} has none',
            'use "snapshots", whose backups are copied, or choose tier batch',
        )


def _routing(environment: Environment) -> Iterator[_Found]:
    """Traffic goes to both regions only where both serve, and no answer outlives the next look."""
    shape, tier = environment.shape, environment.tier
    both = shape.routing in (Routing.WEIGHTED, Routing.LATENCY)
    if both and shape.standby and PATTERNS[tier] is not Pattern.ACTIVE_ACTIVE:
        yield (
            f'dns.routing = "{shape.routing}" sends callers to both regions, and with {PATTERNS[tier]}, the pattern of '
            f"tier {tier}, only one serves",
            'use "failover", or choose tier customer-facing',
        )
    if shape.routing is not Routing.SINGLE and shape.ttl_s > shape.check_interval_s:
        yield (
            f"dns.ttl_s = {shape.ttl_s} outlives dns.check_interval_s = {shape.check_interval_s}: callers would keep a "
            "dead address longer than Route 53 does",
            f"use a ttl_s of {shape.check_interval_s} or less",
        )


def _state(environment: Environment) -> Iterator[_Found]:
    """What confirms a commit is there, and where nothing is there nothing is waited for."""
    kind, by = environment.shape.state, environment.confirm_by
    replicas = environment.confirm_replicas
    if kind is StateKind.SNAPSHOTS:
        if environment.acknowledge is Acknowledge.REMOTE:
            yield (
                'acknowledge = "remote" waits for a replica, and with state.kind = "snapshots" there is none',
                'use acknowledge = "local", or state.kind = "rds-replica"',
            )
        if by is not ConfirmBy.POSITION or replicas:
            yield (
                f'confirm_by = "{by}" with confirm_replicas = {replicas} waits for a replica, and with state.kind = '
                '"snapshots" there is none',
                "leave both out",
            )
        return
    if by not in _CONFIRMED_BY[kind]:
        does, but = _CONFIRMS[by]
        yield f'confirm_by = "{by}" {does}, and with state.kind = "{kind}" {but}', "leave confirm_by out"
    # Both together say that there is no replica, as on the way back after a recovery.
    if replicas == 0 and environment.acknowledge is Acknowledge.REMOTE:
        yield (
            f'confirm_replicas = 0 waits for nobody, and with state.kind = "{kind}" there is a replica',
            "leave it out, or count the replicas that the primary's database has; for as long as it has none, say "
            'acknowledge = "local" too',
        )


def _database(environment: Environment) -> Iterator[_Found]:
    """The database is one that AWS makes of its kind, and that Relight's SQL runs on."""
    kind, database = environment.shape.state, environment.database
    if kind is StateKind.AURORA_GLOBAL and not database.instance_class.startswith(_MEMORY_OPTIMIZED):
        yield (
            f'state.instance_class = "{database.instance_class}" is not memory-optimized, and of state.kind = "{kind}" '
            "the others are refused",
            "use a class db.r… or db.x…, such as db.r6g.large",
        )
    if database.engine_version and int(database.engine_version.partition(".")[0]) < _LEAST_MAJOR:
        yield (
            f'state.engine_version = "{database.engine_version}" is older than {_LEAST_MAJOR}, the oldest that '
            "Relight's SQL runs on",
            f"use {_LEAST_MAJOR} or newer, or leave it out",
        )


def _networks(environment: Environment) -> Iterator[_Found]:
    """Two networks that Relight makes can be joined."""
    made = {role: environment.network(role) for role in Role if not environment.network(role).vpc_id}
    if len(made) < len(Role) or not environment.shape.standby:
        return
    primary, standby = (ipaddress.IPv4Network(made[role].cidr) for role in Role)
    if primary.overlaps(standby):
        yield (
            f"network.primary.cidr = {primary} and network.standby.cidr = {standby} overlap: two networks that are "
            "joined could not tell whose an address is",
            "give the regions ranges apart, such as 10.0.0.0/16 and 10.1.0.0/16",
        )


def _onward(environment: Environment) -> Iterator[_Found]:
    """Where callers come to both regions, the one that does not work reaches the one that does."""
    shape = environment.shape
    if not shape.standby or shape.routing not in (Routing.WEIGHTED, Routing.LATENCY):
        return
    for role in Role:
        network = environment.network(role)
        if not network.vpc_id and not network.nat:
            yield (
                f'network.{role}.nat = false with dns.routing = "{shape.routing}": callers come to both regions, and '
                "agents send what writes on to the public endpoint of the one that works, to which they have no way",
                'use nat = true, dns.routing = "failover", or an existing network (vpc_id) with a way out',
            )


def _keeping(environment: Environment) -> Iterator[_Found]:
    """Nothing is locked for longer than the ladder keeps it."""
    vaults, memory = environment.vaults, environment.memory
    longest = environment.ladder.kept_days
    locks = {f"vault.{role}": store.lock_days for role, store in vaults.other.items()}
    if vaults.lock is not Lock.NONE and len(vaults.other) < len(Role):
        locks["vault"] = vaults.lock_days
    for table, days in locks.items():
        if days > longest:
            yield (
                f"{table}.lock_days = {days} locks points for longer than the ladder keeps any: "
                f"memory.keep_hourly = {memory.keep_hourly}, keep_daily = {memory.keep_daily}, keep_monthly = "
                f"{memory.keep_monthly} end after {longest} days",
                f"use a lock_days of {max(1, longest)} or less, or keep_daily = {days} or more",
            )


def _other_stores(environment: Environment) -> Iterator[_Found]:
    """A vault that is not in AWS is another one than the other's, and there is a way to it."""
    stores = environment.vaults.other
    if not stores:
        return
    if len({(store.endpoint, store.bucket) for store in stores.values()}) < len(stores):
        yield (
            f"vault.primary and vault.standby are both the bucket {stores[Role.PRIMARY].bucket}: what befalls one "
            "befalls both",
            "give each region a vault of its own",
        )
    for role, store in stores.items():
        if str(urlsplit(store.endpoint).hostname).endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")):
            yield (
                f"vault.{role}.endpoint = {store.endpoint} is Amazon's: Relight makes the buckets there itself",
                f"leave [vault.{role}] out",
            )
    if environment.memory.store is MemoryStore.WEAVIATE:
        yield (
            f'memory.store = "weaviate" makes its snapshots itself, into S3, and [vault.{next(iter(stores))}] is not '
            "there",
            'use memory.store = "qdrant" or "pgvector", or leave the table out',
        )
    if environment.given.get("replication_time_control"):
        yield (
            "vault.replication_time_control = true is S3's promise for its own replication, and with "
            f"[vault.{next(iter(stores))}] Relight copies between the vaults itself",
            "leave it out",
        )
    for role in Role if environment.shape.standby else (Role.PRIMARY,):
        network = environment.network(role)
        if not network.vpc_id and not network.nat:
            yield (
                f"network.{role}.nat = false, and the vault in {next(iter(stores.values())).endpoint} is reached over "
                "the internet",
                "use nat = true, or an existing network (vpc_id) with a way out",
            )


def _agents(environment: Environment) -> Iterator[_Found]:
    """There is room for the agents that are to run."""
    most, replicas = environment.most_agents, environment.agent.replicas
    if most < replicas:
        yield (
            f"capacity.most = {most} is less than agent.replicas = {replicas}",
            f"use {replicas} or more, or leave it out for twice as many",
        )


def _images(environment: Environment) -> Iterator[_Found]:
    """An image is where each region can pull it from, and what is too large for a function has one to run."""
    if not environment.work_image:
        yield (
            f'large_work.image is missing: with capacity.kind = "{environment.capacity.kind}" the agents\' image is '
            "yours, and what is too large for a function runs as a task of ECS",
            "give an image that holds Relight's library, such as the agents' own",
        )
    images = environment.images
    for role in Role if environment.shape.standby else (Role.PRIMARY,):
        network = environment.network(role)
        for name in environment.images_elsewhere if not network.vpc_id and not network.nat else ():
            yield (
                f"{name} = {images[name]} is pulled over the internet, and network.{role}.nat = false leaves no way "
                "there",
                "push it to the account's registry of ECR and write {region}, or use nat = true",
            )
    if not environment.shape.standby:
        return
    for name, image in images.items():
        if ".dkr.ecr." in image and "{region}" not in image:
            yield (
                f"{name} = {image} is in one region's registry: a standby that pulls from it needs that region",
                "write {region} for the region",
            )


def _sentinel(environment: Environment) -> Iterator[_Found]:
    """A probe is over before the next one."""
    shape = environment.shape
    if shape.probe_timeout_s > shape.probe_interval_s:
        yield (
            f"recovery.probe_timeout_s = {shape.probe_timeout_s:g} is longer than recovery.probe_interval_s = "
            f"{shape.probe_interval_s:g}: a silent region would delay the next probe",
            f"use a probe_timeout_s of {shape.probe_interval_s:g} or less",
        )


def _people(environment: Environment) -> Iterator[_Found]:
    """A person who is to be asked can be reached, and in time."""
    incidents, recovery = environment.incidents, environment.recovery
    if bool(incidents.slack_team) != bool(incidents.slack_channel):
        one, lacking = ("slack_team", "slack_channel") if incidents.slack_team else ("slack_channel", "slack_team")
        yield f"incidents.{one} is given without {lacking}", "give both, or neither"
    if incidents.pagerduty_eu and not incidents.pagerduty:
        yield "incidents.pagerduty_eu = true says where, and incidents.pagerduty is false", "set both, or neither"
    reached = incidents.emails or incidents.slack_team or incidents.pagerduty
    if recovery.approval and not reached:
        yield (
            "recovery.approval = true asks a person, and [incidents] reaches nobody",
            "give emails, a Slack channel or pagerduty",
        )


_RULES: tuple[Callable[[Environment], Iterator[_Found]], ...] = (
    _standby,
    _routing,
    _state,
    _database,
    _networks,
    _onward,
    _keeping,
    _other_stores,
    _agents,
    _images,
    _sentinel,
    _people,
)

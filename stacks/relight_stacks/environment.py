"""One environment as a value; `loading` reads it from its TOML file. Pure: nothing here starts node."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from relight.config import ANY_REGION, MemoryStore, OnLeaseLost, OnStandbyAway, Role
from relight.config import CapacityKind as CapacityKind
from relight.objectives import OBJECTIVES, Objectives, Tier
from relight_constructs.lifecycle import Ladder
from relight_constructs.props import Lock as Lock
from relight_constructs.pull import repository_of
from relight_stacks.naming import Names, in_region
from relight_stacks.tiers import CONFIRMING, DEFAULTS, SHAPES, Confirming, Shape, StateKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight.config import Acknowledge, ConfirmBy
    from relight.memory.store import CollectionSpec
    from relight.providers.spec import ProviderLimits, ProviderSpec

# The longest name that leaves every IAM role within its 64 characters and every bucket within its 63.
LONGEST_NAME = 16

# vCPU units to the memory that Fargate offers with them, in MiB: smallest, largest, step. Source: Amazon ECS developer
# guide, "Fargate task sizes".
_MIB_PER_GIB = 1024
FARGATE_SIZES: dict[int, tuple[int, int, int]] = {
    256: (512, 2 * _MIB_PER_GIB, 512),
    512: (1 * _MIB_PER_GIB, 4 * _MIB_PER_GIB, _MIB_PER_GIB),
    1024: (2 * _MIB_PER_GIB, 8 * _MIB_PER_GIB, _MIB_PER_GIB),
    2048: (4 * _MIB_PER_GIB, 16 * _MIB_PER_GIB, _MIB_PER_GIB),
    4096: (8 * _MIB_PER_GIB, 30 * _MIB_PER_GIB, _MIB_PER_GIB),
    8192: (16 * _MIB_PER_GIB, 60 * _MIB_PER_GIB, 4 * _MIB_PER_GIB),
    16384: (32 * _MIB_PER_GIB, 120 * _MIB_PER_GIB, 8 * _MIB_PER_GIB),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """The two regions of an environment."""

    primary: str
    standby: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """The agent. `replicas` run in the primary, and in the standby once it has recovered.

    The rest is of the ECS service, and left alone where `capacity` is of another kind. `image` may say `{region}`; the
    container listens on 8080 and answers `/health` and `/ready`. Without `command` the image's own is run.
    """

    replicas: int
    image: str = ""
    cpu: int = 512
    memory: int = 1024
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """The vector database's ECS service, on a volume of `storage_gib` that lives as long as its task. The image is one
    of the store that `memory.store` names."""

    image: str
    cpu: int
    memory: int
    storage_gib: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A region's network: a VPC of its own with the range `cidr`, or the existing one called `vpc_id`.

    `zones` are the letters of the availability zones of a VPC of its own. `nat` gives agents a way to the internet, as
    LLM providers need one; no recovery does. Of an existing VPC, `route_table_ids` are those of its private subnets.
    Without `certificate_arn` a certificate is made and proved in the environment's zone.

    Without `endpoints` none is made: the existing network has those that `relight_constructs.endpoints` tells of, S3's
    of both regions among them. Agents and functions reach 443 anywhere, and `ports` too. The load balancer's access log
    goes to the bucket `access_logs_bucket`, where one is given.
    """

    cidr: str = "10.0.0.0/16"
    zones: tuple[str, ...] = ("a", "b")
    nat: bool = True
    vpc_id: str = ""
    private_subnet_ids: tuple[str, ...] = ()
    public_subnet_ids: tuple[str, ...] = ()
    route_table_ids: tuple[str, ...] = ()
    certificate_arn: str = ""
    endpoints: bool = True
    ports: tuple[int, ...] = ()
    access_logs_bucket: str = ""


# Two networks that can be joined.
NETWORKS: dict[Role, Network] = {Role.PRIMARY: Network(), Role.STANDBY: Network(cidr="10.1.0.0/16")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The state database's size, where it is Relight's own to make. `engine_version` is empty for Relight's default.

    Raising `password_version` makes new passwords, of the database, the vector store and the queue.
    """

    instance_class: str = "db.r6g.large"
    storage_gib: int = 100
    engine_version: str = ""
    backup_days: int = 7
    password_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The queue's NATS servers: `nodes` in the primary and one in a pilot light, or `existing` ones by secret.

    Without an image it is `nats:2.15-alpine` in the region's own registry, so that a standby starts it without the
    internet. It may say `{region}`.
    """

    existing: bool = False
    image: str = ""
    nodes: int = 3
    cpu: int = 256
    memory: int = 512
    storage_gib: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What runs the agents, and what a recovery scales. Relight makes the service of `ecs` only.

    Of `ecs` at most `most` agents run at once, twice `agent.replicas` where it is 0. `cluster`, `namespace` and
    `deployment` are for `eks`, `group` for `auto-scaling`; they have the same names in both regions.
    """

    kind: CapacityKind = CapacityKind.ECS
    most: int = 0
    cluster: str = ""
    namespace: str = "default"
    deployment: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherStore:
    """A bucket of an S3-compatible store other than Amazon's, such as Cloudflare R2; its keys are in the secret.

    `region` is what requests are signed for, `lock_days` how long a lock of the bucket's own keeps each object."""

    endpoint: str
    bucket: str
    region: str = ANY_REGION
    lock_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vaults:
    """How the vaults keep what is in them. An object is locked for `lock_days`, and for as long a deletion can be
    undone, whatever `lock` says. With an `OtherStore` for a role, that region's vault is there, and Relight copies
    between the vaults itself. `results_days` 0 keeps large results of steps for ever."""

    lock: Lock = Lock.GOVERNANCE
    lock_days: int = 7
    results_days: int = 0
    other: Mapping[Role, OtherStore] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a recovery asks of people: with `approval`, one of them says yes within `approval_minutes`."""

    approval: bool = False
    approval_minutes: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Incidents:
    """Whom incidents reach. The PagerDuty routing key is in a secret, and with `pagerduty_eu` it is of an account in
    PagerDuty's EU; Slack is reached through Amazon Q Developer in chat applications, which has to be authorized in the
    workspace once."""

    emails: tuple[str, ...] = ()
    slack_team: str = ""
    slack_channel: str = ""
    pagerduty: bool = False
    pagerduty_eu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeWork:
    """From `above_gib` of memory on, snapshots and hydrations run as an ECS task rather than in a function, and points
    are read by one.

    Its image holds Relight's library: the agent's own, where none is given and Relight runs the agents.
    """

    image: str = ""
    above_gib: int = 40
    cpu: int = 2048
    memory: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the agent remembers in, and how many recovery points of it are kept."""

    store: MemoryStore = DEFAULTS["memory_store"]
    collections: tuple[CollectionSpec, ...] = DEFAULTS["collections"]
    recall_floor: float = DEFAULTS["recall_floor"]
    keep_hourly: int = DEFAULTS["keep_hourly"]
    keep_daily: int = DEFAULTS["keep_daily"]
    keep_monthly: int = DEFAULTS["keep_monthly"]
    rehearsal_check: str = DEFAULTS["rehearsal_check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One named deployment. Equal files make equal values.

    `confirm_replicas` are the replicas that the primary's database has, `confirm_replicas_relit` those that the
    standby's has once it was relit; they count under `confirm_by = "position"`. The `base_url` of one of the
    `providers` may say `{region}`. Whether they can be asked from the standby is tried every `provider_check_minutes`.
    """

    name: str
    account: str
    tier: Tier
    domain: str
    regions: Regions
    agent: Agent
    vector: Vector
    networks: Mapping[Role, Network] = field(default_factory=lambda: dict(NETWORKS))
    given: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of `Shape`'s fields; the rest is the tier's."""
    confirming_given: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of `Confirming`'s fields; the rest follows from where the state is."""
    database: Database = Database()
    queue: Queue = Queue()
    capacity: Capacity = Capacity()
    vaults: Vaults = Vaults()
    recovery: Recovery = Recovery()
    incidents: Incidents = Incidents()
    large_work: LargeWork = LargeWork()
    routing_controls: bool = False
    replicate_images: bool = True
    read_only: bool = False
    memory: Memory = Memory()
    on_lease_lost: OnLeaseLost = DEFAULTS["on_lease_lost"]
    hold_timers_after_s: float = DEFAULTS["hold_timers_after_s"]
    hold_sends_after_s: float = DEFAULTS["hold_sends_after_s"]
    hold_credentials_after_s: float = DEFAULTS["hold_credentials_after_s"]
    confirm_timeout_s: float = DEFAULTS["confirm_timeout_s"]
    confirm_replicas_relit: int = 0
    on_standby_away: OnStandbyAway = DEFAULTS["on_standby_away"]
    providers: tuple[ProviderSpec, ...] = ()
    provider_limits: ProviderLimits = DEFAULTS["provider_limits"]
    provider_check_minutes: int = 15

    @property
    def names(self) -> Names:
        """The names of everything in the environment."""
        return Names(
            environment=self.name,
            account=self.account,
            primary_region=self.regions.primary,
            standby_region=self.regions.standby,
            domain=self.domain,
        )

    def with_store(self, store: MemoryStore) -> Environment:
        """The same environment, which remembers in `store`."""
        return replace(self, memory=replace(self.memory, store=store))

    def with_tier(self, tier: Tier) -> Environment:
        """The same environment in another tier."""
        return replace(self, tier=tier)

    @property
    def shape(self) -> Shape:
        """The tier's infrastructure, with what the file says of it."""
        return replace(SHAPES[self.tier], **self.given)

    @property
    def _confirming(self) -> Confirming:
        return replace(CONFIRMING[self.shape.state], **self.confirming_given)

    @property
    def acknowledge(self) -> Acknowledge:
        """When a task or a memory write may be told to its caller."""
        return self._confirming.acknowledge

    @property
    def confirm_by(self) -> ConfirmBy:
        """What tells that a commit is in the standby."""
        return self._confirming.confirm_by

    @property
    def confirm_replicas(self) -> int:
        """How many replicas the primary's database has."""
        return self._confirming.confirm_replicas

    @property
    def objectives(self) -> Objectives:
        """The tier's objectives."""
        return OBJECTIVES[self.tier]

    @property
    def own_state(self) -> bool:
        """Whether Relight makes the state database."""
        return self.shape.state is not StateKind.EXISTING

    @property
    def composes_connections(self) -> bool:
        """Whether Relight writes the connections itself, because every server in them is its own."""
        return self.own_state and not self.queue.existing

    @property
    def work_image(self) -> str:
        """The image of the task that does what is too large for a function; it may say `{region}`."""
        return self.large_work.image or self.agent.image

    @property
    def ladder(self) -> Ladder:
        """How many points the vaults keep."""
        return Ladder(
            hourly=self.memory.keep_hourly,
            daily=self.memory.keep_daily,
            monthly=self.memory.keep_monthly,
            every_minutes=self.shape.snapshot_minutes,
        )

    @property
    def images(self) -> dict[str, str]:
        """The images that the file names, by their keys. They may say `{region}`."""
        named = {
            "agent.image": self.agent.image,
            "vector.image": self.vector.image,
            "queue.image": self.queue.image,
            "large_work.image": self.large_work.image,
        }
        return {key: image for key, image in named.items() if image}

    @property
    def images_elsewhere(self) -> tuple[str, ...]:
        """The keys of the images that are in no registry of ECR, so that a region pulls them over the internet."""
        found = self.images.items()
        return tuple(key for key, image in found if repository_of(in_region(image, self.regions.standby)) is None)

    @property
    def most_agents(self) -> int:
        """How many agents run at once at most."""
        return self.capacity.most or 2 * self.agent.replicas

    @property
    def rehearsed(self) -> bool:
        """Whether points are restored on a schedule, in a place of their own."""
        return self.shape.standby and bool(self.shape.rehearse)

    @property
    def rehearsed_over_internet(self) -> bool:
        """Whether the place for rehearsals needs a way out: to an image in no registry of ECR, or a vault elsewhere."""
        images = (self.vector.image, self.work_image)
        found = [repository_of(in_region(image, self.regions.standby)) for image in images]
        return None in found or Role.STANDBY in self.vaults.other

    def network(self, role: Role) -> Network:
        """The network of the region deployed as `role`."""
        return self.networks[role]

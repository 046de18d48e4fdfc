"""What each construct is told. Frozen, keyword-only, and free of node: importing this module starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from relight_constructs.endpoints import USUAL
from relight_constructs.lifecycle import USUAL_LADDER, Ladder
from relight_constructs.timeouts import USUAL_WAITS, Waits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from relight_constructs.access import LeaseRef, SigningRef, VaultRef
    from relight_constructs.balancer import InnerBalancer, Target
    from relight_constructs.bindings import TerraformProvider
    from relight_constructs.deadletters import DeadLetters
    from relight_constructs.failover import RoutingControls, Zone
    from relight_constructs.function import Function
    from relight_constructs.grants import Invocable, Readable, Scalable, Startable, Tellable
    from relight_constructs.incidents import IncidentsTopic
    from relight_constructs.key import Key, ReplicaKey
    from relight_constructs.network import Network
    from relight_constructs.secret import Secret
    from relight_constructs.services import Cluster, Service
    from relight_constructs.vault import Vault
    from relight_constructs.work import WorkTask

# Who is in a region's network. Each has a security group of its own, to which nothing is admitted but what is said, and
# which nothing leaves but what is said. `inner` is the load balancer that gives the servers their names.
GROUPS = ("agent", "balancer", "endpoints", "functions", "inner", "queue", "state", "vector")

# Long enough to see a year's worth of incidents, and what auditors ask for.
LOG_RETENTION_DAYS = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a construct lives, and the prefix of its environment's names."""

    account: str
    region: str
    prefix: str

    def role_name(self, what: str) -> str:
        """A role's name. IAM is global, so the region is part of it."""
        return f"{self.prefix}-{what}-{self.region}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyProps:
    """A key that rotates every year and can be deleted only after 30 days. `for_logs` lets CloudWatch Logs use it,
    `for_alarms` CloudWatch's alarms, `for_rules` EventBridge's rules. One of `multi_region` can have replicas in other
    regions, and cannot be made so later."""

    place: Place
    alias: str
    description: str
    for_logs: bool = False
    for_alarms: bool = False
    for_rules: bool = False
    multi_region: bool = False
    provider: TerraformProvider | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaKeyProps:
    """A replica, in `place`, of `source`, a key of several regions in another one."""

    place: Place
    alias: str
    description: str
    source: Key | ReplicaKey
    provider: TerraformProvider | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyProps:
    """A key that signs, in `place`, with a replica where `replica_provider` is; both can be deleted only after 30
    days."""

    place: Place
    alias: str
    replica_provider: TerraformProvider


class Lock(StrEnum):
    """How a vault's objects are locked against deletion."""

    NONE = "none"
    GOVERNANCE = "governance"
    """Only who has `s3:BypassGovernanceRetention` ends a lock early; no grant of Relight gives it."""
    COMPLIANCE = "compliance"
    """Nobody ends a lock early, not the account's root user either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultProps:
    """A vault in `place`, which is where `provider` is.

    Each object is locked for `lock_days` from when it is put, as `lock` says; and for as long a deletion can be undone,
    whatever `lock` says. `ladder` is what prunes keep: it says when points move to cheaper storage, and when the
    bucket itself ends them. Large results of steps end after `results_days`, 0 for never. With `key_of`, the vault of
    the other region, the key is a replica of that one's.
    """

    place: Place
    ref: VaultRef
    provider: TerraformProvider | None = None
    key_of: Vault | None = None
    lock: Lock = Lock.GOVERNANCE
    lock_days: int = 7
    ladder: Ladder = USUAL_LADDER
    results_days: int = 0

    def __post_init__(self) -> None:
        if self.lock_days < 1:
            raise ValueError(f"lock_days={self.lock_days}; s3 counts in days, use 1 or more")
        if self.results_days < 0:
            raise ValueError(f"results_days={self.results_days}; use 1 or more, or 0 for never")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationAlarmsProps:
    """Tell `topic`, in the region of the vault `own`, when what `peer` has put arrives later than `late_s`, or what
    `own` has put could not be replicated."""

    place: Place
    own: VaultRef
    peer: VaultRef
    late_s: int
    topic: IncidentsTopic


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseProps:
    """The bucket of the epoch and the lease, encrypted with the key of the vault beside it."""

    ref: LeaseRef
    key: Key | ReplicaKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A bundle as a stack holds it: its path beside the stack's JSON, and the base64 SHA-256 of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """The subnets and security groups of a region's own network that something joins."""

    subnet_ids: tuple[str, ...]
    security_group_ids: tuple[str, ...]


# A range is cut into sixteen parts, of which each zone takes two.
MOST_ZONES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkProps:
    """A region's network: a VPC of its own with the range `cidr` and subnets in the zones of these letters, or, where
    `vpc_id` is given, the existing subnets, one in each zone.

    With `nat`, what is in a private subnet reaches the internet: through one gateway, which dies with its zone, or
    through one in each zone. `services` are names of endpoints; with a `peer_region`, its S3 is reached privately too.
    Without `endpoints` none is made, because the existing network has them. Without `public` there are no public
    subnets, and no way to the internet or from it. `groups` are the security groups that there are.
    """

    place: Place
    logs_key: Key
    cidr: str = "10.0.0.0/16"
    zones: tuple[str, ...] = ("a", "b")
    nat: bool = True
    nat_per_zone: bool = False
    vpc_id: str = ""
    private_subnet_ids: tuple[str, ...] = ()
    public_subnet_ids: tuple[str, ...] = ()
    route_table_ids: tuple[str, ...] = ()
    endpoints: bool = True
    services: tuple[str, ...] = USUAL
    peer_region: str = ""
    public: bool = True
    groups: tuple[str, ...] = GROUPS
    log_retention_days: int = LOG_RETENTION_DAYS

    def __post_init__(self) -> None:
        if self.vpc_id and not self.private_subnet_ids:
            raise ValueError(f"vpc_id={self.vpc_id!r} without private_subnet_ids; name the private subnet of each zone")
        if not self.vpc_id and not 1 <= len(self.zones) <= MOST_ZONES:
            raise ValueError(f"zones={self.zones}; the range is cut for 1 to {MOST_ZONES} zones, so name as many")
        if self.nat and not self.public:
            raise ValueError("nat=True with public=False; a NAT gateway needs a public subnet: use nat=False")


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerProps:
    """A public load balancer of `network`, which speaks TLS and sends to `port` of the agents.

    `target_type` is `ip` for tasks and pods, `instance` for machines. Its access log goes to the bucket
    `access_logs_bucket`, which must let the region's load balancers write; without one there is none.
    """

    place: Place
    network: Network
    port: int
    certificate_arn: str
    target_type: str = "ip"
    access_logs_bucket: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerBalancerProps:
    """The load balancer of a region's own servers, and the private zone `domain` in which they have their names."""

    place: Place
    network: Network
    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateProps:
    """A certificate for `host` and every name right below it, proved by a record in the zone `zone`."""

    zone: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeProps:
    """An encrypted volume for each task, empty when it starts and deleted when it ends."""

    path: str
    size_gib: int
    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueProps:
    """NATS servers with JetStream: `nodes` that are one cluster, or a single one.

    `running` of them run at first. Clients reach them as `host` on 4222. `password` is theirs and the clients', who are
    the user `relight`.
    """

    place: Place
    cluster: Cluster
    network: Network
    inner: InnerBalancer
    image: str
    host: str
    nodes: int
    running: int
    cpu: int
    memory: int
    storage_gib: int
    key: Key
    password: Secret
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingProps:
    """Between `least` and `most` tasks of a service, as many as keep their CPU at `cpu_percent`."""

    service: Service
    least: int
    most: int
    cpu_percent: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAgentsProps:
    """Agents that something of the user's own runs, as `service` says whom to trust: `pods.eks.amazonaws.com` or
    `ec2.amazonaws.com`."""

    place: Place
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccessProps:
    """The role `role_arn` comes into the EKS `cluster`."""

    cluster: str
    role_arn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesProps:
    """Repositories of this registry that are copied to `region` of the same account."""

    account: str
    region: str
    repositories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionProps:
    """One handler. It runs outside any network unless `network` is given, and as often at once as it is called unless
    `at_once` is given. Memory buys CPU: with 1,024 MiB the bundle is imported in well under a second. A call that
    nobody waits for, and that has failed for good, goes to `dead_letters`; unless `dropped_after_s`, 60 to 21,600, is
    given: then it is dropped once it is so old, because the next one does the same work. Something else must tell when
    too few go well."""

    place: Place
    name: str
    verb: str
    code: Code
    environment: Mapping[str, str]
    timeout_s: int
    logs_key: Key
    dead_letters: DeadLetters
    network: Attachment | None = None
    at_once: int | None = None
    dropped_after_s: int | None = None
    memory_mib: int = 1024
    log_retention_days: int = LOG_RETENTION_DAYS

    def __post_init__(self) -> None:
        if self.dropped_after_s is not None and not 60 <= self.dropped_after_s <= 21600:
            raise ValueError(f"dropped_after_s={self.dropped_after_s}; lambda keeps calls for 60 to 21600 s, use that")

    @property
    def handler(self) -> str:
        """The importable name of the handler."""
        return f"relight_lambdas.{self.verb.replace('-', '_')}.handler"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettersProps:
    """A stack's queue of dead letters, encrypted with `key`, which must be one `for_rules`."""

    place: Place
    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleProps:
    """Call `function`, which may be a state machine, at `rate` with an empty event. A call that is not delivered within
    `late_s` goes to `dead_letters`: the next one does the same work."""

    place: Place
    name: str
    rate: str
    function: Invocable
    late_s: int
    dead_letters: DeadLetters


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRuleProps:
    """Call `function` with each event that `pattern` matches. `name` is the rule's."""

    name: str
    description: str
    pattern: Mapping[str, Any]
    function: Function
    dead_letters: DeadLetters


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRuleProps:
    """Call `function` with the task's event whenever a task of `service` has turned RUNNING. The rule is called as the
    function is, with `-on-boot` behind it."""

    service: Startable
    function: Function
    dead_letters: DeadLetters


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMachineProps:
    """A state machine of this name; `verb` names its role."""

    place: Place
    name: str
    verb: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryMachineProps:
    """The state machine that recovers; `functions` holds one function for each verb of the recovery, and one for
    `approve` where `waits` says that people are asked. `whole_s` is how long an execution may take. With `work`, a
    memory that is too large for a function is hydrated by it. `topic` is told when an execution fails."""

    place: Place
    name: str
    functions: Mapping[str, Function]
    logs_key: Key
    waits: Waits
    whole_s: int
    topic: IncidentsTopic
    work: WorkTask | None = None
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryProps:
    """What watches a region's primary and relights the region.

    `environment` are the variables that `relight.config.Settings` is read from, the same for each function; `name` of
    the state machine must be the one in them. `attachment` is the network in which functions reach the region's own
    servers; `connections` tell them how. `vault` is the region's own. `capacity` is what a recovery scales;
    `scales_inside` says that it is reached from within the network alone, as a cluster's private API is. When a task
    of `store` starts, it is hydrated; without one, a recovery alone does so. `code` is a bundle of `relight_lambdas`.
    `rto_s` is the objective that timeouts are derived from. `work` stands in for functions where memory is large.
    """

    place: Place
    name: str
    environment: Mapping[str, str]
    code: Code
    key: Key
    attachment: Attachment
    vault: VaultRef
    lease: LeaseRef
    signing: SigningRef
    connections: Readable
    topic: IncidentsTopic
    rto_s: float
    dead_letters: DeadLetters
    capacity: Sequence[Scalable] = ()
    scales_inside: bool = False
    store: Startable | None = None
    waits: Waits = USUAL_WAITS
    work: WorkTask | None = None
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTaskProps:
    """A Fargate task on `cluster`, of an image that holds the library, for memories of more than `above_bytes`."""

    place: Place
    cluster: str
    family: str
    image: str
    environment: Mapping[str, str]
    network: Attachment
    logs_key: Key
    above_bytes: int
    cpu: int = 2048
    memory: int = 8192
    storage_gib: int = 50
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReplica:
    """The other region that has a secret too, and the alias of the key there that encrypts it."""

    region: str
    key_alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretProps:
    """A secret, and where else it is to be; a replica follows its primary by itself, and works without it."""

    name: str
    description: str
    key: Key
    replica: SecretReplica | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateProps:
    """A state database's place: the private subnets of `network`, whose group `state` it joins.

    It is encrypted with `key`, its log too, and called `name`, in both regions. `version` is the engine's.
    """

    place: Place
    name: str
    network: Network
    key: Key
    version: str
    log_retention_days: int = LOG_RETENTION_DAYS


# Storage that is full ends every write, so an instance's may grow to so many times of what it begins with, or to the
# most that RDS gives one. What it may grow to has to be a tenth more than what it has. Source: Amazon RDS user guide,
# "Managing capacity automatically with Amazon RDS storage autoscaling".
STORAGE_GROWTH = 5
LEAST_STORAGE_GIB = 20
MOST_STORAGE_GIB = 65_536
MOST_FIRST_STORAGE_GIB = MOST_STORAGE_GIB * 10 // 11


def most_storage_gib(storage_gib: int) -> int:
    """How far an instance's storage may grow by itself that begins with so much."""
    return min(storage_gib * STORAGE_GROWTH, MOST_STORAGE_GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePrimaryProps:
    """What a primary has beside its place. `password` is an expression of an ephemeral value, `password_version` tells
    that it is another."""

    state: StateProps
    instance_class: str
    password: str
    password_version: int
    backup_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceProps:
    """A primary that is one instance with `storage_gib`, 20 at least, which grow by themselves up to five times of
    it."""

    primary: StatePrimaryProps
    storage_gib: int

    def __post_init__(self) -> None:
        if not LEAST_STORAGE_GIB <= self.storage_gib <= MOST_FIRST_STORAGE_GIB:
            raise ValueError(
                f"storage_gib={self.storage_gib}; rds gives an instance that can grow {LEAST_STORAGE_GIB} to "
                f"{MOST_FIRST_STORAGE_GIB} GiB, use as many"
            )


# Aurora's least rds.global_db_rpo.
LEAST_RPO_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalClusterProps:
    """The primary of an Aurora Global Database called as its state is. With `rpo_s`, 20 at least, the primary commits
    nothing while every other region is further behind."""

    primary: StatePrimaryProps
    rpo_s: int | None = None

    def __post_init__(self) -> None:
        if self.rpo_s is not None and self.rpo_s < LEAST_RPO_S:
            raise ValueError(f"rpo_s={self.rpo_s}; rds.global_db_rpo is {LEAST_RPO_S} s at least, so leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFollowerProps:
    """A database that follows another: `source` is the ARN of the instance, or the name of the global database."""

    state: StateProps
    source: str
    instance_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReplicaProps:
    """A replica of an instance that began with `storage_gib`: its storage grows by itself as that one's does, because
    nobody else would make it grow."""

    follower: StateFollowerProps
    storage_gib: int

    def __post_init__(self) -> None:
        if self.storage_gib < LEAST_STORAGE_GIB:
            raise ValueError(f"storage_gib={self.storage_gib}; say its source's, {LEAST_STORAGE_GIB} at least")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryClusterProps:
    """The cluster of a global database whose primary is in `source_region`."""

    follower: StateFollowerProps
    source_region: str
    backup_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedBackupsProps:
    """Where the backups of an instance are copied to, continuously: the place of `provider`, for `days`, under a key
    known there by `key_alias`."""

    place: Place
    source_arn: str
    key_alias: str
    days: int
    provider: TerraformProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreProps:
    """What a restored database stands on; `key_alias` is of the key that the copied backups are encrypted with."""

    state: StateProps
    key_alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicProps:
    """The topic that people are told by."""

    place: Place
    name: str
    key: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricAlarmProps:
    """Tell `topic` when `statistic` of the metric over `period_s` compares with `threshold` as `comparison` says, in
    `looks_to_alarm` (all, where it is 0) of the last `looks` periods. With `missing_is_bad` a period without the metric
    counts as crossed, because whoever puts it has failed; else as fine."""

    name: str
    description: str
    namespace: str
    metric: str
    dimensions: Mapping[str, str]
    topic: Tellable
    statistic: str = "Sum"
    comparison: str = "GreaterThanOrEqualToThreshold"
    threshold: float = 1
    period_s: int = 60
    looks: int = 1
    looks_to_alarm: int = 0
    missing_is_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackProps:
    """A Slack channel, by the ids of its workspace and its own, which is told what `topic_arns` are told.

    The service that delivers it has endpoints in `service_region`, which need not be the place's.
    """

    place: Place
    name: str
    team: str
    channel: str
    topic_arns: tuple[str, ...]
    service_region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric as a dashboard shows it."""

    namespace: str
    name: str
    dimensions: Mapping[str, str]
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphProps:
    """Metrics over time with lines at `limits`, or, as a `number`, each one's last value."""

    title: str
    metrics: tuple[Metric, ...]
    statistic: str = "Maximum"
    period_s: int = 60
    limits: tuple[tuple[str, float], ...] = ()
    number: bool = False
    width: int = 6
    height: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmsProps:
    """How alarms stand, which are named by their ARNs."""

    title: str
    arns: tuple[str, ...]
    width: int = 24
    height: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A few words in Markdown."""

    markdown: str
    width: int = 24
    height: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardProps:
    """One page called `name`, of the place's own metrics and alarms."""

    place: Place
    name: str
    widgets: tuple[GraphProps | AlarmsProps | Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterProps:
    """An ECS cluster with Container Insights, whose figures are kept as log lines too."""

    place: Place
    name: str
    logs_key: Key
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceProps:
    """One Fargate service of one container on a read-only root.

    `desired_count` is where it starts; recovery scales it, so a later deployment leaves the count alone. `writable`
    are the folders that may be written, each on a volume that lives as long as its task; `volume` is one of a size of
    its own. `secrets` are environment variables taken from secrets when the container starts. A load balancer sends to
    it for each of `targets`: a target group and the container's port. With `health_command`, which the image must be
    able to run, ECS replaces a container that fails it. With `alone`, the old task ends before a new one starts.
    """

    place: Place
    cluster: Cluster
    name: str
    family: str
    image: str
    cpu: int
    memory: int
    desired_count: int
    ports: tuple[int, ...]
    network: Attachment
    logs_key: Key
    entry_point: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    writable: tuple[str, ...] = ("/tmp",)  # noqa: S108 - a folder inside the container
    volume: VolumeProps | None = None
    health_command: str | None = None
    targets: tuple[Target, ...] = ()
    alone: bool = False
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchStoreProps:
    """A vector store that is started empty to restore into, and ended afterwards.

    What it keeps is under `data`; `writable` are other folders that it writes to. It listens on `port`, takes its
    password or API key from the variable `password_variable`, and is healthy while `health_command` says so. `form` is
    how it is reached: a connection string with `{host}` and `{password}` in it.
    """

    image: str
    cpu: int
    memory: int
    storage_gib: int
    port: int
    data: str
    password_variable: str
    health_command: str
    form: str
    environment: Mapping[str, str] = field(default_factory=dict)
    writable: tuple[str, ...] = ("/tmp",)  # noqa: S108 - a folder inside the container


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeRehearsalProps:
    """A task that rehearses memories of more than `above_bytes`, of an image that holds the library."""

    image: str
    above_bytes: int
    cpu: int = 2048
    memory: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalProps:
    """A place of its own to rehearse restores in, called `name`, and how often that is done.

    `environment` are the variables that `relight.config.Settings` is read from; where the place is, is added to them.
    `vault` is the region's own, `code` a bundle of `relight_lambdas`. `topic` is told when a rehearsal fails, when the
    store outlives one, and when for `late_after_s` none went well. Raising `password_version` makes a new password. The
    network has one subnet, in the zone of this letter. With `internet` it reaches that through a NAT gateway instead of
    AWS alone through endpoints: an image that is in no registry of ECR, or a vault outside AWS, needs it; `ports_out`
    are what such a vault is on beside 443. Without `large`, what a function does not restore within 15 minutes is a
    rehearsal that failed.
    """

    place: Place
    name: str
    environment: Mapping[str, str]
    code: Code
    vault: VaultRef
    signing: SigningRef
    topic: Tellable
    store: ScratchStoreProps
    key_alias: str
    password_secret: str
    password_version: int
    rate: str
    late_after_s: int
    zone: str = "a"
    internet: bool = False
    ports_out: tuple[int, ...] = ()
    large: LargeRehearsalProps | None = None
    log_retention_days: int = LOG_RETENTION_DAYS

    def __post_init__(self) -> None:
        if self.ports_out and not self.internet:
            raise ValueError(f"ports_out={self.ports_out} with internet=False, which leads nowhere: use internet=True")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProps:
    """A region's own name, which its own stack points at its own load balancer."""

    zone: str
    host: str
    load_balancer_dns_name: str
    ttl_s: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneProps:
    """The public zone of an environment's names."""

    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingControlsProps:
    """Switches by which people move traffic. The cluster is billed by the hour, used or not."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairProps:
    """The one name that callers use, with a record for each of two regions.

    Route 53 asks each endpoint's `/ready` over HTTPS every `interval_s`. The threshold counts passes as well as
    failures: three for the primary, so that one lost answer moves no traffic; one for the standby, so that it is
    believed as soon as its gate opens. The TTL stays at or under the interval. With `controls` a region gets traffic
    only while its switch is on, too.
    """

    zone: Zone
    host: str
    primary_host: str
    standby_host: str
    interval_s: int = 10
    primary_threshold: int = 3
    standby_threshold: int = 1
    ttl_s: int = 10
    controls: RoutingControls | None = None

    def __post_init__(self) -> None:
        if self.interval_s not in (10, 30):
            raise ValueError(f"interval_s={self.interval_s}; route 53 offers 10 and 30")
        for name in ("primary_threshold", "standby_threshold"):
            if not 1 <= getattr(self, name) <= 10:
                raise ValueError(f"{name}={getattr(self, name)}; route 53 offers 1 to 10")
        if self.ttl_s > self.interval_s:
            raise ValueError(f"ttl_s={self.ttl_s} outlives interval_s={self.interval_s}; use {self.interval_s} or less")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveActiveProps:
    """A pair whose regions both serve, each while its gate is open.

    Callers are sent to the nearer of the two; with `weights`, the primary's and the standby's, by chance in these
    shares, wherever they are.
    """

    pair: PairProps
    primary_region: str
    standby_region: str
    weights: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not (all(0 <= weight <= 255 for weight in self.weights) and any(self.weights)):
            raise ValueError(f"weights={self.weights}; route 53 takes 0 to 255, and one of them above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleProps:
    """The one name that callers use, where one region serves alone."""

    zone: Zone
    host: str
    endpoint_host: str
    ttl_s: int = 60

"""What each construct is told. Frozen, keyword-only, and free of node: importing this module starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_constructs.access import LeaseRef, VaultRef
    from relight_constructs.bindings import TerraformProvider
    from relight_constructs.deadletters import DeadLetters
    from relight_constructs.function import Function
    from relight_constructs.key import Key
    from relight_constructs.network import Network
    from relight_constructs.secret import IncidentsTopic, Secret
    from relight_constructs.services import Cluster, Service

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
    `for_alarms` CloudWatch's alarms, `for_rules` EventBridge's rules."""

    place: Place
    alias: str
    description: str
    for_logs: bool = False
    for_alarms: bool = False
    for_rules: bool = False
    provider: TerraformProvider | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyProps:
    """A key that signs, in `place`, with a replica where `replica_provider` is; both can be deleted only after 30
    days."""

    place: Place
    alias: str
    replica_provider: TerraformProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultProps:
    """A vault. Objects under `points/` end after `points_expire_days`, later than the oldest rung of any retention
    ladder; earlier versions end after `earlier_versions_expire_days`, the time in which a deletion can be undone."""

    place: Place
    ref: VaultRef
    provider: TerraformProvider | None = None
    points_expire_days: int = 400
    earlier_versions_expire_days: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseProps:
    """The bucket of the epoch and the lease, encrypted with the key of the vault beside it."""

    ref: LeaseRef
    key: Key


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkProps:
    """A region's network: a VPC of its own with the range `cidr` and subnets in the zones of these letters, or, where
    `vpc_id` is given, the existing subnets. With `nat`, what is in a private subnet reaches the internet."""

    place: Place
    cidr: str = "10.0.0.0/16"
    zones: tuple[str, ...] = ("a", "b")
    nat: bool = True
    vpc_id: str = ""
    private_subnet_ids: tuple[str, ...] = ()
    public_subnet_ids: tuple[str, ...] = ()
    route_table_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerProps:
    """A public load balancer of `network`, which sends to `port` of the agents."""

    place: Place
    network: Network
    port: int
    certificate_arn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionProps:
    """One handler. It runs outside any network unless `network` is given, and as often at once as it is called unless
    `at_once` is given. Memory buys CPU: with 1,024 MiB the bundle is imported in well under a second. A call that
    nobody waits for, and that has failed for good, goes to `dead_letters`."""

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
    memory_mib: int = 1024
    log_retention_days: int = LOG_RETENTION_DAYS

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
    """Call `function` at `rate` with an empty event. A call that is not delivered within `late_s` goes to
    `dead_letters`: the next one does the same work."""

    place: Place
    name: str
    rate: str
    function: Function
    late_s: int
    dead_letters: DeadLetters


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRuleProps:
    """Call `function` with the task's event whenever a task of `service` has turned RUNNING."""

    name: str
    service: Service
    function: Function
    dead_letters: DeadLetters


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryMachineProps:
    """The state machine that recovers; `functions` holds one function for each verb of the recovery."""

    place: Place
    name: str
    functions: Mapping[str, Function]
    logs_key: Key
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretProps:
    """A secret without a value: whoever operates the environment puts it."""

    name: str
    description: str
    key: Key


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
    topic: IncidentsTopic
    statistic: str = "Sum"
    comparison: str = "GreaterThanOrEqualToThreshold"
    threshold: float = 1
    period_s: int = 60
    looks: int = 1
    looks_to_alarm: int = 0
    missing_is_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessAlarmProps:
    """Tell `topic` when the metric, which somebody puts every `every_s`, is not 1."""

    name: str
    description: str
    namespace: str
    metric: str
    dimensions: Mapping[str, str]
    every_s: int
    topic: IncidentsTopic


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterProps:
    """An ECS cluster with Container Insights."""

    place: Place
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceProps:
    """One Fargate service of one container on a read-only root.

    `desired_count` is where it starts; recovery scales it, so a later deployment leaves the count alone. `writable`
    are the folders that may be written, each on a volume that lives as long as its task. `secrets` are environment
    variables taken from secrets when the container starts. Without `target_group_arn` no load balancer sends to it.
    With `health_command`, which the image must be able to run, ECS replaces a container that fails it.
    """

    place: Place
    cluster: Cluster
    name: str
    family: str
    image: str
    cpu: int
    memory: int
    desired_count: int
    port: int
    network: Attachment
    logs_key: Key
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    writable: tuple[str, ...] = ("/tmp",)  # noqa: S108 - a folder inside the container
    health_command: str | None = None
    target_group_arn: str | None = None
    log_retention_days: int = LOG_RETENTION_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProps:
    """A region's own name, which its own stack points at its own load balancer."""

    zone: str
    host: str
    load_balancer_dns_name: str
    ttl_s: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverProps:
    """The one name that callers use: the primary while its gate is open, else the standby.

    Route 53 asks each endpoint's `/ready` over HTTPS every `interval_s`. The threshold counts passes as well as
    failures: three for the primary, so that one lost answer moves no traffic; one for the standby, so that it is
    believed as soon as its gate opens. The TTL stays at or under the interval.
    """

    domain: str
    host: str
    primary_host: str
    standby_host: str
    interval_s: int = 10
    primary_threshold: int = 3
    standby_threshold: int = 1
    ttl_s: int = 10

    def __post_init__(self) -> None:
        if self.interval_s not in (10, 30):
            raise ValueError(f"interval_s={self.interval_s}; route 53 offers 10 and 30")
        if self.ttl_s > self.interval_s:
            raise ValueError(f"ttl_s={self.ttl_s} outlives interval_s={self.interval_s}; use {self.interval_s} or less")

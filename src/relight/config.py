"""The one seam between stacks and handlers: what a stack writes with `to_env`, a handler reads with `from_env`."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from relight.errors import ConfigError
from relight.memory.store import CollectionSpec, Distance, HnswIndex
from relight.objectives import OBJECTIVES, PATTERNS, Objectives, Pattern, Tier
from relight.providers.spec import Api, ProviderLimits, ProviderSpec, check_specs

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "RELIGHT_"
_KEY = re.compile(r"[!-~]+")
_LIMITS = ProviderLimits()
# What R2 and Google's store call the region that requests are signed for; R2 takes no region of AWS but one.
ANY_REGION = "auto"


class Role(StrEnum):
    """What a region was deployed as; it does not change when the standby is relit."""

    PRIMARY = "primary"
    STANDBY = "standby"

    @property
    def other(self) -> Role:
        """What the other region was deployed as."""
        return Role.STANDBY if self is Role.PRIMARY else Role.PRIMARY


class Acknowledge(StrEnum):
    """When a task or a memory write may be told to its caller. Side effects always wait for `REMOTE`."""

    REMOTE = "remote"
    LOCAL = "local"


class ConfirmBy(StrEnum):
    """What tells that a commit is in the standby.

    `COMMIT`: the commit itself waits for the server's synchronous standby (`synchronous_standby_names`).
    `POSITION`: the replicas are asynchronous, as cross-region replicas of RDS are, and the positions that they report
    to the primary are looked at after the commit.
    `AURORA`: the storage of an Aurora Global Database replicates, and `aurora_global_db_status()`, which says how far
    the other regions' storage has come, is looked at after the commit.
    """

    COMMIT = "commit"
    POSITION = "position"
    AURORA = "aurora"


class StateKind(StrEnum):
    """How the state database reaches the standby."""

    AURORA_GLOBAL = "aurora-global"
    """An Aurora PostgreSQL Global Database: storage replication, typically under a second behind."""
    RDS_REPLICA = "rds-replica"
    """RDS for PostgreSQL with a cross-region read replica."""
    SNAPSHOTS = "snapshots"
    """RDS for PostgreSQL whose backups are copied to the standby; a recovery restores the newest."""
    EXISTING = "existing"
    """A database of the user's own, by secret."""


class CapacityKind(StrEnum):
    """What runs the agents."""

    ECS = "ecs"
    EKS = "eks"
    AUTO_SCALING = "auto-scaling"


class OnStandbyAway(StrEnum):
    """What becomes of a task or a memory write that the standby does not confirm in time.

    `WAIT`: it is not acknowledged, and the caller is told so. `PROCEED`: it is acknowledged all the same, and the
    promise is suspended, which is shown. The intent of a side effect always waits.
    """

    WAIT = "wait"
    PROCEED = "proceed"


class OnLeaseLost(StrEnum):
    """What a primary does that cannot reach the lease."""

    FENCE = "fence"
    SERVE = "serve"


class MemoryStore(StrEnum):
    """Where an agent's memory lives."""

    PGVECTOR = "pgvector"
    QDRANT = "qdrant"
    WEAVIATE = "weaviate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a handler, a worker or the CLI is told from outside. Secrets are named here, never held."""

    environment: str
    tier: Tier
    role: Role
    region: str
    primary_region: str
    standby_region: str
    vault_bucket: str
    peer_vault_bucket: str
    lease_bucket: str
    lease_region: str
    connections_secret: str
    service_url: str
    primary_url: str
    standby_url: str
    cluster: str
    agent_service: str
    agent_replicas: int
    state_machine_arn: str = ""
    incidents_topic_arn: str = ""
    memory_store: MemoryStore = MemoryStore.PGVECTOR
    collections: tuple[CollectionSpec, ...] = (
        CollectionSpec(name="memory", dimension=256, embedding_model="wordllama-l2-supercat-256"),
    )
    recall_floor: float = 0.9
    keep_hourly: int = 24
    keep_daily: int = 14
    keep_monthly: int = 12
    lock_days: int = 0
    """For how long the bucket itself locks each object of the region's own vault; 0 where it does not."""
    signing_key: str = ""
    """A KMS key (ARN or alias), or `file:` and a path; empty for none."""
    rehearsal_check: str = ""
    """A command that a rehearsal runs against what it restored."""
    vault_endpoint: str = ""
    """The address of an S3-compatible store other than Amazon's. Where one of the two vaults is in such a store,
    Relight copies the points itself."""
    peer_vault_endpoint: str = ""
    vault_signs_for: str = ANY_REGION
    """The region that requests to `vault_endpoint` are signed for."""
    peer_vault_signs_for: str = ANY_REGION
    vault_keys_secret: str = ""
    """A secret with the keys alone of vaults outside AWS; without it they are in the connections."""
    vault_holds_days: int = 0
    """How long the own vault's bucket lets go of no object."""
    acknowledge: Acknowledge = Acknowledge.REMOTE
    confirm_by: ConfirmBy = ConfirmBy.COMMIT
    confirm_replicas: int = 1
    """How many replicas must have a commit under `confirm_by = "position"`: all that the region's database has, so that
    the other region's is among them, and 0 where it has none, as after a recovery. Under `"aurora"` it is how many
    other regions must have it."""
    confirm_timeout_s: float = 5.0
    on_standby_away: OnStandbyAway = OnStandbyAway.WAIT
    state_kind: StateKind = StateKind.EXISTING
    """How the standby's database is promoted."""
    state_id: str = ""
    """This region's own instance or cluster."""
    state_source: str = ""
    """What it follows: the ARN of the instance that is replicated or backed up, or the identifier of the global
    database."""
    state_group: str = ""
    """The security group of a database that is restored."""
    state_most_gib: int = 0
    """How far its storage may grow by itself; 0: not at all."""
    state_backup_days: int = 7
    """How long the backups of a promoted one are kept."""
    provider_keys_secret: str = ""
    """A secret with the keys of LLM providers alone; without it they are in the connections."""
    pagerduty_secret: str = ""
    """It has the routing key of the service that is paged at `pagerduty_url` of what the incidents topic is told."""
    pagerduty_url: str = "https://events.pagerduty.com"
    on_lease_lost: OnLeaseLost = OnLeaseLost.FENCE
    hold_timers_after_s: float = 3600.0
    """How late a task of this kind may still be done in a restored state; a later one is held for review, and with 0
    every one is. So with the two that follow."""
    hold_sends_after_s: float = 900.0
    hold_credentials_after_s: float = 0.0
    lease_ttl_s: float = 15.0
    lease_margin_s: float = 2.0
    probe_interval_s: float = 10.0
    probe_timeout_s: float = 4.0
    probe_threshold: int = 3
    providers: tuple[ProviderSpec, ...] = ()
    """The LLM providers in order of preference."""
    provider_limits: ProviderLimits = _LIMITS
    approval_s: float = 0.0
    """How long a recovery waits for a person before it changes anything; 0 where it asks nobody."""
    read_only: bool = False
    """Nothing new is begun: no task, no side effect, no memory."""
    large_bytes: int = 0
    """Snapshots and hydrations of more are done by the ECS task `large_task` of `cluster` and not by a function, and
    points of more are read and copied by it; 0: none."""
    large_task: str = ""
    large_subnets: tuple[str, ...] = ()
    large_groups: tuple[str, ...] = ()
    """The security groups that the task is in."""
    capacity: CapacityKind = CapacityKind.ECS
    """What runs the agents: the service `agent_service` of the ECS `cluster`, the Deployment `eks_deployment` in the
    namespace `eks_namespace` of `eks_cluster`, or the Auto Scaling group `capacity_group`."""
    capacity_group: str = ""
    eks_cluster: str = ""
    eks_namespace: str = "default"
    eks_deployment: str = ""
    server_services: tuple[str, ...] = ()
    """ECS services of `cluster`, of each of which a recovery starts one task where none runs."""
    rehearsal_machine_arn: str = ""
    """The state machine that rehearses in a place of its own, where there is one."""
    rehearsal_cluster: str = ""
    rehearsal_service: str = ""
    """The service of `rehearsal_cluster` that what works in that place is told of, with what follows."""
    rehearsal_secret: str = ""
    """The secret of the store's password there."""
    rehearsal_form: str = ""
    """A connection string of the store there, with `{host}` and `{password}` in it."""

    @property
    def objectives(self) -> Objectives:
        """The tier's objectives."""
        return OBJECTIVES[self.tier]

    @property
    def pattern(self) -> Pattern:
        """How the standby waits."""
        return PATTERNS[self.tier]

    @property
    def peer_region(self) -> str:
        """The other region of the pair."""
        return self.standby_region if self.region == self.primary_region else self.primary_region

    @property
    def copies_points(self) -> bool:
        """Whether Relight copies between the vaults itself, because one of them is in a store that replicates to
        nobody."""
        return bool(self.vault_endpoint or self.peer_vault_endpoint)

    @property
    def secret_with_provider_keys(self) -> str:
        """The secret that has the keys of LLM providers: their own, or the connections."""
        return self.provider_keys_secret or self.connections_secret

    def url_of(self, region: str) -> str:
        """The address of a region's own endpoint."""
        return self.primary_url if region == self.primary_region else self.standby_url

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read `RELIGHT_*`; raise ConfigError that names the variable, the value and the rule."""
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for item in fields(cls):
            name = PREFIX + item.name.upper()
            if name in env:
                values[item.name] = _parse(name, env[name], hints[item.name])
        missing = [PREFIX + item.name.upper() for item in fields(cls) if _required(item) and item.name not in values]
        if missing:
            raise ConfigError(
                f"missing environment variables: {', '.join(missing)}",
                hint="the stacks set them on every function; outside one, use --environment and --role",
            )
        return cls(**values)

    def to_env(self) -> dict[str, str]:
        """The environment variables from which `from_env` makes an equal value; settings at their default are left
        out."""
        return {
            PREFIX + item.name.upper(): _render(getattr(self, item.name))
            for item in fields(self)
            if _required(item) or getattr(self, item.name) != item.default
        }


def _required(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _render(value: Any) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    # Lambda takes 4 KB of variables in all: of providers, what is at its default is left out.
    if isinstance(value, ProviderLimits):
        return json.dumps(_chosen(value), sort_keys=True)
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, tuple):
        rows = [_chosen(item) if isinstance(item, ProviderSpec) else asdict(item) for item in value]
        return json.dumps(rows, sort_keys=True)
    return str(value)


def _chosen(value: ProviderSpec | ProviderLimits) -> dict[str, Any]:
    found = {item.name: getattr(value, item.name) for item in fields(value)}
    return {item.name: found[item.name] for item in fields(value) if found[item.name] != item.default}


_PROVIDERS_HINT = "correct the variable, or deploy the stacks again"


def _parse_providers(name: str, text: str) -> tuple[ProviderSpec, ...]:
    """The inverse of `_render`. No error shows what the variable holds: somebody may have put a key there."""
    rows = _json(name, text)
    if not isinstance(rows, list):
        raise ConfigError(f"{name} is not a list of providers", hint=_PROVIDERS_HINT)
    specs = tuple(_made(ProviderSpec, row, f"{name}[{number}]") for number, row in enumerate(rows))
    try:
        check_specs(specs)
    except ConfigError as exc:
        raise ConfigError(f"{name}: {exc.problem}", hint=exc.hint) from None
    return specs


def _parse_limits(name: str, text: str) -> ProviderLimits:
    """The inverse of `_render`."""
    return _made(ProviderLimits, _json(name, text), name)


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigError(f"{name} is not JSON", hint=_PROVIDERS_HINT) from None


_Made = TypeVar("_Made", ProviderSpec, ProviderLimits)


def _made(kind: type[_Made], row: object, where: str) -> _Made:
    """The value whose fields `row` holds, each of its own type; ConfigError names the field."""
    known = get_type_hints(kind)
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is not an object", hint=f"its keys are {', '.join(known)}")
    values: dict[str, Any] = {}
    for key, value in row.items():
        if key not in known:
            raise ConfigError(f"{where} has a key that is unknown", hint=f"its keys are {', '.join(known)}")
        values[key] = _typed(value, known[key], f"{where}.{key}")
    lacking = [item.name for item in fields(kind) if _required(item) and item.name not in values]
    if lacking:
        raise ConfigError(f"{where} lacks {', '.join(lacking)}", hint=_PROVIDERS_HINT)
    try:
        return kind(**values)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc.problem}", hint=exc.hint) from None
    except ValueError:  # of an address that cannot be split, which its text may show
        raise ConfigError(f"{where} has a base_url that is no address", hint=_PROVIDERS_HINT) from None


def _typed(value: object, kind: type, where: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Api and isinstance(value, str) and value in [*Api]:
        return Api(value)
    if type(value) is not kind:
        allowed = f"one of {', '.join(Api)}" if kind is Api else f"a {kind.__name__}"
        raise ConfigError(f"{where} is not {allowed}", hint=_PROVIDERS_HINT)
    return value


def _parse_collections(name: str, text: str) -> tuple[CollectionSpec, ...]:
    """The inverse of `_render`."""
    try:
        found = tuple(
            CollectionSpec(
                **{
                    **item,
                    "distance": Distance(item["distance"]),
                    "index": None if item["index"] is None else HnswIndex(**item["index"]),
                    "journalled": item["journalled"] is True,
                }
            )
            for item in json.loads(text)
        )
    except (ValueError, TypeError, KeyError) as exc:
        raise ConfigError(
            f"{name}={text!r} is not a list of collections: {exc}", hint="deploy the stacks again"
        ) from exc
    if not found or len({item.name for item in found}) != len(found):
        raise ConfigError(f"{name}={text!r} names no collection, or one twice", hint="name each once, at least one")
    return found


def _parse_names(name: str, text: str) -> tuple[str, ...]:
    """The inverse of `_render`."""
    found = tuple(text.split(","))
    if not all(item and item == item.strip() for item in found):
        raise ConfigError(
            f"{name}={text!r} is not a list of names", hint="write a,b without spaces, or leave it out for none"
        )
    return found


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind == tuple[ProviderSpec, ...]:
        return _parse_providers(name, text)
    if kind is ProviderLimits:
        return _parse_limits(name, text)
    if kind == tuple[CollectionSpec, ...]:
        return _parse_collections(name, text)
    if kind == tuple[str, ...]:
        return _parse_names(name, text)
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"{name}={text!r} is not true or false", hint="correct the variable and start again")
        return text == "true"
    try:
        if issubclass(kind, StrEnum):
            return kind(text)
        value = kind(text)
    except ValueError as exc:
        allowed = f"one of {', '.join(kind)}" if issubclass(kind, StrEnum) else f"a valid {kind.__name__}"
        raise ConfigError(f"{name}={text!r} is not {allowed}", hint="correct the variable and start again") from exc
    if kind is str and not text:
        raise ConfigError(f"{name} is empty", hint="set it, or leave it out for the default")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """How to reach a region's own servers. Read from the secret that `Settings.connections_secret` names.

    `memory_dsn` is of PostgreSQL for pgvector, else a URL whose password is the API key (`https://:KEY@host:6333`).

    `rehearsal_dsn` is of another store of the same kind for rehearsals; without it they are done beside the memory. The
    keys of `vault_keys` and `peer_vault_keys` are `ID:SECRET`, for vaults outside AWS. `provider_keys` are those of LLM
    providers, by the providers' names. The fields are left out of `repr`, because they hold passwords.
    """

    state_dsn: str = field(repr=False)
    memory_dsn: str = field(repr=False)
    queue_url: str = field(repr=False)
    rehearsal_dsn: str = field(repr=False, default="")
    vault_keys: str = field(repr=False, default="")
    peer_vault_keys: str = field(repr=False, default="")
    provider_keys: Mapping[str, str] = field(repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("vault_keys", "peer_vault_keys"):
            value = getattr(self, name)
            if value and not all(value.partition(":")):
                raise ConfigError(f"{name} of the connections is not ID:SECRET", hint="put both, with a colon between")
        for provider, key in self.provider_keys.items():
            # It becomes an HTTP header, and a client that refuses one may show it.
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise ConfigError(
                    f"the key of provider {provider} in the connections is not one printable ASCII word",
                    hint="put the key alone, without spaces, quotes or a line's end",
                )

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Connections:
        """Parse the secret's value; the error names the secret and the key, never a value."""
        names = [item.name for item in fields(cls)]
        needed = [item.name for item in fields(cls) if _required(item)]
        hint = f"put a JSON object with the keys {', '.join(needed)} into the secret {source}"
        try:
            value = json.loads(text)
        except ValueError:
            raise ConfigError(f"the secret {source} does not hold JSON", hint=hint) from None
        if not isinstance(value, dict) or not {*needed} <= {*value} <= {*names}:
            got = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise ConfigError(f"the secret {source} has the keys {got}", hint=hint)
        keys = value.pop("provider_keys", {})
        wrong = [name for name in value if not isinstance(value[name], str) or not value[name]]
        if wrong:
            raise ConfigError(f"the secret {source} has no text under {', '.join(wrong)}", hint=hint)
        if not isinstance(keys, dict):
            raise ConfigError(
                f"the secret {source} has no object under provider_keys", hint='put {"<name of the provider>": "<key>"}'
            )
        return cls(**value, provider_keys=keys)

    def to_json(self) -> str:
        """The secret's value."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return json.dumps({name: value for name, value in found.items() if value}, default=dict)

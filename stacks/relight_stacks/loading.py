"""Reads environments from their TOML files. Pure: nothing here starts node.

Every refusal is a ConfigError that names the file, the key, the value got and what is allowed.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import MISSING
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.loaders import Loader

from relight.config import ANY_REGION, Acknowledge, ConfirmBy, MemoryStore, OnLeaseLost, OnStandbyAway, Role
from relight.errors import ConfigError
from relight.memory.store import CollectionSpec, Distance, HnswIndex
from relight.objectives import Tier
from relight.providers.spec import ProviderLimits, ProviderSpec, check_specs
from relight_constructs.props import MOST_FIRST_STORAGE_GIB
from relight_stacks.environment import (
    FARGATE_SIZES,
    LONGEST_NAME,
    NETWORKS,
    Agent,
    Capacity,
    CapacityKind,
    Database,
    Environment,
    Incidents,
    LargeWork,
    Lock,
    Memory,
    Network,
    OtherStore,
    Queue,
    Recovery,
    Regions,
    Vaults,
    Vector,
)
from relight_stacks.naming import in_region
from relight_stacks.rules import check, check_together, collisions
from relight_stacks.schedules import is_schedule, once_a_day
from relight_stacks.tiers import DEFAULTS, SHAPES, Routing, StateKind, Waiting
from relight_stacks.toml_table import read_document

if TYPE_CHECKING:
    from relight_stacks.toml_table import Table

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# ARNs are computed in the partition `aws`, so the regions of the others are not taken.
_REGION = re.compile(r"(?!cn-|us-gov-|us-iso)[a-z]{2}(-[a-z]+)+-[0-9]")
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
_EMAIL = re.compile(r"[^\s@\"]{1,64}@[A-Za-z0-9.-]{1,255}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NEVER = "never"

_TEN_YEARS_S = 315_360_000.0
# What Route 53 offers.
_CHECK_INTERVALS_S = (10, 30)


def environments_folder() -> Path:
    """The folder of the environments that ship with the project, or with its wheel."""
    return Path(str(resources.files("relight_stacks"))) / "environments"


def examples_folder() -> Path:
    """The folder of the documented examples, one for each tier. Nothing deploys them."""
    return environments_folder() / "examples"


def load_environments(folder: Path | None = None) -> list[Environment]:
    """Every environment of `folder`, sorted by name; ConfigError where two cannot be deployed side by side."""
    found = [load_environment(path) for path in sorted((folder or environments_folder()).glob("*.toml"))]
    check_together(found)
    return found


def load_with_others(path: Path) -> Environment:
    """Read one file; ConfigError also where it cannot be deployed beside those of its folder that can be read."""
    environment = load_environment(path)
    others = []
    for other in sorted(path.parent.glob("*.toml")):
        with suppress(ConfigError):
            others += [] if other.name == path.name else [load_environment(other)]
    for problem, hint in collisions([*others, environment]):
        if problem.startswith(f"{environment.name}: "):
            raise ConfigError(f"{path}: {problem}", hint=hint)
    return environment


def load_named(name: str, folder: Path | None = None) -> Environment:
    """The environment called `name`; the error lists those that exist."""
    path = (folder or environments_folder()) / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in path.parent.glob("*.toml"))) or "none"
        raise ConfigError(f"no environment {name!r} in {path.parent}", hint=f"use one of those that exist: {known}")
    return load_environment(path)


def load_environment(path: Path) -> Environment:
    """Read and validate one file; its stem is the environment's name."""
    name = path.stem
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{path}: the name {name!r} of the environment is not allowed",
            hint=f"use at most {LONGEST_NAME} lower-case letters, digits and single hyphens, a letter first",
        )
    root = read_document(path)
    account = root.text("account", re.compile(r"[0-9]{12}"), "12 digits in quotes")
    regions = _regions(root.table("regions"))
    networks = root.table("network", optional=True)
    dns = root.table("dns", optional=True)
    capacity = _capacity(root.table("capacity", optional=True))
    vault = root.table("vault", optional=True, secretive=True)
    recovery = root.table("recovery", optional=True)
    tier = root.choice("tier", Tier)
    state = root.table("state", optional=True, secretive=True)
    given = _given(pattern=root.table("pattern", optional=True), state=state, dns=dns, vault=vault, recovery=recovery)
    # Of what exists already, neither the size nor the version is said here.
    kind = given.get("state", SHAPES[tier].state)
    held: dict[str, Any] = {
        name: root.seconds(name, least=0.0, most=_TEN_YEARS_S, default=DEFAULTS[name])
        for name in ("hold_timers_after_s", "hold_sends_after_s", "hold_credentials_after_s")
    }
    environment = Environment(
        name=name,
        account=account,
        tier=tier,
        domain=root.text("domain", _HOST, "a domain name in lower case, such as example.com"),
        regions=regions,
        agent=_agent(root.table("agent"), regions, capacity),
        vector=_vector(root.table("vector"), regions),
        networks={role: _network(networks.table(role.value, optional=True), role, account, regions) for role in Role},
        given=given,
        confirming_given=_confirming(root),
        database=_database(state) if kind is not StateKind.EXISTING else Database(),
        queue=_queue(root.table("queue", optional=True), regions),
        capacity=capacity,
        vaults=_vaults(vault),
        recovery=_recovery(recovery),
        incidents=_incidents(root.table("incidents", optional=True, secretive=True)),
        large_work=_large_work(root.table("large_work", optional=True), regions),
        routing_controls=dns.flag("routing_controls", default=False),
        replicate_images=root.flag("replicate_images", default=True),
        read_only=root.flag("read_only", default=False),
        memory=_memory(root.table("memory", optional=True)),
        on_lease_lost=root.choice("on_lease_lost", OnLeaseLost, default=DEFAULTS["on_lease_lost"]),
        **held,
        confirm_timeout_s=root.seconds(
            "confirm_timeout_s", least=0.1, most=60.0, default=DEFAULTS["confirm_timeout_s"]
        ),
        confirm_replicas_relit=root.integer("confirm_replicas_relit", least=0, most=10, default=0),
        on_standby_away=root.choice("on_standby_away", OnStandbyAway, default=DEFAULTS["on_standby_away"]),
        providers=_providers(root),
        provider_limits=root.table("provider_limits", optional=True).made(ProviderLimits),
        provider_check_minutes=root.integer("provider_check_minutes", least=5, most=720, default=15),
    )
    for table in (networks, dns, vault, recovery, state, root):
        table.done()
    check(environment, source=str(path))
    return environment


def _regions(table: Table) -> Regions:
    allowed = "the name of an AWS region, such as us-west-2, outside China and GovCloud"
    regions = Regions(primary=table.text("primary", _REGION, allowed), standby=table.text("standby", _REGION, allowed))
    for key, region in (("primary", regions.primary), ("standby", regions.standby)):
        if region not in _known_regions():
            near = ", ".join(get_close_matches(region, _known_regions(), n=1)) or "such as us-west-2"
            raise table.error(
                key, region, f"a region of AWS ({near}); botocore knows none newer than itself: update it"
            )
    if regions.primary == regions.standby:
        raise table.error("standby", regions.standby, "a region other than regions.primary")
    table.done()
    return regions


@cache
def _known_regions() -> frozenset[str]:
    """Those of the partition `aws`, as the installed botocore lists them; nothing is asked of AWS."""
    (partition,) = (item for item in Loader().load_data("partitions")["partitions"] if item["id"] == "aws")
    return frozenset(partition["regions"])


def _agent(table: Table, regions: Regions, capacity: Capacity) -> Agent:
    replicas = table.integer("replicas", least=1, most=100)
    if capacity.kind is CapacityKind.ECS:
        cpu, memory = _size(table)
        agent = Agent(
            image=_image(table, regions),
            replicas=replicas,
            cpu=cpu,
            memory=memory,
            command=table.texts("command", re.compile(r".+"), "a list of texts", default=()),
        )
    else:  # the rest is said where the agents are deployed
        agent = Agent(replicas=replicas)
    table.done()
    return agent


def _vector(table: Table, regions: Regions) -> Vector:
    cpu, memory = _size(table)
    default = Vector(image="", cpu=cpu, memory=memory)
    vector = Vector(
        image=_image(table, regions),
        cpu=cpu,
        memory=memory,
        storage_gib=table.integer("storage_gib", least=1, most=16_384, default=default.storage_gib),
    )
    table.done()
    return vector


def _memory(table: Table) -> Memory:
    default = Memory()
    collections = [_collection(item) for item in table.tables("collections")]
    names = [item.name for item in collections]
    if len(set(names)) != len(names):
        raise table.error("collections", names, "collections of different names")
    memory = Memory(
        store=table.choice("store", MemoryStore, default=default.store),
        collections=tuple(collections) or default.collections,
        recall_floor=table.fraction("recall_floor", default=default.recall_floor),
        keep_hourly=table.integer("keep_hourly", least=1, most=720, default=default.keep_hourly),
        keep_daily=table.integer("keep_daily", least=1, most=366, default=default.keep_daily),
        # Of twelve the oldest is 372 days old; the vaults end a point thirty days later, and not before 400.
        keep_monthly=table.integer("keep_monthly", least=0, most=12, default=default.keep_monthly),
        rehearsal_check=table.text(
            "rehearsal_check", re.compile(r"\S.*"), "a command", default=default.rehearsal_check
        ),
    )
    table.done()
    return memory


def _collection(table: Table) -> CollectionSpec:
    name = table.text("name", re.compile(r"[^\0]{1,255}"), "1 to 255 characters without NUL")
    index = table.text("index", re.compile("hnsw|exact"), "hnsw or exact", default="hnsw")
    spec = CollectionSpec(
        name=name,
        dimension=table.integer("dimension", least=1, most=16_000),
        embedding_model=table.text("embedding_model", re.compile(r"\S.*"), "the name of a model"),
        distance=table.choice("distance", Distance, default=Distance.COSINE),
        prefix=table.text("prefix", re.compile(r".*"), "the text that is put before what is embedded", default=""),
        index=HnswIndex() if index == "hnsw" else None,
        journalled=table.flag("journalled", default=True),
    )
    table.done()
    return spec


def _given(*, pattern: Table, state: Table, dns: Table, vault: Table, recovery: Table) -> dict[str, Any]:
    """What the file says of the tier's shape."""
    found: dict[str, Any] = {}
    if pattern.has("standby"):
        found["waiting"] = pattern.choice("standby", Waiting)
    if pattern.has("snapshot_minutes"):
        found["snapshot_minutes"] = pattern.integer("snapshot_minutes", least=5, most=1440)
    pattern.done()
    if state.has("kind"):
        found["state"] = state.choice("kind", StateKind)
    if dns.has("routing"):
        found["routing"] = dns.choice("routing", Routing)
    if dns.has("check_interval_s"):
        found["check_interval_s"] = dns.one_of("check_interval_s", _CHECK_INTERVALS_S)
    for name in ("primary_threshold", "standby_threshold"):
        if dns.has(name):
            found[name] = dns.integer(name, least=1, most=10)
    if dns.has("ttl_s"):
        found["ttl_s"] = dns.integer("ttl_s", least=1, most=3600)
    if vault.has("replication_time_control"):
        found["replication_time_control"] = vault.flag("replication_time_control", default=True)
    for name in ("probe_interval_s", "probe_timeout_s"):
        if recovery.has(name):
            found[name] = recovery.seconds(name, least=1.0, most=20.0, default=MISSING)
    if recovery.has("probe_threshold"):
        found["probe_threshold"] = recovery.integer("probe_threshold", least=1, most=10)
    if recovery.has("rehearse"):
        allowed = "never, or a schedule of EventBridge Scheduler such as rate(30 days) or cron(0 4 1 * ? *)"
        said = recovery.text("rehearse", re.compile(r"[\x20-\x7e]{1,256}"), allowed)
        if said != _NEVER and not is_schedule(said):
            raise recovery.error("rehearse", said, allowed)
        if said != _NEVER and not once_a_day(said):
            raise recovery.error(
                "rehearse", said, "once a day at most, because a rehearsal may take hours, and no two go on at once"
            )
        found["rehearse"] = "" if said == _NEVER else said
    return found


def _confirming(root: Table) -> dict[str, Any]:
    """What the file says of what acknowledged means."""
    found: dict[str, Any] = {}
    if root.has("acknowledge"):
        found["acknowledge"] = root.choice("acknowledge", Acknowledge)
    if root.has("confirm_by"):
        found["confirm_by"] = root.choice("confirm_by", ConfirmBy)
    if root.has("confirm_replicas"):
        found["confirm_replicas"] = root.integer("confirm_replicas", least=0, most=10)
    return found


def _database(table: Table) -> Database:
    default = Database()
    return Database(
        instance_class=table.text(
            "instance_class",
            re.compile(r"db\.[a-z0-9]{2,12}\.[a-z0-9]{2,12}"),
            "an instance class such as db.r6g.large",
            default=default.instance_class,
        ),
        storage_gib=table.integer("storage_gib", least=20, most=MOST_FIRST_STORAGE_GIB, default=default.storage_gib),
        engine_version=table.text(
            "engine_version", re.compile(r"[0-9]{2}(\.[0-9]{1,2})?"), "such as 17.5", default=default.engine_version
        ),
        # Automated backups are what replicas and copies are made of, so there are some.
        backup_days=table.integer("backup_days", least=1, most=35, default=default.backup_days),
        password_version=table.integer("password_version", least=1, most=1_000_000, default=default.password_version),
    )


def _queue(table: Table, regions: Regions) -> Queue:
    default = Queue()
    if table.flag("existing", default=default.existing):
        table.done()
        return Queue(existing=True)
    queue = Queue(
        image=_image(table, regions) if table.has("image") else default.image,
        # A single server, or a quorum that outlives the loss of one.
        nodes=table.one_of("nodes", (1, 3), default=default.nodes),
        cpu=(size := _size(table, cpu=default.cpu, memory=default.memory))[0],
        memory=size[1],
        storage_gib=table.integer("storage_gib", least=1, most=16_384, default=default.storage_gib),
    )
    table.done()
    return queue


def _capacity(table: Table) -> Capacity:
    """The kind's own keys, and no other kind's."""
    kind = table.choice("kind", CapacityKind, default=CapacityKind.ECS)
    said: dict[str, Any] = {}
    if kind is CapacityKind.EKS:
        said = {name: table.text(name, _WORD, f"the name of the {name}") for name in ("cluster", "deployment")}
        said["namespace"] = table.text("namespace", _WORD, "the name of a namespace", default="default")
    elif kind is CapacityKind.AUTO_SCALING:
        said = {"group": table.text("group", _WORD, "the name of an Auto Scaling group")}
    elif table.has("most"):  # of the others, who runs them says how far they scale
        said = {"most": table.integer("most", least=1, most=1000)}
    table.done()
    return Capacity(kind=kind, **said)


def _vaults(table: Table) -> Vaults:
    default = Vaults()
    other: dict[Role, OtherStore] = {}
    for role in Role:
        if table.has(role.value):
            inner = table.table(role.value, secretive=True)
            other[role] = OtherStore(
                endpoint=inner.text(
                    "endpoint",
                    re.compile(rf"https://{_HOST.pattern}(:[0-9]{{1,5}})?"),
                    "an address such as https://host",
                ),
                bucket=inner.text("bucket", _BUCKET, "the name of a bucket"),
                region=inner.text(
                    "region",
                    re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
                    "the region that requests to the store are signed for, such as auto",
                    default=ANY_REGION,
                ),
                lock_days=inner.integer("lock_days", least=0, most=400, default=0),
            )
            inner.done()
    return Vaults(
        lock=table.choice("lock", Lock, default=default.lock),
        lock_days=table.integer("lock_days", least=1, most=400, default=default.lock_days),
        results_days=table.integer("results_days", least=0, most=3650, default=default.results_days),
        other=other,
    )


def _recovery(table: Table) -> Recovery:
    default = Recovery()
    return Recovery(
        approval=table.flag("approval", default=default.approval),
        approval_minutes=table.integer("approval_minutes", least=1, most=1440, default=default.approval_minutes),
    )


def _incidents(table: Table) -> Incidents:
    incidents = Incidents(
        emails=table.texts("emails", _EMAIL, "addresses such as on-call@example.com", default=()),
        slack_team=table.text("slack_team", re.compile(r"T[A-Z0-9]{6,}"), "a workspace's id: T…", default=""),
        slack_channel=table.text("slack_channel", re.compile(r"[CG][A-Z0-9]{6,}"), "a channel's id: C…", default=""),
        pagerduty=table.flag("pagerduty", default=False),
        pagerduty_eu=table.flag("pagerduty_eu", default=False),
    )
    table.done()
    return incidents


def _large_work(table: Table, regions: Regions) -> LargeWork:
    default = LargeWork()
    cpu, memory = _size(table, cpu=default.cpu, memory=default.memory)
    work = LargeWork(
        image=_image(table, regions) if table.has("image") else default.image,
        above_gib=table.integer("above_gib", least=1, most=10_000, default=default.above_gib),
        cpu=cpu,
        memory=memory,
    )
    table.done()
    return work


def _providers(root: Table) -> tuple[ProviderSpec, ...]:
    found = []
    for table in root.tables("providers"):
        spec = table.made(ProviderSpec)
        if "{" in in_region(spec.base_url, ""):
            raise table.error("base_url", spec.base_url, "an address with no placeholder but {region}")
        found.append(spec)
    if found:
        try:
            check_specs(found)
        except ConfigError as exc:
            raise root.error("providers", [spec.name for spec in found], f"{exc.problem}: {exc.hint}") from None
    return tuple(found)


def _image(table: Table, regions: Regions) -> str:
    image = table.text("image", re.compile(r"\S+"), "the address of a container image")
    if any(region in image for region in (regions.primary, regions.standby)):
        raise table.error("image", image, "an image that each region has of its own: write {region} for the region")
    if "{" in in_region(image, ""):
        raise table.error("image", image, "an image with no placeholder but {region}")
    return image


def _size(table: Table, *, cpu: Any = MISSING, memory: Any = MISSING) -> tuple[int, int]:
    """CPU units and MiB that Fargate offers together."""
    found = table.one_of("cpu", tuple(FARGATE_SIZES), default=cpu)
    least, most, step = FARGATE_SIZES[found]
    size = table.integer("memory", least=least, most=most, default=memory)
    if size % step:
        raise table.error("memory", size, f"with cpu = {found}, {least} to {most} in steps of {step}")
    return found, size


def _network(table: Table, role: Role, account: str, regions: Regions) -> Network:
    default = NETWORKS[role]
    region = regions.primary if role is Role.PRIMARY else regions.standby
    arn = re.compile(rf"arn:aws:acm:{region}:{account}:certificate/[A-Za-z0-9-]+")
    found: dict[str, Any]
    if table.has("vpc_id"):
        subnets = (re.compile(r"subnet-[0-9a-f]{8,17}"), "ids such as subnet-0123456789abcdef0")
        found = {
            "vpc_id": table.text("vpc_id", re.compile(r"vpc-[0-9a-f]{8,17}"), "an id such as vpc-0123456789abcdef0"),
            "private_subnet_ids": table.texts("private_subnet_ids", *subnets),
            "public_subnet_ids": table.texts("public_subnet_ids", *subnets),
            "route_table_ids": table.texts(
                "route_table_ids", re.compile(r"rtb-[0-9a-f]{8,17}"), "ids such as rtb-0123456789abcdef0"
            ),
        }
        for name in ("private_subnet_ids", "public_subnet_ids"):
            if len(found[name]) < 2:
                raise table.error(name, list(found[name]), "subnets in two zones at least, as a load balancer needs")
    else:
        found = {
            "cidr": _cidr(table, default.cidr),
            "zones": table.texts(
                "zones", re.compile(r"[a-z]"), "letters of availability zones, such as a", default=default.zones
            ),
            "nat": table.flag("nat", default=default.nat),
        }
        if not 2 <= len(found["zones"]) <= 6:
            raise table.error(
                "zones", list(found["zones"]), "two zones at least, as a load balancer needs, and six at most"
            )
    network = Network(
        **found,
        endpoints=table.flag("endpoints", default=default.endpoints),
        ports=table.integers("ports", least=1, most=65_535, default=default.ports),
        access_logs_bucket=table.text(
            "access_logs_bucket", _BUCKET, "the name of a bucket", default=default.access_logs_bucket
        ),
        certificate_arn=table.text(
            "certificate_arn", arn, f"the ARN of a certificate of account {account} in {region}", default=""
        ),
    )
    table.done()
    return network


def _cidr(table: Table, default: str) -> str:
    """A private range that can be cut into subnets for each zone."""
    allowed = "a private range from /16 to /22, such as 10.0.0.0/16"
    said = table.text("cidr", re.compile(r"[0-9.]{7,15}/[0-9]{1,2}"), allowed, default=default)
    try:
        found = ipaddress.IPv4Network(said)
    except ValueError as exc:
        raise table.error("cidr", said, f"{allowed}: {exc}") from None
    if not 16 <= found.prefixlen <= 22 or not found.is_private:
        raise table.error("cidr", said, allowed)
    return said

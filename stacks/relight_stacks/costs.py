"""What a standby costs in a month, estimated from what an environment says and a dated table of list prices. Pure.

An estimate: list prices of us-east-1, no discounts, no taxes, 730 hours. What depends on use has its price for a unit
and no amount. Prices change, and other regions have others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.config import Role, StateKind
from relight_constructs.endpoints import REHEARSING
from relight_stacks.counts import counts, services_called
from relight_stacks.environment import CapacityKind
from relight_stacks.tiers import Routing, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight_stacks.environment import Environment

# USD, us-east-1, on demand. Source: the price pages of AWS. What others published in 2026 agreed on Fargate, RDS's
# storage and backups, Aurora's storage and writes, and Route 53's checks; nobody was found for the rest.
PRICES_OF = "2026-11"
HOURS = 730

FARGATE_VCPU_HOUR = 0.04048
FARGATE_GIB_HOUR = 0.004445
EBS_GIB_MONTH = 0.08
BALANCER_HOUR = 0.0225
NAT_HOUR = 0.045
ENDPOINT_HOUR = 0.01
PUBLIC_ADDRESS_HOUR = 0.005
KEY_MONTH = 1.0
SECRET_MONTH = 0.40
ZONE_MONTH = 0.50
CHECK_MONTH = 0.50
# HTTPS is an option of a health check, and so is the fast interval.
CHECK_OPTION_MONTH = 1.0
ROUTING_CONTROLS_HOUR = 2.50
LAMBDA_GIB_SECOND = 0.0000133334
ALARM_MONTH = 0.10
METRIC_MONTH = 0.30
DASHBOARD_MONTH = 3.0
RDS_STORAGE_GIB_MONTH = 0.115
RDS_BACKUP_GIB_MONTH = 0.095
AURORA_STORAGE_GIB_MONTH = 0.10

# An hour of a PostgreSQL instance in one zone.
RDS_HOUR: dict[str, float] = {
    "db.t4g.micro": 0.016,
    "db.t4g.small": 0.032,
    "db.t4g.medium": 0.065,
    "db.t4g.large": 0.129,
    "db.m6g.large": 0.159,
    "db.m6g.xlarge": 0.318,
    "db.m6g.2xlarge": 0.636,
    "db.r6g.large": 0.225,
    "db.r6g.xlarge": 0.450,
    "db.r6g.2xlarge": 0.899,
    "db.r6g.4xlarge": 1.798,
}
# Of a global database, which is of memory-optimized classes alone.
AURORA_HOUR: dict[str, float] = {
    "db.r6g.large": 0.260,
    "db.r6g.xlarge": 0.519,
    "db.r6g.2xlarge": 1.038,
    "db.r6g.4xlarge": 2.076,
}

# Out of AWS, up to 10 TB in a month.
INTERNET_GB = 0.09

# For what is used, whatever that comes to.
IN_VAULT = "points and journal in the standby's vault"
PER_UNIT: dict[str, tuple[float, str]] = {
    IN_VAULT: (0.023, "GB and month"),
    "between the regions": (0.02, "GB"),
}
PER_UNIT_OF_A_STANDBY: dict[str, tuple[float, str]] = {
    "through the NAT gateway, and again for the internet": (0.045, "GB"),
    "through an interface endpoint": (0.01, "GB"),
    "logs": (0.50, "GB"),
    "requests of the load balancer": (0.008, "capacity unit and hour"),
}
RTC_GB = 0.015
AURORA_WRITES_MILLION = 0.20

# As many as the standby's stacks have whatever the environment is, those of what would be lost where the region that
# acts knows it, and those of rehearsals. An operator's own come on top.
ALARMS, EXPOSURE_ALARMS, REHEARSAL_ALARMS = 14, 4, 6
# What `relight.recovery.gauges` and rehearsals publish: of a region, and of each collection and provider.
METRICS, COLLECTION_METRICS, PROVIDER_METRICS, REHEARSAL_METRICS = 13, 3, 2, 4
# What Container Insights makes custom metrics of: a cluster, each of its services that runs something, and the family
# of its tasks. Source: the example for ECS on CloudWatch's price page.
INSIGHTS_CLUSTER, INSIGHTS_SERVICE, INSIGHTS_FAMILY = 8, 11, 6
# The sentinel's memory, and how much of each minute it watches: all of it, and for half an interval two do.
SENTINEL_GIB = 1.0
SENTINEL_SHARE = 65 / 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """So many units at a price each; `monthly` is None where the table has no price."""

    what: str
    quantity: float
    unit: str
    price: float | None

    @property
    def monthly(self) -> float | None:
        """USD in a month."""
        return None if self.price is None else self.quantity * self.price


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLine:
    """What depends on use, for one unit."""

    what: str
    price: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A standby in a month, in USD."""

    lines: tuple[Line, ...]
    per_unit: tuple[UnitLine, ...]

    @property
    def monthly(self) -> float:
        """The sum of the lines that have a price."""
        return sum(line.monthly or 0.0 for line in self.lines)

    @property
    def rounded(self) -> int:
        """The sum to two figures, which is what an estimate is worth; no more than the sum, where something is not in
        it."""
        step = 10 ** max(0, len(str(int(self.monthly))) - 2)
        return int(self.monthly // step * step) if self.unknown else round(self.monthly / step) * step

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the table has no price for."""
        return tuple(line.what for line in self.lines if line.price is None)


def estimate(environment: Environment) -> Estimate:
    """What the standby costs, beside the primary: with tier sandbox, what is in its region all the same."""
    lines = [*_everywhere(environment)]
    if environment.shape.standby:
        lines += [*_waiting(environment), *_reached(environment), *_watching(environment)]
    if environment.rehearsed:
        lines += _rehearsing(environment)
    lines += _state(environment)
    return Estimate(lines=tuple(lines), per_unit=tuple(_per_unit(environment)))


def _everywhere(environment: Environment) -> Iterator[Line]:
    # The vault's and the signing key's replica; a standby has one for its secrets, and copied backups have one.
    # A place for rehearsals shares none.
    own = environment.shape.standby + environment.rehearsed
    keys = 2 + own + (environment.shape.state is StateKind.SNAPSHOTS)
    yield Line(what="KMS keys", quantity=keys, unit="keys", price=KEY_MONTH)
    # The replica of the state's password is a secret like any other.
    secrets = int(environment.own_state)
    if environment.shape.standby:
        secrets += 2 + (not environment.queue.existing)  # connections, the vector store's password, the queue's
        secrets += bool(environment.composes_connections and environment.providers)
        secrets += environment.incidents.pagerduty + bool(environment.vaults.other) + environment.rehearsed
    if secrets:
        yield Line(what="secrets", quantity=secrets, unit="secrets", price=SECRET_MONTH)


def _waiting(environment: Environment) -> Iterator[Line]:
    """What runs while nothing is wrong."""
    if environment.shape.waiting is Waiting.NONE:
        return
    agent, vector, queue = environment.agent, environment.vector, environment.queue
    count = counts(environment, Role.STANDBY)
    nodes = 0 if queue.existing else count.running_nodes
    running = [("vector store", count.vectors, vector.cpu, vector.memory)]
    if environment.capacity.kind is CapacityKind.ECS:
        running.insert(0, ("agents", count.agents, agent.cpu, agent.memory))
    if nodes:
        running.append(("queue", nodes, queue.cpu, queue.memory))
    for what, tasks, cpu, memory in running:
        vcpus, gib = tasks * cpu / 1024, tasks * memory / 1024
        yield Line(
            what=f"{what}: {tasks} on Fargate",
            quantity=HOURS,
            unit=f"hours of {vcpus:g} vCPU and {gib:g} GiB",
            price=vcpus * FARGATE_VCPU_HOUR + gib * FARGATE_GIB_HOUR,
        )
    volumes = count.vectors * vector.storage_gib + nodes * queue.storage_gib
    yield Line(what="volumes of the vector store and the queue", quantity=volumes, unit="GiB", price=EBS_GIB_MONTH)
    # Each of the queue's nodes is a service.
    services = len(running) + max(0, nodes - 1)
    metrics = INSIGHTS_CLUSTER + services * (INSIGHTS_SERVICE + INSIGHTS_FAMILY)
    yield Line(what="Container Insights", quantity=metrics, unit="metrics", price=METRIC_MONTH)


def _reached(environment: Environment) -> Iterator[Line]:
    """The network, and the names."""
    network, shape = environment.network(Role.STANDBY), environment.shape
    zones = len(network.private_subnet_ids) if network.vpc_id else len(network.zones)
    yield Line(what="load balancers, outer and inner", quantity=2 * HOURS, unit="hours", price=BALANCER_HOUR)
    gateways = 0 if network.vpc_id or not network.nat else zones if shape.waiting is Waiting.FULL else 1
    if gateways:
        yield Line(what=f"NAT gateways: {gateways}", quantity=gateways * HOURS, unit="hours", price=NAT_HOUR)
    if network.endpoints:
        # S3 of the other region too.
        count = len(services_called(environment, Role.STANDBY)) + 1
        yield Line(
            what=f"interface endpoints: {count} in {zones} zones",
            quantity=count * zones * HOURS,
            unit="hours",
            price=ENDPOINT_HOUR,
        )
    yield Line(what="public addresses", quantity=(zones + gateways) * HOURS, unit="hours", price=PUBLIC_ADDRESS_HOUR)
    if shape.routing is not Routing.SINGLE:
        options = 2 if shape.check_interval_s == 10 else 1
        yield Line(
            what="Route 53 health checks",
            quantity=2,
            unit="checks",
            price=CHECK_MONTH + options * CHECK_OPTION_MONTH,
        )
    yield Line(what="zones, public and inner", quantity=2, unit="zones", price=ZONE_MONTH)
    if environment.routing_controls:
        yield Line(what="ARC routing controls", quantity=HOURS, unit="hours", price=ROUTING_CONTROLS_HOUR)
        # A check of each switch, and one of switch and endpoint together. Nothing was found of a lower price.
        yield Line(what="health checks of the switches", quantity=4, unit="checks", price=CHECK_MONTH)


def _watching(environment: Environment) -> Iterator[Line]:
    yield Line(
        what="the sentinel, on Lambda",
        quantity=HOURS * 3600 * SENTINEL_SHARE * SENTINEL_GIB,
        unit="GiB-seconds",
        price=LAMBDA_GIB_SECOND,
    )
    yield Line(what="alarms", quantity=_alarms(environment), unit="alarms", price=ALARM_MONTH)
    metrics = METRICS + COLLECTION_METRICS * len(environment.memory.collections)
    metrics += PROVIDER_METRICS * len(environment.providers) + (REHEARSAL_METRICS if environment.rehearsed else 0)
    yield Line(what="custom metrics", quantity=metrics, unit="metrics", price=METRIC_MONTH)
    yield Line(what="dashboards", quantity=1, unit="page", price=DASHBOARD_MONTH)


def _alarms(environment: Environment) -> int:
    """How many there are in the standby's region: a test counts them in the synthesized stacks."""
    count = ALARMS + (1 if environment.vaults.other else 2)  # copied by a function, or replicated
    if environment.shape.state is not StateKind.SNAPSHOTS:
        count += EXPOSURE_ALARMS
    elif not all(item.journalled for item in environment.memory.collections):
        count += 1
    if environment.providers:  # all of them, and each that the function can try
        count += 1 + sum(not item.ca_file for item in environment.providers)
    return count + (REHEARSAL_ALARMS if environment.rehearsed else 0)


def _rehearsing(environment: Environment) -> Iterator[Line]:
    """The place for rehearsals is there all month, though its store runs for an hour of it."""
    if environment.rehearsed_over_internet:
        yield Line(what="rehearsals' NAT gateway", quantity=HOURS, unit="hours", price=NAT_HOUR + PUBLIC_ADDRESS_HOUR)
    else:
        yield Line(
            what=f"rehearsals' interface endpoints: {len(REHEARSING)} in a zone",
            quantity=len(REHEARSING) * HOURS,
            unit="hours",
            price=ENDPOINT_HOUR,
        )


def _state(environment: Environment) -> Iterator[Line]:
    database, kind = environment.database, environment.shape.state
    if kind is StateKind.SNAPSHOTS:
        yield Line(
            what="copied backups, as large as the database",
            quantity=database.storage_gib,
            unit="GiB",
            price=RDS_BACKUP_GIB_MONTH,
        )
    elif kind is not StateKind.EXISTING:
        aurora = kind is StateKind.AURORA_GLOBAL
        yield Line(
            what=f"state database: {database.instance_class}",
            quantity=HOURS,
            unit="hours",
            price=(AURORA_HOUR if aurora else RDS_HOUR).get(database.instance_class),
        )
        yield Line(
            what="its storage",
            quantity=database.storage_gib,
            unit="GiB",
            price=AURORA_STORAGE_GIB_MONTH if aurora else RDS_STORAGE_GIB_MONTH,
        )


def _per_unit(environment: Environment) -> Iterator[UnitLine]:
    used = PER_UNIT | PER_UNIT_OF_A_STANDBY if environment.shape.standby else PER_UNIT
    stores = environment.vaults.other
    for what, (price, unit) in used.items():
        if what != IN_VAULT or Role.STANDBY not in stores:  # another store has prices of its own
            yield UnitLine(what=what, price=price, unit=unit)
    if stores:
        yield UnitLine(what="to a vault that is not in AWS, over the internet", price=INTERNET_GB, unit="GB")
    if environment.shape.replication_time_control and not environment.vaults.other:
        yield UnitLine(what="Replication Time Control", price=RTC_GB, unit="GB")
    if environment.shape.state is StateKind.AURORA_GLOBAL:
        yield UnitLine(what="writes that Aurora replicates", price=AURORA_WRITES_MILLION, unit="million")


def to_json(found: Estimate) -> dict[str, object]:
    """The estimate as JSON holds it."""
    return {
        "estimate": True,
        "of": "the standby alone",
        "prices_of": PRICES_OF,
        "prices_in": "us-east-1",
        "currency": "USD",
        "monthly": round(found.monthly, 2),
        "rounded": found.rounded,
        "unknown": list(found.unknown),
        "lines": [
            {
                "what": line.what,
                "quantity": round(line.quantity, 2),
                "unit": line.unit,
                "price": line.price,
                "monthly": None if line.monthly is None else round(line.monthly, 2),
            }
            for line in found.lines
        ],
        "per_unit": [{"what": line.what, "price": line.price, "unit": line.unit} for line in found.per_unit],
    }

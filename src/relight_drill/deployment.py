"""What was applied, as the played parts read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight_drill.making.arguments import single
from relight_drill.processes import DrillError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource as it was applied: its arguments with every reference resolved, its attributes as they were given."""

    stack: str
    region: str
    type: str
    name: str
    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any]

    @property
    def address(self) -> str:
        return f"{self.stack}: {self.type}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A deployed ECS service."""

    region: str
    cluster: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A deployed Route 53 health check."""

    id: str
    type: str
    fqdn: str
    port: int
    path: str
    interval_s: float
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A deployed Route 53 record. `failover` is PRIMARY or SECONDARY, `weight` a weighted record's, and
    `latency_region` a latency record's; a plain one has none of them."""

    name: str
    type: str
    ttl: float
    values: tuple[str, ...]
    failover: str = ""
    weight: int | None = None
    latency_region: str = ""
    health_check: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that was applied."""

    resources: tuple[Resource, ...]

    def of(self, kind: str, *, region: str | None = None) -> tuple[Resource, ...]:
        """The resources of a type, of one region or of all."""
        return tuple(r for r in self.resources if r.type == kind and region in (None, r.region))

    def one(self, kind: str, *, region: str | None = None, name: str | None = None) -> Resource:
        """The only resource of a type that fits; `name` is what AWS calls it."""
        found = [r for r in self.of(kind, region=region) if name in (None, r.attributes.get("name"))]
        if len(found) != 1:
            where = f" in {region}" if region else ""
            called = f" called {name}" if name else ""
            raise DrillError(
                f"{len(found)} resources of type {kind}{where}{called}, not one", hint="look at the stacks"
            )
        return found[0]

    @property
    def buckets(self) -> dict[str, str]:
        """Each bucket's region."""
        return {r.attributes["id"]: r.region for r in self.of("aws_s3_bucket")}

    def functions(self, region: str) -> dict[str, str]:
        """The functions of a region: name to ARN."""
        return {
            r.attributes["function_name"]: r.attributes["arn"] for r in self.of("aws_lambda_function", region=region)
        }

    @property
    def services(self) -> tuple[Service, ...]:
        """Every ECS service."""
        return tuple(
            Service(region=r.region, cluster=r.attributes["cluster"], name=r.attributes["name"])
            for r in self.of("aws_ecs_service")
        )

    def balancer(self, region: str) -> str:
        """The name of the region's load balancer that callers reach."""
        found = [lb for lb in self.of("aws_lb", region=region) if not lb.arguments.get("internal")]
        if len(found) != 1:
            raise DrillError(f"{len(found)} public load balancers in {region}, not one", hint="look at the stacks")
        name: str = found[0].attributes["dns_name"]
        return name

    def services_of(self, region: str) -> set[str]:
        """The names of a region's ECS services."""
        return {service.name for service in self.services if service.region == region}

    @property
    def health_checks(self) -> tuple[HealthCheck, ...]:
        """Every health check."""
        return tuple(
            HealthCheck(
                id=r.attributes["id"],
                type=r.arguments["type"],
                fqdn=r.arguments["fqdn"],
                port=int(r.arguments["port"]),
                path=r.arguments["resource_path"],
                interval_s=float(r.arguments["request_interval"]),
                threshold=int(r.arguments["failure_threshold"]),
            )
            for r in self.of("aws_route53_health_check")
        )

    @property
    def records(self) -> tuple[Record, ...]:
        """Every DNS record of the public zones."""
        private = {zone.attributes["id"] for zone in self.of("aws_route53_zone") if zone.attributes["private"]}
        return tuple(
            Record(
                name=r.arguments["name"],
                type=r.arguments["type"],
                ttl=float(r.arguments["ttl"]),
                values=tuple(r.arguments["records"]),
                failover=single(r.arguments.get("failover_routing_policy"), {}).get("type", ""),
                weight=single(r.arguments.get("weighted_routing_policy"), {}).get("weight"),
                latency_region=single(r.arguments.get("latency_routing_policy"), {}).get("region", ""),
                health_check=r.arguments.get("health_check_id", ""),
            )
            for r in self.of("aws_route53_record")
            if r.arguments["zone_id"] not in private
        )

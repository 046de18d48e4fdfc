"""Names: Route 53."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight_drill.making.arguments import given
from relight_drill.processes import DrillError

if TYPE_CHECKING:
    from relight_drill.making.arguments import Arguments, Make, Place


def _zone(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    # Nobody here asks for the names of a private zone: secrets say where a region's servers are.
    private = bool(a.take("vpc"))
    a.not_emulated("comment", "force_destroy")
    made = place.client("route53").create_hosted_zone(Name=name, CallerReference=f"{name} {a.where}")
    number = made["HostedZone"]["Id"].rpartition("/")[2]
    servers = made.get("DelegationSet", {}).get("NameServers", [])
    return {"id": number, "zone_id": number, "name": name, "name_servers": servers, "private": private}


def _find_zone(place: Place, a: Arguments) -> dict[str, Any]:
    name, private = a.need("name"), bool(a.take("private_zone"))
    zones = place.client("route53").list_hosted_zones()["HostedZones"]
    found = [
        zone
        for zone in zones
        if zone["Name"].rstrip(".") == name.rstrip(".") and zone.get("Config", {}).get("PrivateZone", False) == private
    ]
    if len(found) != 1:
        raise DrillError(f"{len(found)} hosted zones are called {name!r}, not one", hint="apply the dns stack first")
    number = found[0]["Id"].rpartition("/")[2]
    return {"id": number, "zone_id": number, "name": name}


def _health_check(place: Place, a: Arguments) -> dict[str, Any]:
    fqdn, path = a.need("fqdn"), a.take("resource_path", "")
    made = place.client("route53").create_health_check(
        CallerReference=f"{fqdn}{path}",
        HealthCheckConfig=given(
            Type=a.need("type"),
            FullyQualifiedDomainName=fqdn,
            Port=a.need("port"),
            ResourcePath=path,
            RequestInterval=a.need("request_interval"),
            FailureThreshold=a.need("failure_threshold"),
            EnableSNI=a.take("enable_sni"),
            MeasureLatency=a.take("measure_latency"),
        ),
    )["HealthCheck"]
    return {"id": made["Id"], "arn": f"arn:aws:route53:::healthcheck/{made['Id']}"}


def _record(place: Place, a: Arguments) -> dict[str, Any]:
    name, kind, zone = a.need("name"), a.need("type"), a.need("zone_id")
    failover, weighted = a.block("failover_routing_policy"), a.block("weighted_routing_policy")
    latency = a.block("latency_routing_policy")
    record = given(
        Name=name,
        Type=kind,
        TTL=a.need("ttl"),
        ResourceRecords=[{"Value": value} for value in a.need("records")],
        SetIdentifier=a.take("set_identifier"),
        HealthCheckId=a.take("health_check_id"),
        Failover=failover.need("type") if failover else None,
        Weight=weighted.need("weight") if weighted else None,
        Region=latency.need("region") if latency else None,
    )
    action = "UPSERT" if a.take("allow_overwrite") else "CREATE"
    place.client("route53").change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": record}]}
    )
    return {"id": f"{zone}_{name}_{kind}", "name": name, "fqdn": name}


MAKERS: dict[str, Make] = {
    "aws_route53_zone": _zone,
    "aws_route53_health_check": _health_check,
    "aws_route53_record": _record,
}

READERS: dict[str, Make] = {"aws_route53_zone": _find_zone}

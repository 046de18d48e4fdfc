"""Types that the emulator does not make, because nothing in a drill would act on them.

Each says why, what it may be told (tests on the JSON hold that it is right), and the form of its attributes, which are
made up: whoever refers to one gets a value of the right form, the same in every run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_drill.making.arguments import Arguments, Make, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplayed:
    """A type that nothing acts on.

    `told` are its arguments. `gives` are its attributes, in which `{number}` is made up from its place and address,
    `{region}` and `{account}` are where it is, and any other name is that argument.
    """

    why: str
    told: str
    gives: Mapping[str, Any] = field(default_factory=dict)


WIRES = "packets travel on loopback: relight_drill.network plays what lies between two hosts"
BALANCER = "relight_drill.network.Ingress plays the region's public load balancer; servers are called by their ports"
IMAGES = "relight_drill.ecs starts processes, which need no image"
CERTIFICATE = "relight_drill.network.Authority issues the certificates of the drill's world"

UNPLAYED: Mapping[str, Unplayed] = {
    "aws_acm_certificate": Unplayed(
        why=CERTIFICATE,
        told="domain_name subject_alternative_names validation_method",
        gives={
            "arn": "arn:aws:acm:{region}:{account}:certificate/{number}",
            # Whose record proves the name, as ACM asks for it: a list of blocks.
            "domain_validation_options": [
                {
                    "resource_record_name": "_{number}.{domain_name}",
                    "resource_record_type": "CNAME",
                    "resource_record_value": "_{number}.acm-validations.aws",
                }
            ],
        },
    ),
    "aws_acm_certificate_validation": Unplayed(
        why=CERTIFICATE,
        told="certificate_arn validation_record_fqdns",
        gives={"certificate_arn": "{certificate_arn}"},
    ),
    "aws_appautoscaling_policy": Unplayed(
        why="nothing measures the load of a drill's agents: how many run is the recovery's to say",
        told="name policy_type resource_id scalable_dimension service_namespace"
        " target_tracking_scaling_policy_configuration",
    ),
    "aws_chatbot_slack_channel_configuration": Unplayed(
        why="no chat is played: who is subscribed to the topic itself is told",
        told="configuration_name iam_role_arn slack_team_id slack_channel_id sns_topic_arns guardrail_policy_arns"
        " logging_level user_authorization_required region",
    ),
    "aws_ecr_replication_configuration": Unplayed(why=IMAGES, told="replication_configuration"),
    "aws_eip": Unplayed(
        why=WIRES, told="domain", gives={"id": "eipalloc-{number}", "allocation_id": "eipalloc-{number}"}
    ),
    "aws_flow_log": Unplayed(
        why=WIRES,
        told="iam_role_arn log_destination log_destination_type max_aggregation_interval traffic_type vpc_id",
    ),
    "aws_lambda_function_event_invoke_config": Unplayed(
        why="how long a call waits for a function that is at work is the emulator's own",
        told="function_name maximum_event_age_in_seconds",
    ),
    "aws_nat_gateway": Unplayed(why=WIRES, told="allocation_id subnet_id", gives={"id": "nat-{number}"}),
    "aws_vpc_endpoint": Unplayed(
        why=WIRES,
        told="vpc_id service_name service_region vpc_endpoint_type policy private_dns_enabled dns_options"
        " security_group_ids subnet_ids route_table_ids",
        gives={"id": "vpce-{number}", "prefix_list_id": "pl-{number}"},
    ),
    "aws_vpc": Unplayed(
        why=WIRES,
        told="cidr_block enable_dns_hostnames enable_dns_support",
        gives={"id": "vpc-{number}", "cidr_block": "{cidr_block}"},
    ),
    "aws_default_security_group": Unplayed(why=WIRES, told="vpc_id", gives={"id": "sg-{number}"}),
    "aws_internet_gateway": Unplayed(why=WIRES, told="vpc_id", gives={"id": "igw-{number}"}),
    "aws_route_table": Unplayed(why=WIRES, told="vpc_id route", gives={"id": "rtb-{number}"}),
    "aws_route_table_association": Unplayed(why=WIRES, told="subnet_id route_table_id"),
    "aws_security_group": Unplayed(why=WIRES, told="name description vpc_id", gives={"id": "sg-{number}"}),
    "aws_subnet": Unplayed(why=WIRES, told="vpc_id cidr_block availability_zone", gives={"id": "subnet-{number}"}),
    "aws_vpc_security_group_egress_rule": Unplayed(
        why=WIRES,
        told="security_group_id description ip_protocol from_port to_port cidr_ipv4 prefix_list_id"
        " referenced_security_group_id",
    ),
    "aws_vpc_security_group_ingress_rule": Unplayed(
        why=WIRES,
        told="security_group_id description ip_protocol from_port to_port cidr_ipv4 referenced_security_group_id",
    ),
    "aws_lb": Unplayed(
        why=BALANCER,
        told="name internal load_balancer_type subnets security_groups drop_invalid_header_fields"
        " enable_deletion_protection enable_cross_zone_load_balancing desync_mitigation_mode access_logs",
        gives={
            "arn": "arn:aws:elasticloadbalancing:{region}:{account}:loadbalancer/{name}/{number}",
            "dns_name": "{name}-{number}.{region}.elb.amazonaws.com",
            "zone_id": "Z{number}",
        },
    ),
    "aws_lb_listener": Unplayed(
        why=BALANCER,
        told="load_balancer_arn port protocol ssl_policy certificate_arn default_action",
        gives={"arn": "arn:aws:elasticloadbalancing:{region}:{account}:listener/app/{number}"},
    ),
    "aws_lb_target_group": Unplayed(
        why=BALANCER,
        told="name vpc_id target_type protocol port deregistration_delay connection_termination preserve_client_ip"
        " health_check",
        gives={"arn": "arn:aws:elasticloadbalancing:{region}:{account}:targetgroup/{name}/{number}"},
    ),
}


def _make_up(row: Unplayed, place: Place, a: Arguments) -> dict[str, Any]:
    a.not_emulated("tags", *row.told.split())
    number = hashlib.sha256(f"{place.region} {a.where}".encode()).hexdigest()[:17]
    words = {**a.plain, "number": number, "region": place.region, "account": place.emulator.account}
    return {name: _filled(form, words) for name, form in {"id": "{number}", **row.gives}.items()}


def _filled(form: Any, words: Mapping[str, Any]) -> Any:
    if isinstance(form, list):
        return [_filled(item, words) for item in form]
    if isinstance(form, dict):
        return {name: _filled(item, words) for name, item in form.items()}
    return form.format(**words)


MAKERS: dict[str, Make] = {kind: partial(_make_up, row) for kind, row in UNPLAYED.items()}

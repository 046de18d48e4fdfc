"""A region's network: a VPC of its own or an existing one, and who in it may talk to whom."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    DefaultSecurityGroup,
    InternetGateway,
    RouteTable,
    RouteTableAssociation,
    RouteTableRoute,
    SecurityGroup,
    Subnet,
    Vpc,
    VpcSecurityGroupEgressRule,
    VpcSecurityGroupIngressRule,
)
from relight_constructs.props import Attachment

if TYPE_CHECKING:
    from relight_constructs.props import NetworkProps

# Who is in a region's network. Each has a security group of its own, to which nothing is admitted but what is said.
GROUPS = ("agent", "balancer", "endpoints", "functions", "queue", "state", "vector")


class Network(Construct):
    """Define a region's subnets and security groups. No group admits anything until `admit` says so."""

    def __init__(self, scope: Construct, id_: str, props: NetworkProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        if props.vpc_id:
            self.vpc_id = props.vpc_id
            self.private_subnet_ids = props.private_subnet_ids
            self.public_subnet_ids = props.public_subnet_ids
            self.route_table_ids = props.route_table_ids
        else:
            self._make_vpc()
        self._groups = {
            group: SecurityGroup(
                self,
                f"{group}-group",
                name=f"{props.place.prefix}-{group}",
                description=f"Relight: {group}",
                vpc_id=self.vpc_id,
            )
            for group in GROUPS
        }
        for group, made in self._groups.items():
            VpcSecurityGroupEgressRule(
                self,
                f"{group}-out",
                security_group_id=made.id,
                description="Out to anywhere",
                ip_protocol="-1",
                cidr_ipv4="0.0.0.0/0",
            )

    def _make_vpc(self) -> None:
        """Two subnets a zone, a private and a public one; the range is cut into sixteen equal parts."""
        props = self._props
        vpc = Vpc(
            self,
            "vpc",
            cidr_block=props.cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": props.place.prefix},
        )
        self.vpc_id = vpc.id
        # A default group admits its members to each other; nothing joins it, and it admits nothing.
        DefaultSecurityGroup(self, "default-group", vpc_id=vpc.id)
        gateway = InternetGateway(self, "gateway", vpc_id=vpc.id)
        public = RouteTable(
            self,
            "public-routes",
            vpc_id=vpc.id,
            route=[RouteTableRoute(cidr_block="0.0.0.0/0", gateway_id=gateway.id)],
        )
        parts = list(ipaddress.ip_network(props.cidr).subnets(prefixlen_diff=4))
        private_ids, public_ids, tables = [], [], []
        for number, zone in enumerate(props.zones):
            place = f"{props.place.region}{zone}"
            inner = Subnet(
                self, f"private-{zone}", vpc_id=vpc.id, cidr_block=str(parts[number]), availability_zone=place
            )
            outer = Subnet(
                self, f"public-{zone}", vpc_id=vpc.id, cidr_block=str(parts[number + 8]), availability_zone=place
            )
            table = RouteTable(self, f"private-{zone}-routes", vpc_id=vpc.id)
            RouteTableAssociation(self, f"private-{zone}-association", subnet_id=inner.id, route_table_id=table.id)
            RouteTableAssociation(self, f"public-{zone}-association", subnet_id=outer.id, route_table_id=public.id)
            private_ids.append(inner.id)
            public_ids.append(outer.id)
            tables.append(table.id)
        self.private_subnet_ids = tuple(private_ids)
        self.public_subnet_ids = tuple(public_ids)
        self.route_table_ids = tuple(tables)

    def group_id(self, group: str) -> str:
        """A reference to the id of one of `GROUPS`."""
        return self._groups[group].id

    def attachment(self, group: str) -> Attachment:
        """The private subnets, and one of `GROUPS`: what a task or a function joins."""
        return Attachment(subnet_ids=self.private_subnet_ids, security_group_ids=(self.group_id(group),))

    def admit(self, who: str, *, to: str, port: int) -> None:
        """Let the members of one group reach those of another on a port."""
        VpcSecurityGroupIngressRule(
            self,
            f"{who}-to-{to}-{port}",
            security_group_id=self.group_id(to),
            description=f"From {who}",
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            referenced_security_group_id=self.group_id(who),
        )

"""A region's network: a VPC of its own or an existing one, who in it may talk to whom, and its ways to AWS."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    DefaultSecurityGroup,
    Eip,
    FlowLog,
    InternetGateway,
    NatGateway,
    RouteTable,
    RouteTableAssociation,
    RouteTableRoute,
    SecurityGroup,
    Subnet,
    Vpc,
    VpcEndpoint,
    VpcEndpointDnsOptions,
    VpcSecurityGroupEgressRule,
    VpcSecurityGroupIngressRule,
)
from relight_constructs.endpoints import ENDPOINTS
from relight_constructs.logs import LogGroup
from relight_constructs.policies import Statement, perimeter, trust
from relight_constructs.props import MOST_ZONES, Attachment
from relight_constructs.role import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_constructs.props import NetworkProps

# Who calls AWS.
CALLERS = ("agent", "functions", "queue", "vector")

# Beside those of whoever writes to a log group. Flow logs look for their own.
LOOK_ACTIONS = ("logs:DescribeLogStreams",)

HTTPS = 443


class Network(Construct):
    """Define a region's subnets, security groups and endpoints.

    No group admits anything until `admit` says so, and none reaches further than endpoints until `admit` or `let_out`
    does. Nothing needs the NAT gateway but what `let_out` lets out to the internet.
    """

    def __init__(self, scope: Construct, id_: str, props: NetworkProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        self._let_out: set[tuple[str, int]] = set()
        if props.vpc_id:
            self.vpc_id = props.vpc_id
            self.private_subnet_ids = props.private_subnet_ids
            self.public_subnet_ids = props.public_subnet_ids
            self.route_table_ids = props.route_table_ids
        else:
            self._make_vpc()
        self._group_ids = {
            group: SecurityGroup(
                self,
                f"{group}-group",
                name=f"{props.place.prefix}-{group}",
                description=f"Relight: {group}",
                vpc_id=self.vpc_id,
            ).id
            for group in props.groups
        }
        if props.endpoints:
            self._make_endpoints()
        else:
            # Whose endpoints there are, and what they admit, is not known.
            for group in self._callers:
                self.let_out(group, port=HTTPS)

    def _make_vpc(self) -> None:
        """A private subnet in each zone, and a public one where there are any; the range is cut into sixteen equal
        parts."""
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
        self._log_flows()
        parts = list(ipaddress.ip_network(props.cidr).subnets(prefixlen_diff=4))
        zones = {zone: f"{props.place.region}{zone}" for zone in props.zones}
        public_ids, nats = self._make_public(
            {zone: str(parts[number + MOST_ZONES]) for number, zone in enumerate(zones)}
        )
        private_ids, tables = [], []
        for number, (zone, place) in enumerate(zones.items()):
            inner = Subnet(
                self, f"private-{zone}", vpc_id=vpc.id, cidr_block=str(parts[number]), availability_zone=place
            )
            nat = nats.get(zone)
            table = RouteTable(
                self,
                f"private-{zone}-routes",
                vpc_id=vpc.id,
                # Without one, an empty list: Terraform would leave a route that somebody made alone.
                route=[] if nat is None else [RouteTableRoute(cidr_block="0.0.0.0/0", nat_gateway_id=nat.id)],
            )
            RouteTableAssociation(self, f"private-{zone}-association", subnet_id=inner.id, route_table_id=table.id)
            private_ids.append(inner.id)
            tables.append(table.id)
        self.private_subnet_ids = tuple(private_ids)
        self.public_subnet_ids = public_ids
        self.route_table_ids = tuple(tables)

    def _make_public(self, ranges: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, NatGateway]]:
        """The public subnets, and by zone the gateway through which its private subnet reaches the internet."""
        props = self._props
        if not props.public:
            return (), {}
        gateway = InternetGateway(self, "gateway", vpc_id=self.vpc_id)
        routes = RouteTable(
            self,
            "public-routes",
            vpc_id=self.vpc_id,
            route=[RouteTableRoute(cidr_block="0.0.0.0/0", gateway_id=gateway.id)],
        )
        subnet_ids = []
        nats: dict[str, NatGateway] = {}
        nat: NatGateway | None = None
        for zone, cidr in ranges.items():
            outer = Subnet(
                self,
                f"public-{zone}",
                vpc_id=self.vpc_id,
                cidr_block=cidr,
                availability_zone=f"{props.place.region}{zone}",
            )
            RouteTableAssociation(self, f"public-{zone}-association", subnet_id=outer.id, route_table_id=routes.id)
            subnet_ids.append(outer.id)
            if not props.nat:
                continue
            if nat is None or props.nat_per_zone:
                address = Eip(self, f"nat-{zone}-address", domain="vpc", depends_on=[gateway])
                nat = NatGateway(
                    self, f"nat-{zone}", subnet_id=outer.id, allocation_id=address.allocation_id, depends_on=[gateway]
                )
            nats[zone] = nat
        return tuple(subnet_ids), nats

    def _log_flows(self) -> None:
        place = self._props.place
        role = Role(
            self,
            "flows-role",
            name=place.role_name("flows"),
            trust=trust(
                "vpc-flow-logs.amazonaws.com",
                account=place.account,
                source_arn=f"arn:aws:ec2:{place.region}:{place.account}:vpc-flow-log/*",
            ),
        )
        name = f"/relight/{place.prefix}-flows"
        group = LogGroup(
            self,
            "flows-log",
            place=place,
            name=name,
            key=self._props.logs_key,
            retention_days=self._props.log_retention_days,
        )
        group.grant_write(role)
        role.allow(
            "look",
            Statement(
                actions=LOOK_ACTIONS, resources=(f"arn:aws:logs:{place.region}:{place.account}:log-group:{name}:*",)
            ),
            Statement(actions=("logs:DescribeLogGroups",), resources=("*",)),
        )
        FlowLog(
            self,
            "flows",
            vpc_id=self.vpc_id,
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            max_aggregation_interval=600,
        )

    def _make_endpoints(self) -> None:
        """Private ways to AWS, for this account alone, so that nothing of a recovery goes through the NAT gateway."""
        props, place = self._props, self._props.place
        s3 = VpcEndpoint(
            self,
            "s3",
            vpc_id=self.vpc_id,
            service_name=f"com.amazonaws.{place.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=list(self.route_table_ids),
            policy=perimeter(
                "s3",
                account=place.account,
                own_resources=True,
                # ECR hands out signed addresses of the bucket in which it keeps the layers of images. Who reaches the
                # internet may read there what is public or signed; if its host is a bucket of this region, it is here.
                objects=("*",) if props.nat else (f"arn:aws:s3:::prod-{place.region}-starport-layer-bucket/*",),
            ),
        )
        for service in props.services:
            prefix, _ = ENDPOINTS[service]
            self._interface(
                service.replace(".", "-"), service, region=place.region, policy=perimeter(prefix, account=place.account)
            )
        if props.peer_region:
            self._interface(
                "peer-s3",
                "s3",
                region=props.peer_region,
                policy=perimeter("s3", account=place.account, own_resources=True),
            )
        for group in self._callers:
            if "endpoints" in props.groups:
                self.admit(group, to="endpoints", port=HTTPS)
            # The gateway endpoint is a route, whose addresses a group lets out to like any other.
            VpcSecurityGroupEgressRule(
                self,
                f"{group}-to-s3",
                security_group_id=self.group_id(group),
                description="To S3",
                ip_protocol="tcp",
                from_port=HTTPS,
                to_port=HTTPS,
                prefix_list_id=s3.prefix_list_id,
            )

    def _interface(self, id_: str, service: str, *, region: str, policy: str) -> None:
        """An interface endpoint, under the service's own name within the network."""
        elsewhere = region != self._props.place.region
        VpcEndpoint(
            self,
            id_,
            vpc_id=self.vpc_id,
            service_name=f"com.amazonaws.{region}.{service}",
            service_region=region if elsewhere else None,
            vpc_endpoint_type="Interface",
            subnet_ids=list(self.private_subnet_ids),
            security_group_ids=[self.group_id("endpoints")],
            private_dns_enabled=True,
            # S3's own default keeps the name from everybody inside, for whom there is a gateway endpoint; that one does
            # not reach the other region.
            dns_options=VpcEndpointDnsOptions(private_dns_only_for_inbound_resolver_endpoint=False)
            if elsewhere
            else None,
            policy=policy,
        )

    def group_id(self, group: str) -> str:
        """A reference to the id of one of the network's groups."""
        return self._group_ids[group]

    @property
    def _callers(self) -> tuple[str, ...]:
        """Who of the groups calls AWS."""
        return tuple(group for group in CALLERS if group in self._props.groups)

    def attachment(self, group: str, *, zone: int | None = None) -> Attachment:
        """The private subnets, or the one of them that `zone` counts to, and one of the groups: what a task or a
        function joins."""
        subnets = self.private_subnet_ids
        if zone is not None:
            subnets = (subnets[zone % len(subnets)],)
        return Attachment(subnet_ids=subnets, security_group_ids=(self.group_id(group),))

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
        VpcSecurityGroupEgressRule(
            self,
            f"{who}-out-to-{to}-{port}",
            security_group_id=self.group_id(who),
            description=f"To {to}",
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            referenced_security_group_id=self.group_id(to),
        )

    def let_out(self, who: str, *, port: int) -> None:
        """Let the members of a group reach a port anywhere, the internet included where there is a way. It may be said
        again."""
        if (who, port) in self._let_out:
            return
        self._let_out.add((who, port))
        VpcSecurityGroupEgressRule(
            self,
            f"{who}-out-{port}",
            security_group_id=self.group_id(who),
            description=f"To {port} anywhere",
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv4="0.0.0.0/0",
        )

"""What Terraform calls for each type of resource that the stacks have, and on what. Pure: nothing here starts node.

A plan makes the calls of `look`, an apply those of `change` too. Which there are was read in the provider's public code
of several releases, and was not compared with that of the pinned one. Which of them can be bound to a resource, and how
its ARN is written, is after the Service Authorization Reference ("Actions, resources, and condition keys" of each
service).

What tests hold: each type that is synthesized has its entry and none is unused, AWS's models have each call, and each
name that a stack gives is within what its calls are bound to. Nothing but a real account proves that no call is
missing: an apply that lacks one fails, and its error names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls to one service, as names with blanks between, on the resources `on`.

    In an ARN, {region} becomes each region of the environment, {account} its account, {prefix} what its names start
    with, and {cluster} the operator's own of EKS. A call that the reference gives no resource for (UNBOUND) is allowed
    on all, whatever `on` says.
    """

    service: str
    look: str = ""
    change: str = ""
    on: tuple[str, ...] = ()
    condition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _arns(service: str, *resources: str) -> tuple[str, ...]:
    return tuple(f"arn:aws:{service}:{{region}}:{{account}}:{resource}" for resource in resources)


def _either(service: str, resource: str, tail: str = "") -> tuple[str, ...]:
    """A name that is the prefix itself or starts with it and a hyphen: `prod` is not `production`."""
    return _arns(service, f"{resource}{{prefix}}{tail}", f"{resource}{{prefix}}-*{tail}")


_ALARMS = _arns("cloudwatch", "alarm:{prefix}-*")
# Application Auto Scaling tries with an alarm without a name whether its caller may make one.
_TRACKING = _arns("cloudwatch", "alarm:*")
# And not the state's, which nobody who deploys may change.
_BUCKETS = ("arn:aws:s3:::{prefix}-vault-{account}-{region}", "arn:aws:s3:::{prefix}-lease-{account}-{region}")
_CERTIFICATES = _arns("acm", "certificate/*")
_CLUSTERS = _either("ecs", "cluster/")
_DASHBOARDS = ("arn:aws:cloudwatch::{account}:dashboard/{prefix}", "arn:aws:cloudwatch::{account}:dashboard/{prefix}-*")
_FUNCTIONS = _arns("lambda", "function:{prefix}-*")
_GLOBAL_CLUSTERS = ("arn:aws:rds::{account}:global-cluster:{prefix}-*",)
_HEALTH_CHECKS = ("arn:aws:route53:::healthcheck/*",)
_KEYS = _arns("kms", "key/*")
_LOGS = tuple(
    arn
    for place in ("/relight/", "/aws/lambda/", "/aws/rds/cluster/", "/aws/rds/instance/", "/aws/vendedlogs/states/")
    for arn in _arns("logs", f"log-group:{place}{{prefix}}-*")
) + _either("logs", "log-group:/aws/ecs/containerinsights/", "/performance*")
_PROFILES = ("arn:aws:iam::{account}:instance-profile/{prefix}-*",)
_QUEUES = _arns("sqs", "{prefix}-*")
_ROLES = ("arn:aws:iam::{account}:role/{prefix}-*",)
_RULES = _arns("events", "rule/{prefix}-*")
_SCHEDULES = _arns("scheduler", "schedule/default/{prefix}-*")
_SECRETS = _arns("secretsmanager", "secret:relight/{environment}/*")
_SERVICES = _either("ecs", "service/", "/*")
_SWITCHES = ("arn:aws:route53-recovery-control::{account}:*",)
_TARGETS = _arns("application-autoscaling", "scalable-target/*")
_TASKS = _arns("ecs", "task-definition/{prefix}-*:*")
_TOPICS = _arns("sns", "{prefix}-*")
_ZONES = ("arn:aws:route53:::hostedzone/*",)
_CHANGES = ("arn:aws:route53:::change/*",)

_DATABASES = _arns("rds", "db:{prefix}-*")
_DB_CLUSTERS = _arns("rds", "cluster:{prefix}-*")
_DB_GROUPS = _arns("rds", "pg:{prefix}-*")
_CLUSTER_GROUPS = _arns("rds", "cluster-pg:{prefix}-*")
_SUBNET_GROUPS = _arns("rds", "subgrp:{prefix}-*")
# What an instance or a cluster is made of, is copied from, or leaves behind.
_AROUND_DATABASES = (
    *_DATABASES,
    *_DB_CLUSTERS,
    *_DB_GROUPS,
    *_CLUSTER_GROUPS,
    *_SUBNET_GROUPS,
    *_GLOBAL_CLUSTERS,
    *_arns("rds", "og:default*", "pg:default*", "snapshot:{prefix}-*", "cluster-snapshot:{prefix}-*"),
)


def _linked(service: str) -> Calls:
    """The first use of some services in an account makes a role that AWS itself defines."""
    return Calls(
        service="iam",
        change="CreateServiceLinkedRole",
        on=(f"arn:aws:iam::{{account}}:role/aws-service-role/{service}/*",),
        condition={"StringEquals": {"iam:AWSServiceName": service}},
    )


def _ec2(*resources: str, look: str = "", change: str = "") -> Calls:
    return Calls(service="ec2", look=look, change=change, on=_arns("ec2", *resources))


def _s3(*, look: str, change: str) -> tuple[Calls, ...]:
    return (Calls(service="s3", look=look, change=change, on=_BUCKETS),)


# To whom is said by the roles' own trust; deploy_policy narrows it to them.
_PASS_ROLE = Calls(service="iam", change="PassRole", on=_ROLES)
_KEY_LOOK = "DescribeKey GetKeyPolicy GetKeyRotationStatus ListResourceTags"
_KEY_CHANGE = "PutKeyPolicy UpdateKeyDescription EnableKey DisableKey ScheduleKeyDeletion"
# A service that is given a key of ours asks as whoever gives it.
_RDS_KEYS = Calls(
    service="kms",
    change="CreateGrant Decrypt DescribeKey GenerateDataKey",
    on=_KEYS,
    condition={"StringLike": {"kms:ViaService": "rds.*.amazonaws.com"}},
)
_SECRET_KEYS = Calls(
    service="kms",
    look="Decrypt",
    change="Encrypt GenerateDataKey",
    on=_KEYS,
    condition={"StringLike": {"kms:ViaService": "secretsmanager.*.amazonaws.com"}},
)
# Interfaces that Lambda or a balancer left behind keep a group or a subnet from being removed.
_INTERFACES_LEFT = _ec2(
    "instance/*",
    "network-interface/*",
    look="DescribeNetworkInterfaces",
    change="DeleteNetworkInterface DetachNetworkInterface",
)
# RDS looks at a network as whoever makes a database in it.
_RDS_NETWORK = _ec2(
    "vpc/*",
    change="DescribeAccountAttributes DescribeAvailabilityZones DescribeInternetGateways DescribeSecurityGroups "
    "DescribeSubnets DescribeVpcAttribute DescribeVpcs",
)
_GROUP_RULES = "DescribeSecurityGroupRules DescribeSecurityGroups"
_INSTANCE = Calls(
    service="rds",
    look="DescribeDBInstances ListTagsForResource",
    change="CreateDBInstance CreateDBInstanceReadReplica CreateDBSnapshot DeleteDBInstance ModifyDBInstance "
    "PromoteReadReplica RebootDBInstance",
    on=_AROUND_DATABASES,
)
_BALANCER_SERVICE = "elasticloadbalancing"
_BALANCERS = _either(_BALANCER_SERVICE, "loadbalancer/*/", "/*")
_LISTENERS = _either(_BALANCER_SERVICE, "listener/*/", "/*")
_TARGET_GROUPS = _either(_BALANCER_SERVICE, "targetgroup/", "/*")

CALLS: dict[str, tuple[Calls, ...]] = {
    "aws_acm_certificate": (
        Calls(
            service="acm",
            look="DescribeCertificate ListTagsForCertificate",
            change="DeleteCertificate RequestCertificate UpdateCertificateOptions",
            on=_CERTIFICATES,
        ),
    ),
    "aws_acm_certificate_validation": (Calls(service="acm", look="DescribeCertificate", on=_CERTIFICATES),),
    # Application Auto Scaling tries whether its caller may do to the service and its alarms what it will do itself.
    "aws_appautoscaling_policy": (
        Calls(
            service="application-autoscaling",
            look="DescribeScalingPolicies",
            change="DeleteScalingPolicy PutScalingPolicy",
            on=_TARGETS,
        ),
        Calls(
            service="cloudwatch",
            change="DeleteAlarms DescribeAlarms PutMetricAlarm",
            on=_TRACKING,
        ),
    ),
    "aws_appautoscaling_target": (
        Calls(
            service="application-autoscaling",
            look="DescribeScalableTargets ListTagsForResource",
            change="DeregisterScalableTarget RegisterScalableTarget",
            on=_TARGETS,
        ),
        Calls(service="ecs", change="DescribeServices UpdateService", on=_SERVICES),
        _linked("ecs.application-autoscaling.amazonaws.com"),
    ),
    "aws_chatbot_slack_channel_configuration": (
        Calls(
            service="chatbot",
            look="DescribeSlackChannelConfigurations ListTagsForResource",
            change="CreateSlackChannelConfiguration DeleteSlackChannelConfiguration UpdateSlackChannelConfiguration",
            on=("arn:aws:chatbot::{account}:chat-configuration/slack-channel/{prefix}-*",),
        ),
        _PASS_ROLE,
        _linked("management.chatbot.amazonaws.com"),
    ),
    "aws_cloudwatch_dashboard": (
        Calls(service="cloudwatch", look="GetDashboard", change="DeleteDashboards PutDashboard", on=_DASHBOARDS),
    ),
    "aws_cloudwatch_event_rule": (
        Calls(service="events", look="DescribeRule ListTagsForResource", change="DeleteRule PutRule", on=_RULES),
    ),
    "aws_cloudwatch_event_target": (
        Calls(service="events", look="ListTargetsByRule", change="PutTargets RemoveTargets", on=_RULES),
    ),
    "aws_cloudwatch_log_group": (
        Calls(
            service="logs",
            look="DescribeLogGroups ListTagsForResource",
            change="AssociateKmsKey CreateLogGroup DeleteLogGroup DeleteRetentionPolicy DisassociateKmsKey "
            "PutRetentionPolicy",
            on=_LOGS,
        ),
    ),
    "aws_cloudwatch_metric_alarm": (
        Calls(
            service="cloudwatch",
            look="DescribeAlarms ListTagsForResource",
            change="DeleteAlarms PutMetricAlarm",
            on=_ALARMS,
        ),
    ),
    "aws_db_instance": (_INSTANCE, _RDS_KEYS, _RDS_NETWORK, _linked("rds.amazonaws.com")),
    "aws_db_instance_automated_backups_replication": (
        Calls(
            service="rds",
            look="DescribeDBInstanceAutomatedBackups DescribeDBInstances",
            change="StartDBInstanceAutomatedBackupsReplication StopDBInstanceAutomatedBackupsReplication",
            on=(*_DATABASES, *_arns("rds", "auto-backup:*")),
        ),
        _RDS_KEYS,
    ),
    "aws_db_parameter_group": (
        Calls(
            service="rds",
            look="DescribeDBParameterGroups DescribeDBParameters ListTagsForResource",
            change="CreateDBParameterGroup DeleteDBParameterGroup ModifyDBParameterGroup ResetDBParameterGroup",
            on=_DB_GROUPS,
        ),
    ),
    "aws_db_subnet_group": (
        Calls(
            service="rds",
            look="DescribeDBSubnetGroups ListTagsForResource",
            change="CreateDBSubnetGroup DeleteDBSubnetGroup ModifyDBSubnetGroup",
            on=_SUBNET_GROUPS,
        ),
        _RDS_NETWORK,
    ),
    "aws_default_security_group": (
        _ec2(
            "security-group/*",
            look=_GROUP_RULES,
            change="RevokeSecurityGroupEgress RevokeSecurityGroupIngress",
        ),
    ),
    "aws_ecr_replication_configuration": (
        Calls(service="ecr", look="DescribeRegistry", change="PutReplicationConfiguration"),
        _linked("replication.ecr.amazonaws.com"),
    ),
    "aws_ecs_cluster": (
        Calls(
            service="ecs",
            look="DescribeClusters",
            change="CreateCluster DeleteCluster UpdateCluster UpdateClusterSettings",
            on=_CLUSTERS,
        ),
        _linked("ecs.amazonaws.com"),
    ),
    "aws_ecs_service": (
        Calls(
            service="ecs",
            look="DescribeServices",
            change="CreateService DeleteService UpdateService",
            on=_SERVICES,
        ),
        _PASS_ROLE,
    ),
    "aws_ecs_task_definition": (
        Calls(
            service="ecs",
            look="DescribeTaskDefinition",
            change="DeregisterTaskDefinition RegisterTaskDefinition",
            on=_TASKS,
        ),
        _PASS_ROLE,
    ),
    "aws_eip": (
        _ec2(
            "elastic-ip/*",
            look="DescribeAddresses DescribeAddressesAttribute",
            change="AllocateAddress DisassociateAddress ReleaseAddress",
        ),
        _INTERFACES_LEFT,
    ),
    "aws_eks_access_entry": (
        Calls(
            service="eks",
            look="DescribeAccessEntry ListTagsForResource",
            change="CreateAccessEntry DeleteAccessEntry UpdateAccessEntry",
            on=_arns("eks", "access-entry/{cluster}/*", "cluster/{cluster}"),
        ),
        _PASS_ROLE,
    ),
    "aws_flow_log": (
        _ec2(
            "vpc-flow-log/*",
            "vpc/*",
            look="DescribeFlowLogs",
            change="CreateFlowLogs DeleteFlowLogs",
        ),
        _PASS_ROLE,
    ),
    "aws_iam_instance_profile": (
        Calls(
            service="iam",
            look="GetInstanceProfile",
            change="AddRoleToInstanceProfile CreateInstanceProfile DeleteInstanceProfile RemoveRoleFromInstanceProfile",
            on=_PROFILES,
        ),
        Calls(service="iam", look="GetRole", on=_ROLES),
        _PASS_ROLE,
    ),
    "aws_iam_role": (
        Calls(
            service="iam",
            look="GetRole GetRolePolicy ListAttachedRolePolicies ListRolePolicies",
            change="CreateRole DeleteRole ListInstanceProfilesForRole UpdateAssumeRolePolicy UpdateRole "
            "UpdateRoleDescription",
            on=_ROLES,
        ),
    ),
    "aws_iam_role_policy": (
        Calls(service="iam", look="GetRolePolicy", change="DeleteRolePolicy PutRolePolicy", on=_ROLES),
    ),
    "aws_internet_gateway": (
        _ec2(
            "internet-gateway/*",
            "vpc/*",
            look="DescribeInternetGateways",
            change="AttachInternetGateway CreateInternetGateway DeleteInternetGateway DetachInternetGateway",
        ),
        _INTERFACES_LEFT,
    ),
    "aws_kms_alias": (
        Calls(
            service="kms",
            look="ListAliases",
            change="CreateAlias DeleteAlias UpdateAlias",
            on=(*_arns("kms", "alias/{prefix}-*"), *_KEYS),
        ),
    ),
    "aws_kms_key": (
        Calls(
            service="kms",
            look=_KEY_LOOK,
            change=f"CreateKey DisableKeyRotation EnableKeyRotation {_KEY_CHANGE}",
            on=_KEYS,
        ),
        _linked("mrk.kms.amazonaws.com"),
    ),
    "aws_kms_replica_key": (
        Calls(service="kms", look=_KEY_LOOK, change=f"CreateKey ReplicateKey {_KEY_CHANGE}", on=_KEYS),
    ),
    "aws_lambda_function": (
        Calls(
            service="lambda",
            look="GetFunction GetFunctionCodeSigningConfig GetFunctionConcurrency GetFunctionConfiguration "
            "ListVersionsByFunction",
            change="CreateFunction DeleteFunction DeleteFunctionConcurrency PutFunctionConcurrency UpdateFunctionCode "
            "UpdateFunctionConfiguration",
            on=_FUNCTIONS,
        ),
        Calls(service="ec2", change="DescribeSecurityGroups DescribeSubnets DescribeVpcs"),
        _PASS_ROLE,
    ),
    "aws_lambda_function_event_invoke_config": (
        Calls(
            service="lambda",
            look="GetFunctionEventInvokeConfig",
            change="DeleteFunctionEventInvokeConfig PutFunctionEventInvokeConfig",
            on=_FUNCTIONS,
        ),
    ),
    "aws_lambda_permission": (
        Calls(service="lambda", look="GetPolicy", change="AddPermission RemovePermission", on=_FUNCTIONS),
    ),
    "aws_lb": (
        Calls(
            service=_BALANCER_SERVICE,
            look="DescribeCapacityReservation DescribeLoadBalancerAttributes DescribeLoadBalancers DescribeTags",
            change="CreateLoadBalancer DeleteLoadBalancer ModifyLoadBalancerAttributes SetIpAddressType "
            "SetSecurityGroups SetSubnets",
            on=_BALANCERS,
        ),
        Calls(
            service="ec2",
            change="DescribeAccountAttributes DescribeAddresses DescribeInternetGateways DescribeSecurityGroups "
            "DescribeSubnets DescribeVpcs",
        ),
        _INTERFACES_LEFT,
        _linked("elasticloadbalancing.amazonaws.com"),
    ),
    "aws_lb_listener": (
        Calls(
            service=_BALANCER_SERVICE,
            look="DescribeListenerAttributes DescribeListeners DescribeTags",
            change="CreateListener DeleteListener ModifyListener ModifyListenerAttributes",
            on=(*_BALANCERS, *_LISTENERS),
        ),
    ),
    "aws_lb_target_group": (
        Calls(
            service=_BALANCER_SERVICE,
            look="DescribeTags DescribeTargetGroupAttributes DescribeTargetGroups DescribeTargetHealth",
            change="CreateTargetGroup DeleteTargetGroup ModifyTargetGroup ModifyTargetGroupAttributes",
            on=_TARGET_GROUPS,
        ),
    ),
    "aws_nat_gateway": (
        _ec2(
            "elastic-ip/*",
            "natgateway/*",
            "subnet/*",
            "vpc/*",
            look="DescribeNatGateways",
            change="CreateNatGateway DeleteNatGateway",
        ),
    ),
    "aws_rds_cluster": (
        Calls(
            service="rds",
            look="DescribeDBClusters DescribeGlobalClusters ListTagsForResource",
            change="CreateDBCluster CreateDBClusterSnapshot DeleteDBCluster ModifyDBCluster RemoveFromGlobalCluster",
            on=_AROUND_DATABASES,
        ),
        _RDS_KEYS,
        _RDS_NETWORK,
        _linked("rds.amazonaws.com"),
    ),
    "aws_rds_cluster_instance": (_INSTANCE, _RDS_KEYS, _RDS_NETWORK),
    "aws_rds_cluster_parameter_group": (
        Calls(
            service="rds",
            look="DescribeDBClusterParameterGroups DescribeDBClusterParameters ListTagsForResource",
            change="CreateDBClusterParameterGroup DeleteDBClusterParameterGroup ModifyDBClusterParameterGroup "
            "ResetDBClusterParameterGroup",
            on=_CLUSTER_GROUPS,
        ),
    ),
    "aws_rds_global_cluster": (
        Calls(
            service="rds",
            look="DescribeDBClusters DescribeGlobalClusters ListTagsForResource",
            change="CreateGlobalCluster DeleteGlobalCluster ModifyGlobalCluster RemoveFromGlobalCluster",
            on=(*_GLOBAL_CLUSTERS, *_DB_CLUSTERS),
        ),
    ),
    "aws_route53_health_check": (
        Calls(
            service="route53",
            look="GetHealthCheck ListTagsForResource",
            change="CreateHealthCheck DeleteHealthCheck UpdateHealthCheck",
            on=_HEALTH_CHECKS,
        ),
    ),
    "aws_route53_record": (
        Calls(
            service="route53",
            look="GetHostedZone ListResourceRecordSets",
            change="ChangeResourceRecordSets",
            on=_ZONES,
        ),
        Calls(service="route53", change="GetChange", on=_CHANGES),
    ),
    "aws_route53_zone": (
        Calls(
            service="route53",
            look="GetHostedZone ListResourceRecordSets ListTagsForResource",
            change="AssociateVPCWithHostedZone CreateHostedZone DeleteHostedZone DisassociateVPCFromHostedZone "
            "GetDNSSEC UpdateHostedZoneComment",
            on=_ZONES,
        ),
        Calls(service="route53", change="GetChange", on=_CHANGES),
        Calls(service="ec2", change="DescribeVpcs"),
    ),
    "aws_route53recoverycontrolconfig_cluster": (
        Calls(
            service="route53-recovery-control-config",
            look="DescribeCluster ListTagsForResource",
            change="CreateCluster DeleteCluster UpdateCluster",
            on=_SWITCHES,
        ),
    ),
    "aws_route53recoverycontrolconfig_control_panel": (
        Calls(
            service="route53-recovery-control-config",
            look="DescribeControlPanel ListTagsForResource",
            change="CreateControlPanel DeleteControlPanel UpdateControlPanel",
            on=_SWITCHES,
        ),
    ),
    "aws_route53recoverycontrolconfig_routing_control": (
        Calls(
            service="route53-recovery-control-config",
            look="DescribeRoutingControl",
            change="CreateRoutingControl DeleteRoutingControl UpdateRoutingControl",
            on=_SWITCHES,
        ),
    ),
    "aws_route53recoverycontrolconfig_safety_rule": (
        Calls(
            service="route53-recovery-control-config",
            look="DescribeSafetyRule ListTagsForResource",
            change="CreateSafetyRule DeleteSafetyRule UpdateSafetyRule",
            on=_SWITCHES,
        ),
    ),
    "aws_route_table": (
        _ec2(
            "route-table/*",
            "vpc/*",
            look="DescribeRouteTables",
            change="CreateRoute CreateRouteTable DeleteRoute DeleteRouteTable DisassociateRouteTable ReplaceRoute",
        ),
    ),
    "aws_route_table_association": (
        _ec2(
            "route-table/*",
            "subnet/*",
            look="DescribeRouteTables",
            change="AssociateRouteTable DisassociateRouteTable ReplaceRouteTableAssociation",
        ),
    ),
    # The provider looks at all that could be said of a bucket, whether or not this resource says it.
    "aws_s3_bucket": _s3(
        look="GetAccelerateConfiguration GetBucketAcl GetBucketCORS GetBucketLocation GetBucketLogging "
        "GetBucketObjectLockConfiguration GetBucketPolicy GetBucketRequestPayment GetBucketTagging "
        "GetBucketVersioning GetBucketWebsite GetEncryptionConfiguration GetLifecycleConfiguration "
        "GetReplicationConfiguration ListBucket ListTagsForResource",
        change="CreateBucket DeleteBucket PutBucketObjectLockConfiguration PutBucketVersioning",
    ),
    "aws_s3_bucket_lifecycle_configuration": _s3(look="GetLifecycleConfiguration", change="PutLifecycleConfiguration"),
    "aws_s3_bucket_object_lock_configuration": _s3(
        look="GetBucketObjectLockConfiguration", change="PutBucketObjectLockConfiguration"
    ),
    "aws_s3_bucket_ownership_controls": _s3(look="GetBucketOwnershipControls", change="PutBucketOwnershipControls"),
    "aws_s3_bucket_policy": _s3(look="GetBucketPolicy", change="DeleteBucketPolicy PutBucketPolicy"),
    "aws_s3_bucket_public_access_block": _s3(look="GetBucketPublicAccessBlock", change="PutBucketPublicAccessBlock"),
    "aws_s3_bucket_replication_configuration": (
        *_s3(look="GetReplicationConfiguration", change="PutReplicationConfiguration"),
        _PASS_ROLE,
    ),
    "aws_s3_bucket_server_side_encryption_configuration": _s3(
        look="GetEncryptionConfiguration", change="PutEncryptionConfiguration"
    ),
    "aws_s3_bucket_versioning": _s3(look="GetBucketVersioning", change="PutBucketVersioning"),
    "aws_scheduler_schedule": (
        Calls(
            service="scheduler",
            look="GetSchedule",
            change="CreateSchedule DeleteSchedule UpdateSchedule",
            on=_SCHEDULES,
        ),
        _PASS_ROLE,
    ),
    "aws_secretsmanager_secret": (
        Calls(
            service="secretsmanager",
            look="DescribeSecret GetResourcePolicy",
            change="CreateSecret DeleteSecret RemoveRegionsFromReplication ReplicateSecretToRegions UpdateSecret",
            on=_SECRETS,
        ),
        _SECRET_KEYS,
    ),
    # 6.25.0 reads a version's value even where it is write-only; later ones ask for the list of versions alone.
    "aws_secretsmanager_secret_version": (
        Calls(
            service="secretsmanager",
            look="DescribeSecret GetSecretValue ListSecretVersionIds",
            change="PutSecretValue UpdateSecretVersionStage",
            on=_SECRETS,
        ),
        _SECRET_KEYS,
    ),
    "aws_security_group": (
        _ec2(
            "security-group/*",
            "vpc/*",
            look=_GROUP_RULES,
            change="CreateSecurityGroup DeleteSecurityGroup RevokeSecurityGroupEgress RevokeSecurityGroupIngress",
        ),
        _INTERFACES_LEFT,
    ),
    "aws_sfn_state_machine": (
        Calls(
            service="states",
            look="DescribeStateMachine ListStateMachineVersions ListTagsForResource ValidateStateMachineDefinition",
            change="CreateStateMachine DeleteStateMachine UpdateStateMachine",
            on=_arns("states", "stateMachine:{prefix}-*"),
        ),
        _PASS_ROLE,
    ),
    "aws_sns_topic": (
        Calls(
            service="sns",
            look="GetTopicAttributes ListTagsForResource",
            change="CreateTopic DeleteTopic SetTopicAttributes",
            on=_TOPICS,
        ),
    ),
    "aws_sns_topic_subscription": (
        Calls(
            service="sns",
            look="GetSubscriptionAttributes",
            change="SetSubscriptionAttributes Subscribe Unsubscribe",
            on=_TOPICS,
        ),
    ),
    "aws_sqs_queue": (
        Calls(
            service="sqs",
            look="GetQueueAttributes GetQueueUrl ListQueueTags",
            change="CreateQueue DeleteQueue SetQueueAttributes",
            on=_QUEUES,
        ),
    ),
    "aws_sqs_queue_policy": (Calls(service="sqs", look="GetQueueAttributes", change="SetQueueAttributes", on=_QUEUES),),
    "aws_subnet": (
        _ec2(
            "subnet/*",
            "vpc/*",
            look="DescribeSubnets",
            change="CreateSubnet DeleteSubnet ModifySubnetAttribute",
        ),
        _INTERFACES_LEFT,
    ),
    "aws_vpc": (
        _ec2(
            "vpc/*",
            look="DescribeNetworkAcls DescribeRouteTables DescribeSecurityGroups DescribeVpcAttribute DescribeVpcs",
            change="CreateTags CreateVpc DeleteTags DeleteVpc ModifyVpcAttribute",
        ),
    ),
    "aws_vpc_endpoint": (
        _ec2(
            "route-table/*",
            "security-group/*",
            "subnet/*",
            "vpc-endpoint/*",
            "vpc/*",
            look="DescribePrefixLists DescribeVpcEndpoints",
            change="CreateVpcEndpoint DeleteVpcEndpoints ModifyVpcEndpoint",
        ),
        # An endpoint for another region's S3.
        Calls(service="vpce", change="AllowMultiRegion", on=_arns("ec2", "vpc-endpoint/*", "vpc-endpoint-service/*")),
        # A private name for a service is a zone that EC2 joins to the network as whoever makes the endpoint.
        Calls(service="route53", change="AssociateVPCWithHostedZone", on=_ZONES),
    ),
    "aws_vpc_security_group_egress_rule": (
        _ec2(
            "security-group/*",
            "security-group-rule/*",
            look=_GROUP_RULES,
            change="AuthorizeSecurityGroupEgress ModifySecurityGroupRules RevokeSecurityGroupEgress",
        ),
    ),
    "aws_vpc_security_group_ingress_rule": (
        _ec2(
            "security-group/*",
            "security-group-rule/*",
            look=_GROUP_RULES,
            change="AuthorizeSecurityGroupIngress ModifySecurityGroupRules RevokeSecurityGroupIngress",
        ),
    ),
    "data.aws_route53_zone": (
        Calls(
            service="route53",
            look="GetHostedZone ListHostedZones ListResourceRecordSets ListTagsForResource",
            on=_ZONES,
        ),
    ),
    # Read anew whenever a plan is made, and kept in none: so whoever plans may read them.
    "ephemeral.aws_secretsmanager_random_password": (Calls(service="secretsmanager", look="GetRandomPassword"),),
    "ephemeral.aws_secretsmanager_secret_version": (
        Calls(service="secretsmanager", look="GetSecretValue", on=_SECRETS),
        _SECRET_KEYS,
    ),
}

# The calls that cannot be bound to a resource: the reference names none for them, or only ones that are not there yet.
UNBOUND: dict[str, str] = {
    "acm": "RequestCertificate",
    "application-autoscaling": "DescribeScalableTargets DescribeScalingPolicies",
    "chatbot": "CreateSlackChannelConfiguration DescribeSlackChannelConfigurations ListTagsForResource",
    "ec2": "DescribeAccountAttributes DescribeAddresses DescribeAddressesAttribute DescribeAvailabilityZones "
    "DescribeFlowLogs DescribeInternetGateways DescribeNatGateways DescribeNetworkAcls DescribeNetworkInterfaces "
    "DescribePrefixLists DescribeRouteTables DescribeSecurityGroupRules DescribeSecurityGroups DescribeSubnets "
    "DescribeVpcEndpoints DescribeVpcs",
    "ecr": "DescribeRegistry PutReplicationConfiguration",
    "ecs": "DeregisterTaskDefinition DescribeTaskDefinition",
    _BALANCER_SERVICE: "DescribeCapacityReservation DescribeListenerAttributes DescribeListeners "
    "DescribeLoadBalancerAttributes DescribeLoadBalancers DescribeTags DescribeTargetGroupAttributes "
    "DescribeTargetGroups DescribeTargetHealth",
    "kms": "CreateKey ListAliases",
    "logs": "DescribeLogGroups",
    "route53": "CreateHealthCheck CreateHostedZone ListHostedZones",
    "route53-recovery-control-config": "CreateCluster",
    "secretsmanager": "GetRandomPassword",
    "states": "ValidateStateMachineDefinition",
}

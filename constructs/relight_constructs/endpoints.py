"""Which of AWS's services something in a region's network calls, and who does. Pure: nothing here starts node.

What runs outside the network needs no endpoint: the sentinel, and the recovery's fence, scale and announce (scale is
inside where agents run in an EKS cluster, whose API is there). Nor does
what Lambda itself does for a function: its log, its traces and its dead letters. S3 has a gateway endpoint of its own,
which costs nothing.
"""

from __future__ import annotations

# By the endpoint's name: the prefix of the service's IAM actions, and who calls it.
ENDPOINTS: dict[str, tuple[str, str]] = {
    "ecr.api": ("ecr", "ECS, to start a container, under the network interface of its task"),
    "ecr.dkr": ("ecr", "ECS, to pull an image, whose layers come from S3"),
    "ecs": (
        "ecs",
        "snapshot and hydrate start a task where the memory is too large; scale asks for servers, if inside",
    ),
    "eks": ("eks", "scale asks where the API of the agents' cluster is"),
    "kms": ("kms", "snapshot signs points; assess, hydrate and observe check the signatures"),
    "logs": ("logs", "the log driver of every container"),
    "monitoring": ("cloudwatch", "agents, observe and providers publish metrics"),
    "rds": ("rds", "promote asks RDS to promote a database that Relight made; assess and observe, how old backups are"),
    "secretsmanager": ("secretsmanager", "each function reads its connections, and ECS a container's secrets"),
    "sns": ("sns", "an agent that has been on a fallback provider for long tells people"),
}
# What every region needs, whoever made its database.
USUAL = ("ecr.api", "ecr.dkr", "ecs", "kms", "logs", "monitoring", "secretsmanager", "sns")
# What a place for rehearsals needs, in its own network.
REHEARSING = ("ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "secretsmanager")

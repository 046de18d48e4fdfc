"""What deployed policies say by conditions and resources that the emulator does not know, said in its own terms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relight_drill.deployment import Deployment
    from relight_drill.emulator import Emulator


def let_conditions_through(emulator: Emulator, deployment: Deployment, *, region: str) -> None:
    """Change those policies. `region` is any.

    On AWS they allow the key that carries the signing key's alias, where the emulator authorizes a call that names an
    alias as one on the alias itself; metrics of Relight's namespace, where it knows of no namespace; a list of the
    tasks of one cluster, where it knows no such condition; and to look at such tasks, where it looks at the cluster.
    """
    iam = emulator.client("iam", region)
    for item in deployment.of("aws_iam_role_policy"):
        document = json.loads(item.arguments["policy"])
        changed = False
        for statement in document["Statement"]:
            if statement["Action"] in (["kms:Sign"], ["kms:Verify"]):
                alias = statement.pop("Condition")["ForAnyValue:StringEquals"]["kms:ResourceAliases"]
                statement["Resource"] = [key.removesuffix("key/*") + alias for key in statement["Resource"]]
                changed = True
            elif statement["Action"] in (["cloudwatch:PutMetricData"], ["ecs:ListTasks"]):
                del statement["Condition"]
                changed = True
            elif statement["Action"] == ["ecs:DescribeTasks"]:
                clusters = [task.removesuffix("/*").replace(":task/", ":cluster/") for task in statement["Resource"]]
                statement["Resource"] += clusters
                changed = True
        if changed:
            iam.put_role_policy(
                RoleName=item.arguments["role"],
                PolicyName=item.arguments["name"],
                PolicyDocument=json.dumps(document),
            )

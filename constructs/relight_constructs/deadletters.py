"""Where calls and events go that could not be delivered, or whose function kept failing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relight_constructs.access import ENCRYPT_ACTIONS
from relight_constructs.alarm import MetricAlarm
from relight_constructs.bindings import Construct, SqsQueue, SqsQueuePolicy
from relight_constructs.policies import VERSION, Statement
from relight_constructs.props import MetricAlarmProps

if TYPE_CHECKING:
    from relight_constructs.grants import Tellable
    from relight_constructs.policies import Grantee
    from relight_constructs.props import DeadLettersProps

SEND_ACTIONS = ("sqs:SendMessage",)

# SQS's own limit: time enough for whoever comes back from a holiday.
RETENTION_S = 14 * 24 * 3600


class DeadLetters(Construct):
    """Define the encrypted queue of a stack's dead letters, kept for 14 days.

    Rules of EventBridge take on no role for it, so its own policy lets those of our account and prefix in.
    """

    def __init__(self, scope: Construct, id_: str, props: DeadLettersProps) -> None:
        super().__init__(scope, id_)
        place = props.place
        self._props = props
        self._name = f"{place.prefix}-dead-letters"
        self.arn = f"arn:aws:sqs:{place.region}:{place.account}:{self._name}"
        queue = SqsQueue(
            self,
            "queue",
            name=self._name,
            kms_master_key_id=props.key.arn,
            message_retention_seconds=RETENTION_S,
        )
        document = {
            "Version": VERSION,
            "Statement": [
                {
                    "Sid": "RulesSend",
                    "Effect": "Allow",
                    "Principal": {"Service": "events.amazonaws.com"},
                    "Action": list(SEND_ACTIONS),
                    "Resource": self.arn,
                    "Condition": {
                        "ArnLike": {
                            "aws:SourceArn": f"arn:aws:events:{place.region}:{place.account}:rule/{place.prefix}-*"
                        }
                    },
                },
                {
                    "Sid": "TlsOnly",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sqs:*",
                    "Resource": self.arn,
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                },
            ],
        }
        SqsQueuePolicy(self, "policy", queue_url=queue.url, policy=json.dumps(document, separators=(",", ":")))

    def grant_send(self, grantee: Grantee) -> None:
        """Leave a letter."""
        region = self._props.place.region
        grantee.allow(
            "dead-letters",
            Statement(actions=SEND_ACTIONS, resources=(self.arn,)),
            Statement(
                actions=ENCRYPT_ACTIONS,
                resources=(self._props.key.arn,),
                condition={"StringEquals": {"kms:ViaService": f"sqs.{region}.amazonaws.com"}},
            ),
        )

    def watch(self, topic: Tellable) -> None:
        """Tell people when there is a letter."""
        MetricAlarm(
            self,
            "waiting",
            MetricAlarmProps(
                name=self._name,
                description="A call of a function was given up: the queue holds it, and the function's log says why",
                namespace="AWS/SQS",
                metric="ApproximateNumberOfMessagesVisible",
                dimensions={"QueueName": self._name},
                statistic="Maximum",
                period_s=300,
                topic=topic,
            ),
        )

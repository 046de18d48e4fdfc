"""Whom incidents reach: the topic, and what is subscribed to it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from relight_constructs.access import ENCRYPT_ACTIONS, PUBLISH_ACTIONS
from relight_constructs.bindings import (
    ChatbotSlackChannelConfiguration,
    Construct,
    SnsTopic,
    SnsTopicSubscription,
)
from relight_constructs.policies import Statement, trust_chat
from relight_constructs.role import Role

if TYPE_CHECKING:
    from relight_constructs.function import Function
    from relight_constructs.policies import Grantee
    from relight_constructs.props import SlackProps, TopicProps

# Without a guardrail a channel could do whatever its role may, and the service's own default allows everything.
NOBODY_ACTS = "arn:aws:iam::aws:policy/AWSDenyAll"


class IncidentsTopic(Construct):
    """Define the encrypted topic of incidents, which reaches nobody until somebody is subscribed."""

    def __init__(self, scope: Construct, id_: str, props: TopicProps) -> None:
        super().__init__(scope, id_)
        self._props = props
        self._topic = SnsTopic(self, "topic", name=props.name, kms_master_key_id=props.key.arn)

    @cached_property
    def arn(self) -> str:
        """A reference to its ARN."""
        return self._topic.arn

    def grant_publish(self, grantee: Grantee) -> None:
        """Tell people."""
        grantee.allow(
            "publish",
            Statement(actions=PUBLISH_ACTIONS, resources=(self._topic.arn,)),
            Statement(
                actions=ENCRYPT_ACTIONS,
                resources=(self._props.key.arn,),
                condition={"StringEquals": {"kms:ViaService": f"sns.{self._props.place.region}.amazonaws.com"}},
            ),
        )

    def email(self, address: str) -> None:
        """Tell `address`, once whoever reads it has confirmed the message that AWS sends there."""
        self._subscribe(f"email-{address.replace('@', '-at-')}", protocol="email", endpoint=address)

    def call(self, function: Function) -> None:
        """Call `function` with each incident."""
        function.admit("topic", service="sns.amazonaws.com", source_arn=self.arn)
        self._subscribe(f"call-{function.node.id}", protocol="lambda", endpoint=function.arn)

    def _subscribe(self, id_: str, *, protocol: str, endpoint: str) -> None:
        SnsTopicSubscription(self, id_, topic_arn=self._topic.arn, protocol=protocol, endpoint=endpoint)


class SlackChannel(Construct):
    """Define a Slack channel that is told what topics are told, and from which nobody can do anything in the account.

    Amazon Q Developer in chat applications delivers it, and has to be authorized in the workspace once, by hand. It
    takes a channel once in an account, whatever the region: so one configuration has the topics of all regions.
    """

    def __init__(self, scope: Construct, id_: str, props: SlackProps) -> None:
        super().__init__(scope, id_)
        role = Role(self, "role", name=props.place.role_name("slack"), trust=trust_chat())
        ChatbotSlackChannelConfiguration(
            self,
            "channel",
            configuration_name=props.name,
            iam_role_arn=role.arn,
            slack_team_id=props.team,
            slack_channel_id=props.channel,
            sns_topic_arns=list(props.topic_arns),
            guardrail_policy_arns=[NOBODY_ACTS],
            # It would make a log group by itself, in us-east-1 whatever the region, that never ends.
            logging_level="NONE",
            user_authorization_required=True,
            region=props.service_region,
        )

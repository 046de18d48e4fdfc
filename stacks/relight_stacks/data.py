"""The state database of a region, and the secrets that tell how to reach its servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight_constructs.props import SecretProps
from relight_constructs.secret import Secret

if TYPE_CHECKING:
    from relight_stacks.region import AgentStack


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The secrets of a region."""

    connections: Secret
    vector_password: Secret
    queue_password: Secret | None
    """Without one, the queue is the operator's own."""


def add_data(stack: AgentStack) -> Data:
    """Define the region's secrets."""
    connections = Secret(
        stack,
        "connections",
        SecretProps(
            name=stack.names.connections_secret,
            description="How to reach this region's own databases and queue",
            key=stack.key,
        ),
    )
    password = Secret(
        stack,
        "vector-password",
        SecretProps(
            name=stack.names.vector_password_secret,
            description="The password that this region's vector database starts with",
            key=stack.key,
        ),
    )
    queue = None
    if not stack.environment.queue.existing:
        queue = Secret(
            stack,
            "queue-password",
            SecretProps(
                name=stack.names.queue_password_secret,
                description="The password of this region's own queue: letters, digits, - and _",
                key=stack.key,
            ),
        )
    return Data(connections=connections, vector_password=password, queue_password=queue)

"""The task that does what is too large for a function, in each region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.props import WorkTaskProps
from relight_constructs.work import WorkTask
from relight_stacks.naming import in_region

if TYPE_CHECKING:
    from relight_stacks.region import AgentStack

GIB = 1024**3


def add_work(stack: AgentStack) -> WorkTask:
    """Define it from an image that holds the library: the agent's, which is in the region already, or its own."""
    environment = stack.environment
    work = WorkTask(
        stack,
        "work",
        WorkTaskProps(
            place=stack.home,
            cluster=stack.names.cluster,
            family=stack.names.family("work"),
            image=in_region(environment.work_image, stack.home.region),
            environment=stack.settings.to_env(),
            network=stack.network.attachment("functions"),
            logs_key=stack.key,
            above_bytes=environment.large_work.above_gib * GIB,
            cpu=environment.large_work.cpu,
            memory=environment.large_work.memory,
        ),
    )
    stack.data.connections.grant_read(work)
    return work

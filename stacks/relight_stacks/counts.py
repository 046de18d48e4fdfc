"""How many of everything run in a region while nothing is wrong, and what its network calls. Pure: nothing here starts
node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.config import CapacityKind, Role
from relight_constructs.endpoints import USUAL
from relight_stacks.tiers import Waiting

if TYPE_CHECKING:
    from relight_stacks.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tasks run while nothing is wrong, and how many nodes the queue has."""

    agents: int
    vectors: int
    nodes: int
    running_nodes: int


def counts(environment: Environment, role: Role) -> Counts:
    """All in the primary. In the standby, by how it waits: all, one of each, or none; a single node then is enough,
    because the queue is made anew from the ledger."""
    replicas, nodes = environment.agent.replicas, environment.queue.nodes
    everything = Counts(agents=replicas, vectors=1, nodes=nodes, running_nodes=nodes)
    if role is Role.PRIMARY:
        return everything
    return {
        Waiting.FULL: everything,
        Waiting.PILOT: Counts(agents=1, vectors=1, nodes=1, running_nodes=1),
        Waiting.NONE: Counts(agents=0, vectors=0, nodes=1, running_nodes=0),
    }[environment.shape.waiting]


def services_called(environment: Environment, role: Role) -> tuple[str, ...]:
    """The endpoints that a region's network needs, S3's aside: SNS is told where agents ask LLM providers, RDS is asked
    where a database is to be promoted, EKS where agents of its are to be scaled."""
    standby = role is Role.STANDBY
    promotes = environment.own_state and standby
    asks_cluster = environment.capacity.kind is CapacityKind.EKS and standby
    return (
        *(service for service in USUAL if service != "sns" or environment.providers),
        *(("rds",) if promotes else ()),
        *(("eks",) if asks_cluster else ()),
    )

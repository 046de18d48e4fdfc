"""The stack of the region that serves: the agent at full strength, and the snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.config import Role
from relight_constructs.access import METRICS
from relight_stacks.refs import vault_of
from relight_stacks.region import LONGEST_S, RegionStack

if TYPE_CHECKING:
    from pathlib import Path

    from relight_constructs.bindings import Construct
    from relight_stacks.environment import Environment

SNAPSHOT_RATE = "rate(5 minutes)"
SNAPSHOT_LATE_S = 300


class PrimaryStack(RegionStack):
    """Define the primary region. It needs nothing of the standby but names."""

    def __init__(self, scope: Construct, environment: Environment, *, bundle: Path) -> None:
        super().__init__(scope, environment, Role.PRIMARY, bundle=bundle, agents=environment.agent.replicas)
        # Two snapshots at once would compete for the same name.
        snapshot = self.function("snapshot", timeout_s=LONGEST_S, networked=True, at_once=1)
        self.connections.grant_read(snapshot)
        # Without the lease it seals nothing: a former primary's points must not reach the standby's vault.
        self.lease.grant_read(snapshot)
        self.signing.grant_sign(snapshot)
        self.signing.grant_check(snapshot)
        other_vault = vault_of(environment, Role.STANDBY)
        self.own_vault.grant_seal(snapshot)
        other_vault.grant_seal(snapshot)
        # The journal goes to the own vault, and away once the other region has it.
        self.own_vault.grant_archive(snapshot)
        other_vault.grant_cover(snapshot)
        other_vault.grant_bring_forward(snapshot)
        snapshot.allow_metrics(METRICS)
        self.schedule(snapshot, rate=SNAPSHOT_RATE, late_s=SNAPSHOT_LATE_S)

"""What fills a region's vector store again when its task, and with that its volume, was replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.props import BootRuleProps
from relight_constructs.recovery_machine import HYDRATE
from relight_constructs.triggers import HydrateOnBoot
from relight_stacks.functions import LONGEST_S
from relight_stacks.refs import vault_of

if TYPE_CHECKING:
    from relight_constructs.function import Function
    from relight_constructs.work import WorkTask
    from relight_stacks.region import AgentStack


def hydrate_on_boot(stack: AgentStack) -> None:
    """Define the primary's function and the rule that calls it; the standby has both in its recovery.

    Two calls at once wait for each other, and a store that holds data is left alone.
    """
    hydrate = stack.functions.make(HYDRATE, timeout_s=LONGEST_S, networked=True, more=stack.work.settings)
    stack.data.connections.grant_read(hydrate)
    stack.signing.grant_check(hydrate)
    stack.work.grant_start(hydrate)
    # What was sealed in the other region first may not have been replicated back yet.
    other_vault = vault_of(stack.environment, stack.role.other, at=stack.role)
    for grantee in (hydrate, stack.work):
        grant_hydrate(stack, grantee)
        other_vault.grant_restore(grantee)
    other_vault.grant_bring_forward(hydrate)
    HydrateOnBoot(
        stack,
        "on-boot",
        BootRuleProps(
            service=stack.services.vector,
            function=hydrate,
            dead_letters=stack.dead_letters,
        ),
    )


def grant_hydrate(stack: AgentStack, grantee: Function | WorkTask) -> None:
    """What whoever hydrates does in the region's own vault; the task has from `keep_points` what snapshots need."""
    stack.own_vault.grant_restore(grantee)
    stack.own_vault.grant_bring_forward(grantee)
    stack.own_vault.grant_record(grantee)

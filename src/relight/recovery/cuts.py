"""Taking memory writes back, in the region that may write: to a moment, or without those of tasks."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from relight.memory.api import Applier, Make
from relight.memory.cut import cut, plan_cut
from relight.memory.segments import Archive
from relight.memory.stores import open_store
from relight.recovery.points import require_lease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.memory.cut import CutPlan, Selection
    from relight.wiring import Region


def plan_region_cut(region: Region, selection: Selection) -> list[CutPlan]:
    """What leaving these writes out would change; see `plan_cut`. ConflictError where the region holds no lease."""
    require_lease(region)
    with region.state() as state:
        return plan_cut(
            store=region.store,
            state=state,
            vault=region.vault,
            archive=_archive(region),
            specs=region.specs,
            selection=selection,
            clock=region.clock,
        )


def cut_region(region: Region, plans: Sequence[CutPlan], *, into: str = "") -> dict[str, Any]:
    """Take the planned writes back, and bring the region's own store up to that; the other region's follows by itself.

    What only a snapshot has is restored for a while beside the memory, or into the store at `into`.
    """
    require_lease(region)
    with ExitStack() as stack:
        state = stack.enter_context(region.state())
        beside = region.store
        if into:
            beside = stack.enter_context(closing(open_store(region.settings.memory_store, into)))
        done = cut(
            plans=plans,
            database=region.database,
            state=state,
            beside=beside,
            vault=region.vault,
            archive=_archive(region),
            clock=region.clock,
            recall_floor=region.settings.recall_floor,
        )
        applied = {}
        for plan in plans:
            applier = Applier(store=region.store, spec=plan.spec, state=state, archive=_archive(region))
            applied[plan.spec.name] = str(applier.catch_up(make=Make.YOUNG).position)
    return {"cuts": [item.to_json() for item in done], "positions": applied}


def _archive(region: Region) -> Archive:
    return Archive(region.vault, region.peer_vault)

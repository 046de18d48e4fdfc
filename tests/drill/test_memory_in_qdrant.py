"""A drill whose memory is in Qdrant: the functions as they are bundled for it, against the stand-in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from relight.config import MemoryStore
from relight_drill.processes import ProcessGroup
from relight_drill.scenarios import SCENARIOS
from relight_drill.world import World
from relight_stacks.loading import load_named

if TYPE_CHECKING:
    from pathlib import Path

    from relight_drill.result import Outcome

pytestmark = pytest.mark.drill


def test_a_new_store_in_the_standby_is_filled(server_dir: Path) -> None:
    """The snapshot function takes a point out of Qdrant, the hydrate function fills an empty one, nothing is lost."""
    folder = server_dir / "memory-in-qdrant"
    folder.mkdir(mode=0o711)
    environment = load_named("demo").with_store(MemoryStore.QDRANT)

    async def scenario(group: ProcessGroup) -> Outcome:
        async with World(environment, folder=folder, group=group, seed=1, say=print) as world:
            return await SCENARIOS["standby-boot"].run(world, print)

    with ProcessGroup() as group:
        assert asyncio.run(scenario(group)).met
        assert group.processes == []

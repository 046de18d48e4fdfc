"""Recovery points of a region that was relit, while the one that it took over from is dark and when it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract.test_recovery import Pair, pair, remember

from relight.adapters import aws
from relight.recovery.points import take_point
from relight.recovery.run import Run, run_state
from relight.vault.points import eligible, newest_id
from relight.vault.store import Vault
from relight_drill.processes import free_port

if TYPE_CHECKING:
    from relight.wiring import Region

__all__ = ["pair"]

pytestmark = pytest.mark.servers


def darken(region: Region) -> None:
    """From here on nobody answers where the other region's vault is."""
    client = aws.client("s3", "us-east-1", endpoint_url=f"http://127.0.0.1:{free_port()}", attempts=1)
    region.__dict__["peer_vault"] = Vault(client, "vault-east", region="us-east-1")


def relit(pair: Pair) -> None:
    """What a recovery does until memory can be written to; east is killed."""
    pair.state.primary.kill()
    for name in ("fence", "promote", "hydrate"):
        run_state(name, pair.west, Run(run_id="r"))


def test_a_standby_seals_nothing_while_the_primary_holds_the_lease(pair: Pair) -> None:
    """Its schedule runs all the time, so that nothing has to be changed when it is relit."""
    remember(pair.east, "a")
    assert take_point(pair.west) == {"skipped": "us-west-2 does not hold the lease, us-east-1 does"}
    assert newest_id(pair.west.vault) is None


def test_a_relit_region_takes_points_while_the_old_primary_is_dark(pair: Pair) -> None:
    """They are in its own vault, and say where they belong; the journal is archived there too and nothing of it is
    given up, because nothing but this region has it."""
    remember(pair.east, "a", "b")
    first = take_point(pair.east)
    assert first["region"] == "us-west-2"
    relit(pair)
    darken(pair.west)
    remember(pair.west, "c", epoch=2)
    taken = take_point(pair.west)
    assert (taken["region"], taken["points"]) == ("us-west-2", 3)
    found = next(eligible(pair.west.vault))
    assert (found.id, found.instead_of) == (taken["id"], "us-east-1")
    with pair.west.state() as state, state.cursor() as cur:
        cur.execute("select count(*) from relight.journal")
        assert cur.fetchone() == (3,)


def test_a_relit_region_takes_points_to_where_it_would_be_recovered(pair: Pair) -> None:
    """Once the old primary's region is back, points go to its vault first, as its own went to the standby's."""
    remember(pair.east, "a")
    take_point(pair.east)
    relit(pair)
    remember(pair.west, "b", epoch=2)
    taken = take_point(pair.west)
    assert (taken["region"], taken["points"]) == ("us-east-1", 2)
    found = next(eligible(pair.west.peer_vault))
    assert (found.id, found.instead_of) == (taken["id"], None)

"""One applier at a time, where the store cannot tell two apart."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from fakes import FakeClock

from relight.adapters import postgres
from relight.errors import UnavailableError
from relight.memory import journal
from relight.memory.journal import Job

if TYPE_CHECKING:
    from memory_helpers import StateDsns

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("server", ["primary", "standby"])
def test_a_second_applier_waits_for_the_first(state_dsns: StateDsns, server: str) -> None:
    """On a hot standby as on a primary, the second enters only when the first has left."""
    dsn = getattr(state_dsns, server)
    first, second = postgres.connect(dsn), postgres.connect(dsn)
    entered = threading.Event()

    def enter() -> None:
        with journal.alone(second, Job.APPLY, "c", clock=FakeClock(), within_s=1e9):
            entered.set()

    thread = threading.Thread(target=enter)
    with journal.alone(first, Job.APPLY, "c", clock=FakeClock(), within_s=0):
        thread.start()
        with (
            journal.alone(first, Job.APPLY, "another", clock=FakeClock(), within_s=0),
            journal.alone(first, Job.HYDRATE, "c", clock=FakeClock(), within_s=0),
        ):
            assert not entered.is_set()
    thread.join(timeout=30)
    assert entered.is_set()
    first.close()
    second.close()


def test_an_applier_that_was_killed_holds_nobody_up(state_dsns: StateDsns) -> None:
    """Its lock ends with its connection."""
    first, second = postgres.connect(state_dsns.standby), postgres.connect(state_dsns.standby)
    with journal.alone(first, Job.APPLY, "c", clock=FakeClock(), within_s=0):
        first.close()
        with journal.alone(second, Job.APPLY, "c", clock=FakeClock(), within_s=1e9):
            pass
    second.close()


def test_an_applier_that_never_ends_is_not_waited_for_for_ever(state_dsns: StateDsns) -> None:
    """fails when another applier keeps the collection beyond the bound."""
    first, second = postgres.connect(state_dsns.standby), postgres.connect(state_dsns.standby)
    with (
        journal.alone(first, Job.APPLY, "c", clock=FakeClock(), within_s=0),
        pytest.raises(UnavailableError, match=r"another applier has been at 'c' for 60 s; wait for it"),
        journal.alone(second, Job.APPLY, "c", clock=FakeClock(), within_s=60),
    ):
        pass
    first.close()
    second.close()

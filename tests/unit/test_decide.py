"""The decision to recover."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.recovery.decide import Policy, Verdict, decide
from relight.recovery.epoch import Lease
from relight.recovery.evidence import Evidence, ProbeHistory

NOW = datetime(2026, 4, 19, 2, 0, tzinfo=UTC)
POLICY = Policy(probe_threshold=3, recovery_s=450.0, primary_region="us-east-1", lease_margin_s=2.0)


def lease(*, region: str = "us-east-1", expired_s: float = 20.0) -> Lease:
    return Lease(epoch=4, region=region, run_id="first", expires_at=NOW - timedelta(seconds=expired_s))


def failing(times: int, region: str = "us-east-1") -> ProbeHistory:
    history = ProbeHistory().after("", NOW, region=region)
    for _ in range(times):
        history = history.after("timed out", NOW - timedelta(seconds=10 * times), region=region)
    return history


NEVER_READY = ProbeHistory(region="us-east-1", failures=9, failing_since=NOW, last_error="x")


@pytest.mark.parametrize(
    ("probes", "held", "verdict", "because"),
    [
        (failing(3), lease(), Verdict.RECOVER, "ran out 20 s ago"),
        (failing(2), lease(), Verdict.HOLD, "2 of 3 probes"),
        (failing(0), lease(), Verdict.HOLD, "0 of 3 probes"),
        (failing(9), lease(expired_s=-5), Verdict.PAGE, "is live until 02:00:05Z"),
        (failing(9), lease(expired_s=1), Verdict.PAGE, "is live until"),
        (failing(9, "us-west-2"), lease(region="us-west-2"), Verdict.HOLD, "recovery has happened"),
        (failing(45, "us-west-2"), lease(region="us-west-2"), Verdict.PAGE, "nobody is served there since 01:52:30Z"),
        (failing(0, "us-west-2"), lease(region="us-west-2"), Verdict.HOLD, "recovery has happened"),
        (failing(9), None, Verdict.HOLD, "first epoch"),
        (
            NEVER_READY,
            lease(),
            Verdict.HOLD,
            "never been ready",
        ),
    ],
)
def test_verdicts(probes: ProbeHistory, held: Lease | None, verdict: Verdict, because: str) -> None:
    """A region is recovered only when its endpoint fails and its lease has run out."""
    decision = decide(Evidence(at=NOW, probes=probes, lease=held), POLICY)
    assert decision.verdict is verdict
    assert because in " ".join(decision.reasons)


@given(failures=st.integers(0, 50), expired_s=st.floats(-60, 60), region=st.sampled_from(["us-east-1", "us-west-2"]))
def test_a_live_lease_is_never_taken(failures: int, expired_s: float, region: str) -> None:
    """Whatever the probes say, nobody recovers over a live lease or over a region that is not the primary."""
    evidence = Evidence(at=NOW, probes=failing(failures), lease=lease(region=region, expired_s=expired_s))
    if decide(evidence, POLICY).verdict is Verdict.RECOVER:
        assert expired_s > POLICY.lease_margin_s
        assert region == "us-east-1"
        assert failures >= POLICY.probe_threshold


def test_one_answer_forgets_the_failures() -> None:
    """A probe that is answered starts the count again."""
    assert failing(2).after("", NOW, region="us-east-1") == ProbeHistory(region="us-east-1", ever_answered=True)


def test_another_region_is_another_history() -> None:
    """What was seen of the region that was lost does not count against the one that took over."""
    first = failing(9).after("refused", NOW, region="us-west-2")
    assert (first.failures, first.failing_since, first.ever_answered) == (1, NOW, False)


def test_the_run_takes_the_next_epoch() -> None:
    """Recovery acts under the epoch after the one that was lost."""
    assert decide(Evidence(at=NOW, probes=failing(3), lease=lease()), POLICY).next_epoch == 5

"""The router's benchmark runs, with numbers too small to say anything; what it measures is `scripts/bench router`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import router  # noqa: E402 - a command at the root, not an installed package

pytestmark = pytest.mark.servers


def test_the_router_is_measured_beside_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few calls give every figure, with its aim where there is one: each side was asked, and gave the answer."""
    monkeypatch.setattr(router, "WARM", 1)
    monkeypatch.setattr(router, "FEW", 1)
    monkeypatch.setattr(router, "AT_ONCE", 4)
    figures = router.run(calls=2, batches=1, bound_s=0.5, beside_litellm=False)
    assert {figure.name for figure in figures} == {
        *(f"adds, {side} {many}" for side in ("asyncio", "openai", "blocking") for many in ("x1", "x4")),
        *(f"a call, blocking {many}" for many in ("x1", "x4")),
        *(f"down adds, {what}" for what in ("refuses", "answers 500")),
        *(f"left after {what}" for what in ("silence", "drip")),
    }
    assert all(figure.aim for figure in figures if figure.peer_name.startswith("aim"))
    assert all(figure.ours == 0.5 for figure in figures if figure.name.startswith("left"))

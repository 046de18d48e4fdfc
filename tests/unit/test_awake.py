"""Functions that are not needed for weeks, called with an event that asks for nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from relight.errors import ConfigError
from relight.recovery.awake import WAKE, wakes
from relight_constructs.recovery_machine import APPROVE, VERBS


@pytest.mark.parametrize("verb", [*VERBS, APPROVE])
def test_a_call_to_stay_awake_touches_nothing(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a function of a recovery reads so much as its settings, of which there are none here, or takes the
    call for a run."""
    for name in ("RELIGHT_ENVIRONMENT", "RELIGHT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    handler = import_module(f"relight_lambdas.{verb.replace('-', '_')}").handler
    assert handler(dict(WAKE), None) == {"awake": True}
    with pytest.raises(ConfigError):
        handler({"run_id": "r1"}, None)


@pytest.mark.parametrize("event", [{}, {"wake": False}, {"wake": True, "run_id": "r1"}, {"source": "aws.ecs"}])
def test_every_other_event_reaches_the_function(event: dict[str, Any]) -> None:
    """A run, or an event of AWS, is never taken for one that asks for nothing."""
    got: list[tuple[dict[str, Any], str]] = []

    @wakes
    def handler(event: dict[str, Any], context: str) -> dict[str, Any]:
        """Keep what it is called with."""
        got.append((event, context))
        return {"done": True}

    assert handler(event, "context") == {"done": True}
    assert got == [(event, "context")]
    assert handler.__doc__ == "Keep what it is called with."

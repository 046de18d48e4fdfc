"""The recovery's states, their order, and what happens when one fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from relight import errors
from relight.errors import TransientError
from relight_constructs.recovery_machine import RETRIED_ERRORS, VERBS, Step, definition

if TYPE_CHECKING:
    from synthesis import Synthesis

STEPS = {verb: Step(function_arn=f"arn:{verb}", timeout_s=60) for verb in VERBS}


def states_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every state by its name, those inside branches too."""
    found = dict(document["States"])
    for state in document["States"].values():
        for branch in state.get("Branches", ()):
            found |= branch["States"]
    return found


def chain(document: dict[str, Any]) -> list[str]:
    """The names from the start to the end, when nothing fails."""
    names = [document["StartAt"]]
    while "Next" in document["States"][names[-1]]:
        names.append(document["States"][names[-1]]["Next"])
    return names


def test_the_states_run_in_the_order_of_a_recovery() -> None:
    """Fence before promote, everything verified and replayed before the gate opens; scale and hydrate go together."""
    assert chain(definition(STEPS)) == [
        "assess",
        "fence",
        "promote",
        "scale-and-hydrate",
        "verify",
        "replay",
        "open-gate",
        "announce",
    ]
    together = definition(STEPS)["States"]["scale-and-hydrate"]
    assert together["Type"] == "Parallel"
    assert [branch["StartAt"] for branch in together["Branches"]] == ["scale", "hydrate"]


def test_every_state_gets_the_execution_input_and_leaves_it_alone() -> None:
    """No state sees another's answer: what it needs it reads from where it is kept."""
    for name, state in states_of(definition(STEPS)).items():
        if state["Type"] == "Task" and name != "page":
            assert state["Parameters"] == {"FunctionName": f"arn:{name}", "Payload.$": "$"}
        if state["Type"] != "Fail":
            assert state["ResultPath"] is None
            assert not {"InputPath", "OutputPath", "ResultSelector"} & set(state)


def test_only_transient_errors_are_tried_again() -> None:
    """Lambda's own trouble and the transient classes of the error tree, by the names that Lambda reports."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TransientError)]
    transient = {kind.__name__ for kind in kinds}
    assert transient == {name for name in RETRIED_ERRORS if not name.startswith("Lambda.")}
    for state in states_of(definition(STEPS)).values():
        if state["Type"] == "Task":
            (retry,) = state["Retry"]
            assert retry["ErrorEquals"] == list(RETRIED_ERRORS)
            assert (retry["IntervalSeconds"], retry["BackoffRate"], retry["MaxAttempts"]) == (2, 1.5, 8)


def test_a_state_outlives_its_function() -> None:
    """The function's own error arrives, not the state's timeout."""
    for state in states_of(definition(STEPS)).values():
        if state["Type"] == "Task":
            assert state["TimeoutSeconds"] == 70


def test_fails_when_a_state_fails_and_pages_first() -> None:
    """Whatever goes wrong until the gate is open, somebody is told, and the execution fails with that state's error."""
    document = definition(STEPS)
    for name in chain(document)[:-1]:
        assert document["States"][name]["Catch"] == [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "page"}
        ]
    page = document["States"]["page"]
    assert page["Parameters"] == {
        "FunctionName": "arn:announce",
        "Payload": {"run_id.$": "$.run_id", "failed": True},
    }
    assert page["Next"] == "failed"
    assert [catch["Next"] for catch in page["Catch"]] == ["failed"]
    assert document["States"]["failed"]["Type"] == "Fail"


def test_fails_without_paging_when_only_the_announcement_fails() -> None:
    """The gate is open by then: nobody is told that a recovery failed which worked."""
    document = definition(STEPS)
    announce = document["States"]["announce"]
    assert "Catch" not in announce
    assert announce["End"] is True
    assert announce["Retry"], "transient trouble is tried again all the same"


def test_a_missing_function_is_refused() -> None:
    """The definition is not written without one of its functions."""
    with pytest.raises(ValueError, match="no step for replay; give one for each of assess"):
        definition({verb: step for verb, step in STEPS.items() if verb != "replay"})


def test_the_deployed_machine_is_this_one(synthesis: Synthesis) -> None:
    """The stack holds the description above over the deployed functions and their own timeouts."""
    machine = synthesis.one("aws_sfn_state_machine", "standby/recovery/machine")
    functions = synthesis.resources("aws_lambda_function", part="standby")
    steps = {
        verb: Step(
            function_arn=f"arn:aws:lambda:us-west-2:000000000000:function:relight-demo-{verb}",
            timeout_s=functions[f"standby/{verb}/function"]["timeout"],
        )
        for verb in VERBS
    }
    assert json.loads(machine["definition"]) == definition(steps)
    assert machine["name"] == "relight-demo-recovery"

"""The recovery's states, their order, how long each may take, and what happens when one fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from relight import errors
from relight.errors import AgainLaterError, OvertakenError, TransientError
from relight.objectives import OBJECTIVES, Tier
from relight.recovery.run import STATES as HANDLED
from relight_constructs.machine_docs import BEGIN, END, page, with_table
from relight_constructs.recovery_machine import (
    APPROVAL,
    APPROVE,
    ENDED_ERRORS,
    LATER_ERRORS,
    OVERTAKEN_ERRORS,
    RETRIED_ERRORS,
    STATES,
    VERBS,
    WAKING_ERRORS,
    Step,
    TaskRun,
    definition,
    timeouts,
)
from relight_constructs.timeouts import LONGEST_S, SHORTEST_S, TASK_S, WAKING_S, Waits

if TYPE_CHECKING:
    from synthesis import Synthesis

DOCS = Path(__file__).resolve().parents[2] / "docs"
STEPS = {verb: Step(function_arn=f"arn:{verb}", timeout_s=60) for verb in (*VERBS, APPROVE)}
WAITS = Waits(lease_s=17, promotion_s=900, capacity_s=450)
LARGE = TaskRun(
    cluster="cluster", family="work", container="work", subnet_ids=("subnet-1",), security_group_ids=("sg-1",)
)
PLAIN = definition(STEPS, waits=WAITS, whole_s=9000)
ASKING = definition(STEPS, waits=Waits(approval_s=1800), whole_s=9000, large=LARGE)
BOTH = pytest.mark.parametrize("document", [PLAIN, ASKING], ids=["plain", "asking, with a large memory"])


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
    assert chain(PLAIN) == [
        "assess",
        "fence",
        "promote",
        "scale-and-hydrate",
        "verify",
        "replay",
        "open-gate",
        "announce",
    ]
    together = PLAIN["States"]["scale-and-hydrate"]
    assert together["Type"] == "Parallel"
    assert [branch["StartAt"] for branch in together["Branches"]] == ["scale", "hydrate"]


def test_what_the_machine_calls_is_what_there_is() -> None:
    """Every verb of the description is a state of the core, in the order in which `relight recover` runs them."""
    assert list(HANDLED) == list(VERBS)


@BOTH
def test_every_state_gets_the_execution_input_and_leaves_it_alone(document: dict[str, Any]) -> None:
    """No state sees another's answer but the choice after hydrate: what it needs it reads from where it is kept."""
    for name, state in states_of(document).items():
        if name in VERBS:
            assert state["Parameters"] == {"FunctionName": f"arn:{name}", "Payload.$": "$"}
        if state["Type"] in ("Task", "Parallel") and (name, document) != ("hydrate", ASKING):
            assert state["ResultPath"] is None
        assert not {"InputPath", "OutputPath", "ResultSelector"} & set(state)


def test_every_error_that_may_pass_is_tried_again_and_no_other() -> None:
    """Lambda's own trouble, what ended a function in the middle, and the transient classes of the error tree, by the
    names that Lambda reports."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TransientError)]
    later = {kind.__name__ for kind in kinds if issubclass(kind, AgainLaterError)}
    assert later == set(LATER_ERRORS)
    assert {kind.__name__ for kind in kinds} - later == {
        name for name in RETRIED_ERRORS if not name.startswith("Lambda.")
    }
    for name, state in states_of(PLAIN).items():
        if state["Type"] == "Task":
            found = [tuple(retry["ErrorEquals"]) for retry in state["Retry"]]
            assert found == [LATER_ERRORS, ENDED_ERRORS, WAKING_ERRORS, RETRIED_ERRORS], name


@BOTH
def test_a_function_that_sleeps_is_waited_for(document: dict[str, Any]) -> None:
    """Every state, the page too, calls every 5 s for three minutes a function that Lambda is waking; what it says is
    what Lambda's own interface says of a call, and a function that cannot be woken is none of it."""
    raised = {error.name for error in Session().get_service_model("lambda").operation_model("Invoke").error_shapes}
    assert {name.removeprefix("Lambda.") for name in WAKING_ERRORS} <= raised
    assert not {"Lambda.CodeArtifactUserFailedException", "Lambda.ENILimitReachedException"} & {*WAKING_ERRORS}
    called = [state for state in states_of(document).values() if "lambda" in state.get("Resource", "")]
    assert len(called) == len(VERBS) + (2 if document is ASKING else 1)
    for state in called:
        (waking,) = (retry for retry in state["Retry"] if retry["ErrorEquals"] == [*WAKING_ERRORS])
        assert (waking["IntervalSeconds"], waking["BackoffRate"]) == (5, 1.0)
        assert waking["IntervalSeconds"] * waking["MaxAttempts"] == WAKING_S == 180
        named = [name for retry in state["Retry"] for name in retry["ErrorEquals"]]
        assert len(named) == len(set(named)), "each group has its own count, and a second one would be dead"


def test_a_state_comes_again_as_long_as_what_it_asked_for_may_take() -> None:
    """Promote until the database has been promoted; scale until what was started serves, hydrate until the store does,
    and the gate until an agent renews the lease; replay until all is published."""
    later = {name: state["Retry"][0] for name, state in states_of(PLAIN).items() if state["Type"] == "Task"}
    capacity = dict.fromkeys(("scale", "hydrate", "open-gate"), WAITS.capacity_s)
    for name, wait_s in {"promote": WAITS.promotion_s, **capacity}.items():
        assert later[name]["BackoffRate"] == 1.0
        assert later[name]["IntervalSeconds"] * later[name]["MaxAttempts"] == wait_s
    assert (later["replay"]["IntervalSeconds"], later["replay"]["MaxAttempts"]) == (1, 12)


def test_a_function_that_hangs_is_called_once_more() -> None:
    """Its process is ended, and the next one may find the other side well; twice is no accident."""
    for state in states_of(PLAIN).values():
        if state["Type"] == "Task":
            assert state["Retry"][1]["MaxAttempts"] == 1


def test_a_state_outlives_its_function() -> None:
    """The function's own error arrives, not the state's timeout."""
    for state in states_of(PLAIN).values():
        if state["Type"] == "Task":
            assert state["TimeoutSeconds"] == 70
    assert PLAIN["TimeoutSeconds"] == 9000


@BOTH
def test_fails_when_a_state_fails_and_pages_first(document: dict[str, Any]) -> None:
    """Whatever goes wrong until the gate is open, somebody is told, and the execution fails with that state's error."""
    for name in chain(document)[:-1]:
        *others, last = document["States"][name]["Catch"]
        assert last == {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "page"}
        assert bool(others) is (name == "fence")
    page_state = document["States"]["page"]
    assert page_state["Parameters"] == {
        "FunctionName": "arn:announce",
        "Payload": {"run_id.$": "$.run_id", "failed": True, "error.$": "$.error.Error"},
    }
    assert page_state["Next"] == "failed"
    assert [catch["Next"] for catch in page_state["Catch"]] == ["failed"]
    assert document["States"]["failed"]["Type"] == "Fail"


@BOTH
def test_a_run_that_another_overtook_ends_without_a_page(document: dict[str, Any]) -> None:
    """Its fence changed nothing, and the other run relights the standby: nobody is woken in the middle of that. Any
    other conflict of the fence is told."""
    overtaken, _ = document["States"]["fence"]["Catch"]
    assert overtaken == {"ErrorEquals": [*OVERTAKEN_ERRORS], "ResultPath": "$.error", "Next": "overtaken"}
    assert document["States"]["overtaken"] == {"Type": "Succeed"}
    assert (OvertakenError.__name__,) == OVERTAKEN_ERRORS


def test_fails_without_paging_when_only_the_announcement_fails() -> None:
    """The gate is open by then: nobody is told that a recovery failed which worked."""
    announce = PLAIN["States"]["announce"]
    assert "Catch" not in announce
    assert announce["End"] is True
    assert announce["Retry"], "transient trouble is tried again all the same"


def test_a_missing_function_is_refused() -> None:
    """The definition is not written without one of its functions; approve is one where people are asked."""
    with pytest.raises(ValueError, match="no step for replay; give one for each of assess"):
        definition({verb: step for verb, step in STEPS.items() if verb != "replay"}, waits=WAITS, whole_s=1)
    without = {verb: step for verb, step in STEPS.items() if verb != APPROVE}
    assert APPROVE not in definition(without, waits=WAITS, whole_s=1)["States"]
    with pytest.raises(ValueError, match="no step for approve"):
        definition(without, waits=Waits(approval_s=60), whole_s=1)


def test_people_are_asked_before_anything_is_changed() -> None:
    """Between assess, which reads, and fence; nobody's answer pages and fails, and is not asked for again."""
    assert chain(ASKING)[:3] == ["assess", "approve", "fence"]
    approve = ASKING["States"]["approve"]
    assert approve["Resource"].endswith(":lambda:invoke.waitForTaskToken")
    assert approve["Parameters"]["Payload"] == {"token.$": "$$.Task.Token", "within_s": 1800, "run.$": "$"}
    assert approve["TimeoutSeconds"] == 1800
    assert [retry["ErrorEquals"] for retry in approve["Retry"]] == [list(WAKING_ERRORS), list(RETRIED_ERRORS)]


def test_a_large_memory_is_waited_for() -> None:
    """Hydrate's own answer says that it is too large for a function; the branch ends with the task, not before."""
    branch = ASKING["States"]["scale-and-hydrate"]["Branches"][1]["States"]
    (choice,) = branch["is-memory-large"]["Choices"]
    assert branch["hydrate"]["Next"] == "is-memory-large"
    assert choice["Next"] == "hydrate-as-task"
    assert [test.get("BooleanEquals", test.get("IsPresent")) for test in choice["And"]] == [True, True]
    assert {test["Variable"] for test in choice["And"]} == {"$.hydrate.Payload.large"}
    assert branch["is-memory-large"]["Default"] == branch["hydrate-as-task"]["Next"] == "hydrated"
    task = branch["hydrate-as-task"]
    assert task["Resource"] == "arn:aws:states:::ecs:runTask.sync"
    (container,) = task["Parameters"]["Overrides"]["ContainerOverrides"]
    assert container == {"Name": "work", "Command.$": "States.Array('hydrate', '--run-id', $.run_id)"}
    assert task["Parameters"]["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
    assert task["TimeoutSeconds"] == TASK_S


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (Tier.CUSTOMER_FACING, {"assess": 45, "fence": 79, "promote": 45, "scale": 45, "open-gate": 45}),
        (Tier.INTERNAL, {"assess": 45, "fence": 79, "promote": 113, "scale": 45, "open-gate": 45}),
        (Tier.BATCH, {"assess": 180, "fence": 214, "promote": 450, "scale": 180, "open-gate": 180}),
    ],
)
def test_timeouts_follow_the_objectives(tier: Tier, expected: dict[str, int]) -> None:
    """A quick state is cut while another try still fits; one that grows with the data has all that Lambda offers."""
    found = timeouts(rto_s=OBJECTIVES[tier].rto_s, waits=WAITS).functions
    assert {verb: found[verb] for verb in expected} == expected
    assert {found[verb] for verb in ("hydrate", "verify", "replay")} == {LONGEST_S}


@given(
    rto_s=st.floats(1, 1e6),
    waits=st.builds(
        Waits,
        lease_s=st.floats(0, 1e4),
        promotion_s=st.floats(0, 1e5),
        capacity_s=st.floats(0, 1e5),
        approval_s=st.floats(0, 1e5),
    ),
)
def test_no_timeout_is_beyond_what_lambda_offers_or_too_short_to_work(rto_s: float, waits: Waits) -> None:
    """Whatever the objectives; and a whole execution outlives each of its states, and everything it waits for."""
    limits = timeouts(rto_s=rto_s, waits=waits)
    assert set(limits.functions) == {*VERBS, APPROVE}
    assert all(SHORTEST_S <= timeout_s <= LONGEST_S for timeout_s in limits.functions.values())
    one_after_the_other = [verb for verb in VERBS if verb != "scale"]
    assert limits.whole_s >= sum(WAKING_S + 2 * limits.functions[verb] for verb in one_after_the_other)
    assert limits.whole_s >= waits.promotion_s + waits.approval_s + TASK_S
    assert timeouts(rto_s=2 * rto_s, waits=waits).whole_s >= limits.whole_s


def test_the_deployed_machine_is_this_one(synthesis: Synthesis) -> None:
    """The stack holds the description above over the deployed functions and their own timeouts."""
    machine = synthesis.one("aws_sfn_state_machine", "standby/recovery/machine/machine")
    functions = synthesis.resources("aws_lambda_function", part="standby")
    steps = {
        verb: Step(
            function_arn=f"arn:aws:lambda:us-west-2:000000000000:function:relight-demo-{verb}",
            timeout_s=functions[f"standby/recovery/{verb}/function"]["timeout"],
        )
        for verb in VERBS
    }
    attachment = functions["standby/recovery/hydrate/function"]["vpc_config"]
    large = TaskRun(
        cluster="relight-demo",
        family="relight-demo-work",
        container="work",
        subnet_ids=attachment["subnet_ids"],
        security_group_ids=attachment["security_group_ids"],
    )
    waits = Waits(lease_s=17, promotion_s=300, capacity_s=450)
    limits = timeouts(rto_s=OBJECTIVES[Tier.INTERNAL].rto_s, waits=waits)
    assert {verb: step.timeout_s for verb, step in steps.items()} == {
        verb: timeout_s for verb, timeout_s in limits.functions.items() if verb != APPROVE
    }
    assert json.loads(machine["definition"]) == definition(steps, waits=waits, whole_s=limits.whole_s, large=large)
    assert machine["name"] == "relight-demo-recovery"


@pytest.mark.parametrize("name", ["recovery-machine.md", "runbook.md"])
def test_the_documents_are_of_this_machine(name: str) -> None:
    """fails when what is written about the machine is not what is deployed; RELIGHT_WRITE_DOCS=1 writes it anew."""
    path = DOCS / name
    expected = page() if name == "recovery-machine.md" else with_table(path.read_text())
    if os.environ.get("RELIGHT_WRITE_DOCS") == "1":
        path.write_text(expected)
    assert path.read_text() == expected


def test_a_page_without_its_marks_is_refused() -> None:
    """The table is put between two marks, and nothing else of the page is touched."""
    text = with_table(f"before\n{BEGIN}\nan earlier table\n{END}\nafter\n")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "an earlier table" not in text
    for state in (*STATES, APPROVAL):
        assert f"| {state.verb} |" in text
    with pytest.raises(ValueError, match="recovery-machine:begin"):
        with_table("a page without marks")

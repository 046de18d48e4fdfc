"""What is applied is what somebody approved: `scripts/deploy`, with a Terraform whose plans are in files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from infra.test_workflows import _script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

# It shows the plan that is in the stack's folder, and notes there that it has applied one.
TERRAFORM = """#!/bin/sh
folder="${1#-chdir=}"
case "$2" in
    plan) : > "$folder/relight.tfplan" ;;
    show) cat "$folder/plan.json" ;;
    apply) : > "$folder/applied" ;;
esac
"""
SOON, LATER = "2026-04-01T10:00:00Z", "2026-04-01T10:05:00Z"
DATABASE: dict[str, Any] = {
    "id": "db-A",
    "identifier": "relight-prod-state",
    "instance_class": "db.m7g.large",
    "latest_restorable_time": SOON,
    "tags": {"a": "b"},
}
UPDATE: dict[str, Any] = {
    "actions": ["update"],
    "before": DATABASE,
    "after": DATABASE | {"instance_class": "db.m7g.xlarge"},
    "after_unknown": {},
    "replace_paths": [],
}
REPLACE: dict[str, Any] = {
    "actions": ["delete", "create"],
    "before": DATABASE,
    "after": {"identifier": "relight-prod-other", "instance_class": "db.m7g.large", "tags": {"a": "b"}},
    "after_unknown": {"id": True, "latest_restorable_time": True},
    "replace_paths": [["identifier"]],
}
DELETE: dict[str, Any] = {"actions": ["delete"], "before": DATABASE, "after": None, "after_unknown": {}}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """It."""
    return _script("scripts/deploy.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where one stack of `prod` was synthesized, and a Terraform is the first one that is found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "terraform").write_text(TERRAFORM)
    (tools / "terraform").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    (tmp_path / "manifest.json").write_text(
        json.dumps({"stacks": {"prod-primary": {"dependencies": [], "workingDirectory": "primary"}}})
    )
    (tmp_path / "primary").mkdir()
    return tmp_path


def would(folder: Path, change: dict[str, Any]) -> None:
    """What the next plans say."""
    found = {"resource_changes": [{"address": "aws_db_instance.state", "change": change}]}
    (folder / "primary" / "plan.json").write_text(json.dumps(found))


def moved(change: dict[str, Any], **to: Any) -> dict[str, Any]:
    """The same change, of a resource that is another one in what has not to do with it."""
    after = change["after"]
    if after is not None:
        after = after | {name: value for name, value in to.items() if name in after}
    return change | {"before": change["before"] | to, "after": after}


@pytest.fixture
def applied(script: ModuleType, folder: Path) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    """Whether what was approved of one plan is applied when the second one is what would be done."""

    def run(approved: dict[str, Any], found: dict[str, Any]) -> bool:
        would(folder, approved)
        assert script.plan("prod", folder, folder / "plans", only=[]) == script.DONE
        would(folder, found)
        try:
            assert script.apply("prod", folder, folder / "plans", only=[], wait="1s") == script.DONE
        except script.Refused as exc:
            assert "prod-primary: applying it would do something else than what was approved" in str(exc)
        return (folder / "primary" / "applied").is_file()

    return run


@pytest.mark.parametrize("change", [UPDATE, REPLACE, DELETE], ids=["update", "replace", "delete"])
def test_what_moves_by_itself_is_no_other_change(
    applied: Callable[[dict[str, Any], dict[str, Any]], bool], change: dict[str, Any]
) -> None:
    """RDS says every five minutes until when it can restore; fails when that refuses what was approved."""
    assert applied(change, moved(change, latest_restorable_time=LATER))


@pytest.mark.parametrize(
    ("approved", "found"),
    [
        (UPDATE, UPDATE | {"after": DATABASE | {"instance_class": "db.m7g.8xlarge"}}),
        (UPDATE, UPDATE | {"before": DATABASE | {"instance_class": "db.m7g.medium"}}),
        (UPDATE, UPDATE | {"after": UPDATE["after"] | {"tags": {}}}),
        (UPDATE, UPDATE | {"after_unknown": {"address": True}}),
        (UPDATE, UPDATE | {"actions": ["delete", "create"], "replace_paths": [["instance_class"]]}),
        (UPDATE, DELETE),
        (REPLACE, moved(REPLACE, id="db-B")),
        (REPLACE, REPLACE | {"after": REPLACE["after"] | {"identifier": "relight-prod-third"}}),
        (DELETE, moved(DELETE, id="db-B")),
    ],
)
def test_fails_when_something_else_would_be_done(
    applied: Callable[[dict[str, Any], dict[str, Any]], bool], approved: dict[str, Any], found: dict[str, Any]
) -> None:
    """To another value, from another one, in another way, or to another resource."""
    assert not applied(approved, found)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{}",
        '{"environment": "prod"}',
        '{"environment": "prod", "stacks": []}',
        '{"environment": "prod", "stacks": {"prod-primary": {"digest": "a"}}}',
    ],
)
def test_an_approval_that_is_none_is_refused(
    script: ModuleType, folder: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its path, and with what writes one; fails when it is a traceback."""
    path = folder / "approved.json"
    if text is not None:
        path.write_text(text)
    arguments = ["apply", "--environment", "prod", "--stacks", str(folder), "--approved", str(folder)]
    assert script.main(arguments) == script.FAILED
    said = capsys.readouterr().err
    assert f"{path} is not what a plan writes" in said
    assert "scripts/deploy plan --environment prod" in said


def test_an_approval_of_another_environment_is_refused(
    script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However alike their stacks are."""
    (folder / "approved.json").write_text(json.dumps({"environment": "staging", "stacks": {}}))
    arguments = ["apply", "--environment", "prod", "--stacks", str(folder), "--approved", str(folder)]
    assert script.main(arguments) == script.FAILED
    assert "what was approved is of staging, not of prod" in capsys.readouterr().err

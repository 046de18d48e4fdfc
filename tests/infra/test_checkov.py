"""The check on the stacks fails when it should: found something, checked nothing, or excepted too much."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import ROOT

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The script that continuous integration runs."""
    spec = importlib.util.spec_from_file_location("ci_checkov", ROOT / ".ci" / "checkov.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FINE = {"passed": 10, "parsing_errors": 0}
WRITTEN = '[[exception]]\ncheck = "CKV_1"\nresources = ["vault/*/bucket"]\nreason = "a reason of at least five words"\n'


def failure(check: Any, resource: str = "vault/lease/bucket", id_: str = "CKV_1") -> Any:
    return check.Failure(check=id_, name="something", stack="demo-vault", resource=resource)


def test_a_clean_report_passes(check: Any) -> None:
    """Something passed and nothing failed."""
    assert check.judge([], FINE, []) == []


def test_an_excepted_failure_passes(check: Any) -> None:
    """A failure that a written exception covers is no problem."""
    assert check.judge([failure(check)], FINE, check.read_exceptions(WRITTEN)) == []


def test_what_a_synthesis_wrote_and_its_stacks_are_the_same(check: Any, tmp_path: Path) -> None:
    """fails when the folder that plans are made of is not the one that is checked."""
    assert check.stacks_in(tmp_path / "stacks") == tmp_path / "stacks"
    (tmp_path / "manifest.json").touch()
    assert check.stacks_in(tmp_path) == tmp_path / "stacks"
    assert check.stacks_in(tmp_path / "stacks") == tmp_path / "stacks"


@pytest.mark.parametrize(("resource", "id_"), [("dns/lease/bucket", "CKV_1"), ("vault/lease/bucket", "CKV_2")])
def test_fails_when_something_else_is_found(check: Any, resource: str, id_: str) -> None:
    """An exception covers its own check on its own resources only."""
    used = failure(check)
    problems = check.judge([used, failure(check, resource, id_)], FINE, check.read_exceptions(WRITTEN))
    assert problems == [f"{id_} demo-vault: {resource}: something"]


def test_fails_when_an_exception_is_not_needed(check: Any) -> None:
    """What was fixed needs no exception any more."""
    assert check.judge([], FINE, check.read_exceptions(WRITTEN)) == [
        "the exception CKV_1 for vault/*/bucket is not needed: remove it"
    ]


def test_one_environment_may_leave_an_exception_idle(check: Any) -> None:
    """A pipeline looks at what it is about to deploy; what fails there fails all the same."""
    written = check.read_exceptions(WRITTEN)
    assert check.judge([], FINE, written, whole=False) == []
    assert len(check.judge([failure(check, id_="CKV_2")], FINE, written, whole=False)) == 1
    assert len(check.judge([], {"passed": 0, "parsing_errors": 0}, written, whole=False)) == 1


@pytest.mark.parametrize("summary", [{"passed": 10, "parsing_errors": 1}, {"passed": 0, "parsing_errors": 0}])
def test_fails_when_nothing_was_checked(check: Any, summary: dict[str, int]) -> None:
    """A stack that could not be read, or a run without a single pass, is a failure."""
    assert len(check.judge([], summary, [])) == 1


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN.replace("a reason of at least five words", "later"),
        WRITTEN.replace('reason = "a reason of at least five words"\n', ""),
    ],
)
def test_fails_when_an_exception_has_no_reason(check: Any, text: str) -> None:
    """An exception says why, in a sentence."""
    with pytest.raises(SystemExit, match="a reason in a sentence"):
        check.read_exceptions(text)


def test_failures_are_named_by_the_path_of_their_construct(check: Any, tmp_path: Path) -> None:
    """A pattern holds for every environment, and survives the hash in an address."""
    folder = tmp_path / "prod-eu-vault"
    folder.mkdir()
    (folder / "cdk.tf.json").write_text(
        '{"resource": {"aws_s3_bucket": {"lease_bucket_8B28D16C": {"//": {"metadata":'
        ' {"path": "prod-eu-vault/lease/bucket/bucket", "uniqueId": "lease_bucket_8B28D16C"}}}}}}'
    )
    item = {
        "check_id": "CKV_1",
        "check_name": "something",
        "file_path": "/prod-eu-vault/cdk.tf.json",
        "resource": "aws_s3_bucket.lease_bucket_8B28D16C",
    }
    (found,) = check.failures({"results": {"failed_checks": [item]}}, tmp_path)
    assert (found.stack, found.resource) == ("prod-eu-vault", "vault/lease/bucket/bucket")

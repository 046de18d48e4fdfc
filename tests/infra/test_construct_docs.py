"""The page about the constructs: its examples synthesize, and its reference is what the sources say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import ROOT

from relight_constructs import construct_docs
from relight_constructs.construct_docs import constructs, reference, values, with_reference

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "constructs.md"
VAULT, RECOVERY = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(code: str, folder: Path) -> dict[str, Any]:
    """The stack that an example synthesizes, as somebody runs it elsewhere."""
    (folder / "relight.zip").write_bytes(b"not a bundle, and nothing here reads it")
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (stack,) = (folder / "cdktf.out" / "stacks").iterdir()
    found: dict[str, Any] = json.loads((stack / "cdk.tf.json").read_text())
    return found


def test_the_vault_can_be_taken_alone(tmp_path: Path) -> None:
    """As the page says: two vaults under one key, the second a copy of the first, and a role that seals."""
    resources = run(VAULT, tmp_path)["resource"]
    assert len(resources["aws_s3_bucket"]) == len(resources["aws_s3_bucket_object_lock_configuration"]) == 2
    assert len(resources["aws_kms_key"]) == len(resources["aws_kms_replica_key"]) == 1
    assert len(resources["aws_s3_bucket_replication_configuration"]) == 1
    assert {item["name"] for item in resources["aws_iam_role_policy"].values()} == {"replicate", "seal-vault"}
    assert not {*resources} & {"aws_lambda_function", "aws_vpc", "aws_cloudwatch_metric_alarm", "aws_sns_topic"}


def test_the_recovery_can_be_taken_alone(tmp_path: Path) -> None:
    """As the page says: with their secret, network and names, and without a cluster, a database or a bucket."""
    resources = run(RECOVERY, tmp_path)["resource"]
    assert len(resources["aws_sfn_state_machine"]) == 2, "the one that recovers, and the one that keeps it awake"
    names = {item["function_name"] for item in resources["aws_lambda_function"].values()}
    assert {"ours-assess", "ours-promote", "ours-sentinel"} <= names
    assert not {*resources} & {"aws_s3_bucket", "aws_vpc", "aws_ecs_cluster", "aws_db_instance", "aws_rds_cluster"}


def test_the_reference_is_what_the_sources_say() -> None:
    """fails when a construct, a prop or a default was changed and the page was not; its mark says how to write it."""
    assert with_reference(PAGE.read_text()) == PAGE.read_text()


def test_every_construct_is_in_the_reference() -> None:
    """Each says what it defines, and each of its props is there."""
    found = {one.name: one for one in constructs()}
    assert {"Vault", "Recovery", "Network", "Failover", "ActiveActive", "Rehearsal"} <= {*found}
    assert not {"RecoveryProps", "Place"} & {*found}
    assert {"Place", "Ladder", "Lock", "VaultRef"} <= {one.name for one in values()}
    text = reference()
    for one in (*found.values(), *values()):
        assert one.says, f"{one.module}.{one.name} has no docstring"
        assert f"### {one.name}\n" in text


SOURCE = '''
class Base(Construct):
    """What others are made from."""

    def __init__(self, scope: Construct, id_: str, props: BaseProps) -> None:
        self.made = Thing(self)
        self._hidden = 1

    def grant_look(self, grantee: Grantee) -> None:
        """Look
        at it."""


class Special(Base):
    """A special one."""

    @property
    def arn(self) -> str:
        """Its ARN."""


class Thing(Construct):
    def __init__(self, scope: Construct, *, size: int, name: str | None = None) -> None: ...


class Kind(StrEnum):
    """Which."""

    ONE = "one"
    """The first."""
    TWO = "two"


class BaseProps:
    """A base."""

    kind: Kind
    names: Mapping[str, str] = field(default_factory=dict)
'''


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A library of a few classes."""
    (tmp_path / "things.py").write_text(SOURCE)
    return tmp_path


def test_what_is_inherited_is_told_too(sources: Path) -> None:
    """Props, attributes and methods, the own ones first; what is private is not."""
    found = {one.name: one for one in constructs(sources)}
    assert {*found} == {"Base", "Special", "Thing"}
    assert found["Special"].gives == (("arn", "Its ARN."), ("made", "`Thing`"), ("grant_look(grantee)", "Look at it."))
    told = [(prop.name, prop.type, prop.default) for prop in found["Special"].told]
    assert told == [("kind", "Kind", ""), ("names", "Mapping[str, str]", "dict()")]
    told = [(prop.name, prop.type, prop.default) for prop in found["Thing"].told]
    assert told == [("size", "int", ""), ("name", "str | None", "None")]
    (kind,) = values(sources)
    assert kind.gives == (("ONE", "`one`. The first."), ("TWO", "`two`"))


def test_a_page_without_its_marks_is_refused(tmp_path: Path) -> None:
    """Nothing is written over a page that is another."""
    page = tmp_path / "page.md"
    page.write_text("# Another\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        construct_docs.main(page)
    assert page.read_text() == "# Another\n"

"""`relight env` explains an environment, refuses a bad one, and starts no node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from relight_cli.console import DONE, FAILED, MISSED
from relight_cli.main import main
from relight_stacks.loading import examples_folder

if TYPE_CHECKING:
    from pathlib import Path

TIERS = ("customer-facing", "internal", "batch", "sandbox")


@pytest.mark.parametrize("tier", TIERS)
def test_an_example_is_explained(tier: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Pattern, the sums behind RTO and RPO, the costs and what is not covered; nothing on stderr."""
    assert main(["env", "check", str(examples_folder() / f"{tier}.toml")]) == DONE
    out, err = capsys.readouterr()
    assert err == ""
    for words in (f"tier {tier}", "RTO: ", "RPO of state: ", "What the standby costs in a month", "Not covered:"):
        assert words in out
    assert "an estimate: list prices of us-east-1 in 2026-11" in out
    assert "OUT OF REACH" not in out


def test_json_has_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of a sum with its basis and keys, and the counted ones make the total."""
    assert main(["env", "check", "internal", "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["tier"], found["pattern"], found["state"]) == ("internal", "warm standby", "rds-replica")
    assert sum(part["seconds"] for part in found["rto"]["parts"] if part["counted"]) == found["rto"]["seconds"]
    assert found["rto"]["kept"] is True
    assert found["cost"]["estimate"] is True
    assert found["not_covered"]


def test_an_objective_out_of_reach_is_explained_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, the whole sum on stdout, and on stderr what to change."""
    path = tmp_path / "mine.toml"
    text = (examples_folder() / "internal.toml").read_text()
    path.write_text(text.replace("approval_minutes = 3", "approval_minutes = 30"))
    assert main(["env", "check", str(path)]) == MISSED
    out, err = capsys.readouterr()
    assert "the objective is 900 s: OUT OF REACH" in out
    assert "a person approves 1800 s" in err
    assert "recovery.approval_minutes" in err
    assert main(["env", "check", str(path), "--json"]) == MISSED
    assert json.loads(capsys.readouterr().out)["rto"]["kept"] is False


def test_a_bad_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and one error; with --json it is on stdout too."""
    path = tmp_path / "mine.toml"
    path.write_text((examples_folder() / "internal.toml").read_text().replace("ttl_s = 10", "ttl_s = 99"))
    assert main(["env", "check", str(path)]) == FAILED
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "dns.ttl_s = 99 outlives dns.check_interval_s = 10" in err
    assert main(["env", "check", str(path), "--json"]) == FAILED
    assert "dns.ttl_s = 99" in json.loads(capsys.readouterr().out)["refused"]
    assert main(["env", "check", str(tmp_path / "none.toml")]) == FAILED
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["check", "policy"])
def test_a_name_that_nobody_has_is_answered_with_those_that_there_are(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same exit code of both actions, for this and for a file that is refused."""
    assert main(["env", action, "nosuch"]) == FAILED
    assert "no environment 'nosuch'; name a TOML file, or one of those that exist: batch, customer-facing, demo" in (
        capsys.readouterr().err
    )
    path = tmp_path / "mine.toml"
    path.write_text((examples_folder() / "internal.toml").read_text().replace("ttl_s = 10", "ttl_s = 99"))
    assert main(["env", action, str(path)]) == FAILED
    assert "dns.ttl_s = 99" in capsys.readouterr().err


def test_a_file_of_another_editor_is_read_and_a_pipe_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when the mark that some editors begin UTF-8 with is taken for a statement, or a pipe is waited for."""
    path, pipe = tmp_path / "mine.toml", tmp_path / "pipe.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (examples_folder() / "internal.toml").read_bytes())
    os.mkfifo(pipe)
    assert main(["env", "check", str(path)]) == DONE
    capsys.readouterr()
    assert main(["env", "check", str(pipe)]) == FAILED
    assert f"{pipe} is no regular file; name a TOML file" in capsys.readouterr().err


def test_one_that_collides_with_another_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a file is said to be good, and cannot be deployed beside those that are there; what is no environment
    is passed over."""
    text = (examples_folder() / "internal.toml").read_text()
    (tmp_path / "first.toml").write_text(text)
    (tmp_path / "notes.toml").write_text("this is no environment")
    (tmp_path / "second.toml").write_text(text.replace("assistant.example.com", "second.example.com"))
    assert main(["env", "check", str(tmp_path / "second.toml")]) == FAILED
    err = capsys.readouterr().err
    assert f"{tmp_path / 'second.toml'}: second: replicate_images = true, and first copies images" in err
    (tmp_path / "second.toml").write_text(f"replicate_images = false\n{text}")
    assert main(["env", "check", str(tmp_path / "second.toml")]) == FAILED
    assert "is the domain of first in the same account" in capsys.readouterr().err
    (tmp_path / "first.toml").unlink()
    assert main(["env", "check", str(tmp_path / "second.toml")]) == DONE


def test_the_environments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The files that are there, deployed or not, and the example of each tier, told apart."""
    assert main(["env", "list", "--json"]) == DONE
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["demo"]["kind"] == "environment"
    assert {tier: rows[tier]["kind"] for tier in TIERS} == dict.fromkeys(TIERS, "example")
    assert main(["env", "list"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_no_node_is_started() -> None:
    """Whoever writes a file is answered at once."""
    code = (
        "import sys; from relight_cli.main import main; code = main(['env', 'check', 'batch']);"
        "sys.exit(code or any(name in sys.modules for name in ('jsii', 'cdktf', 'constructs')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

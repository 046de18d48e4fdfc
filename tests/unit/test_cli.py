"""The command line: what it refuses, and how it asks."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

from relight.errors import ConfigError
from relight_cli.console import confirmed
from relight_cli.main import VERBS, main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RELIGHT_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("verb", [verb.replace("_", "-") for verb in VERBS])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each verb says what it does and what it takes."""
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert "usage: relight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["smoke-test"], "no environment is named; give --environment NAME"),
        (["replay", "--environment", "nowhere"], "nowhere"),
        (["restore", "--yes"], "no environment is named"),
    ],
)
def test_wrong_input_is_usage(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when the input is wrong: exit code 2, one line, and the way out."""
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["replay", "--since", "yesterday"], "'yesterday' is not a time with an offset; write it as"),
        (["replay", "--since", "2026-04-19T02:00:00"], "is not a time with an offset"),
        (["recover", "--state", "dance"], "invalid choice: 'dance'"),
        (["drill", "--tier", "gold"], "invalid Tier value: 'gold'"),
        (["db", "status", "--yes"], "unrecognized arguments: --yes"),
        (["journal", "show", "--dry-run"], "unrecognized arguments: --dry-run"),
        ([], "required: VERB"),
    ],
)
def test_wrong_options_are_usage(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when an option is wrong: exit code 2 and what is allowed."""
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["rehearse", "--into-env"], ["divergence", "--environment", "demo", "--old-dsn-env"]])
def test_an_address_is_not_taken_from_the_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a connection string, or a variable that is empty, is given as the name of one; it is not shown."""
    assert main([*argv, "host=x password=secret"]) == 2
    told = capsys.readouterr().err
    assert "not the name of an environment variable" in told
    assert "secret" not in told
    assert main([*argv, "NOBODY_SET_THIS"]) == 2
    assert "the environment variable 'NOBODY_SET_THIS' is empty" in capsys.readouterr().err


def ask(monkeypatch: pytest.MonkeyPatch, answer: str | None, **flags: bool) -> bool:
    stdin = io.StringIO(answer or "")
    stdin.isatty = lambda: answer is not None  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", stdin)
    return confirmed(argparse.Namespace(**({"yes": False, "dry_run": False} | flags)), {"do": "something"})


@pytest.mark.parametrize("argv", [["recover", "--dry-run"], ["tasks", "list"]])
def test_whoever_has_no_credentials_is_told_how_to_have_some(argv: list[str]) -> None:
    """fails when AWS's own words are all that is said; what works from elsewhere is said by docs/runbook.md."""
    nothing = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-P", "-m", "relight_cli.main", *argv, "--environment", "demo"]
    done = subprocess.run(command, env=nothing, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Unable to locate credentials; log in (aws sso login), or set AWS_PROFILE" in done.stderr
    assert "--role" not in done.stderr


def test_a_drill_is_not_begun_whose_result_has_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fails when a folder is made for a mistyped path, a file is emptied, or anything is raised before."""

    def raised(**_: object) -> NoReturn:
        raise AssertionError("the drill was begun")

    monkeypatch.setattr("relight_drill.run.run_drill", raised)
    before = tmp_path / "drill.json"
    before.write_text("the last one's")
    nowhere, closed = tmp_path / "nowhere" / "report.txt", tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for path, says in (
        (nowhere, f"there is no folder {nowhere.parent}; make it"),
        (tmp_path, f"{tmp_path} is a folder; name a file in it"),
        (before / "x.txt", f"there is no folder {before}; make it"),
        *([(closed / "x.txt", f"{closed / 'x.txt'} cannot be written: Permission denied")] if os.geteuid() else []),
    ):
        assert main(["drill", "--json", str(before), "--report", str(path)]) == 2
        assert says in capsys.readouterr().err
    assert not nowhere.parent.exists()
    assert before.read_text() == "the last one's"


def test_nothing_is_done_without_a_yes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is shown first; only a yes, or --yes, carries it out, and --dry-run wins over both."""
    assert ask(monkeypatch, "y\n")
    assert not ask(monkeypatch, "\n")
    assert not ask(monkeypatch, "no\n")
    assert ask(monkeypatch, None, yes=True)
    assert not ask(monkeypatch, "y\n", yes=True, dry_run=True)
    with pytest.raises(ConfigError, match="add --yes"):
        ask(monkeypatch, None)
    assert capsys.readouterr().err.count("something") == 6


@pytest.mark.parametrize(
    ("argv", "told", "unbuffered"),
    [
        (["env", "check", "batch"], "stdout", ""),
        (["env", "check", "batch"], "stdout", "1"),
        (["env", "--help"], "stdout", ""),
        (["env", "check", "none.toml"], "stderr", ""),
    ],
)
def test_nobody_has_to_read_to_the_end(argv: list[str], told: str, unbuffered: str) -> None:
    """fails when a reader that has left gets a traceback, be it at the first line or at what was held back."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "relight_cli.main", *argv],
            stdout=pipe if told == "stdout" else subprocess.PIPE,
            stderr=pipe if told == "stderr" else subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
            timeout=60,
        )
    assert not done.stdout
    assert not done.stderr
    assert done.returncode == 141


def test_a_reader_that_leaves_in_the_middle() -> None:
    """It has had its lines; the verb ends as those of other tools do."""
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "relight_cli.main", "env", "check", "batch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(b"batch: ")
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode in (0, 141), "it may have been done before"


def test_a_server_that_hangs_up_is_no_reader_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke was not what is printed to: the error is shown as any other."""

    def hang_up(args: argparse.Namespace) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("relight_cli.env.run", hang_up)
    with pytest.raises(BrokenPipeError):
        main(["env", "list"])

"""The benchmarks' command: names, figures and JSON; what they measure is measured elsewhere."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as bench  # noqa: E402 - a command at the root, not an installed package
from benchmarks.figure import Figure  # noqa: E402
from benchmarks.measure import run as measure  # noqa: E402
from benchmarks.synth import Written, written_in  # noqa: E402

FIGURE = Figure(name="wall", unit="s", ours=1.0, peer=4.0, peer_name="the other")


def test_figures_are_written_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line per figure on stdout, and the same in the JSON; the ratio is ours over the peer's."""
    monkeypatch.setattr(bench, "BENCHMARKS", {"synth": lambda: [FIGURE]})
    assert bench.main(["synth", "--json", str(tmp_path / "out.json")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert [word in line for word in ("wall", "1.00 s", "4.00 s (the other)", "0.25")] == [True] * 4
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "figures": [{"name": "wall", "unit": "s", "ours": 1.0, "peer": 4.0, "peer_name": "the other", "ratio": 0.25}]
    }


def test_an_aim_that_was_missed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a figure falls behind its aim: the line says so, and the exit code is 3."""
    for aimed, code, said in (
        (replace(FIGURE, at_most=0.25), 0, "aim at most 0.25: met"),
        (replace(FIGURE, at_most=0.24), 3, "aim at most 0.24: MISSED"),
        (replace(FIGURE, at_least=0.25), 0, "aim at least 0.25: met"),
        (replace(FIGURE, at_least=0.8), 3, "aim at least 0.8: MISSED"),
    ):
        figures = [aimed, FIGURE]
        monkeypatch.setattr(bench, "BENCHMARKS", {"synth": lambda figures=figures: figures})
        assert bench.main(["synth"]) == code
        assert said in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_those_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing runs, and the names are shown."""
    with pytest.raises(SystemExit) as stopped:
        bench.main(["sinth"])
    assert stopped.value.code == 2
    assert f"no benchmark 'sinth'; there are: {', '.join(bench.BENCHMARKS)}" in capsys.readouterr().err


def test_children_count_too() -> None:
    """The memory of a command is that of its whole family."""
    code = (
        "import subprocess, sys;"
        "subprocess.run([sys.executable, '-c', 'import time; held = bytearray(150_000_000); time.sleep(0.5)'])"
    )
    usage = measure([sys.executable, "-c", code], cwd=ROOT)
    assert usage.peak_mib > 150
    assert usage.wall_s >= 0.5


def test_processor_time_is_not_waiting() -> None:
    """A command that waits uses none, one that counts uses some, and so do its children."""
    waits = "import time; time.sleep(0.5)"
    counts = "sum(range(3_000_000))"
    children = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {counts!r}], check=True)"
    idle, busy, family = (
        measure([sys.executable, "-S", "-c", code], cwd=ROOT).cpu_s for code in (waits, counts, children)
    )
    assert busy > idle
    assert family > idle


def test_fails_when_a_command_fails() -> None:
    """A figure is never made of a failure."""
    with pytest.raises(SystemExit, match="failed with exit code 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], cwd=ROOT)


def test_what_a_synthesis_wrote_is_counted_and_hashed(tmp_path: Path) -> None:
    """Resources of every stack count; and a byte more, a name more, or a file moved is another output."""

    def written(name: str, files: dict[str, str]) -> Written:
        for path, content in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(content)
        return written_in(tmp_path / name)

    stack = json.dumps({"resource": {"aws_sqs_queue": {"a": {}, "b": {}}, "aws_vpc": {"c": {}}}})
    files = {"stacks/x/cdk.tf.json": stack, "stacks/y/cdk.tf.json": stack, "manifest.json": "{}"}
    first = written("first", files)
    assert first.resources == 6
    assert written("again", files) == first
    for number, changed in enumerate(
        (
            {**files, "manifest.json": "{ }"},
            {**files, "more.json": ""},
            {"stacks/x/cdk.tf.json": stack, "stacks/y/cdk.tf.json": stack, "manifests.json": "{}"},
        )
    ):
        assert written(f"changed-{number}", changed).sha256 != first.sha256


def test_a_command_can_be_given_an_environment() -> None:
    """It sees that one and no other."""
    code = "import os, sys; sys.exit(os.environ.get('RELIGHT_BENCH') != 'yes' or 'HOME' in os.environ)"
    assert measure([sys.executable, "-P", "-c", code], cwd=ROOT, environment={"RELIGHT_BENCH": "yes"}).wall_s > 0

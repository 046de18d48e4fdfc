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


def test_fails_when_a_command_fails() -> None:
    """A figure is never made of a failure."""
    with pytest.raises(SystemExit, match="failed with exit code 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], cwd=ROOT)

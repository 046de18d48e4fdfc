"""The page on environments names every key that a file may have, and shows what the command really says."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from synthesis import ROOT

from relight_cli.main import main
from relight_stacks.loading import examples_folder, load_environment, load_environments
from relight_stacks.promises import promises
from relight_stacks.toml_table import Table

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
# The page on providers has these.
ELSEWHERE = ("providers", "provider_limits")


def asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> set[str]:
    """Every key that the loader asks for, over files that between them have every form."""
    found: set[str] = set()
    take, has = Table._take, Table.has

    def note(table: Table, key: str) -> None:
        found.add(re.sub(r"\[\d+\]", "", table._full(key)))

    def taking(self: Table, key: str, *rest: Any) -> Any:
        note(self, key)
        return take(self, key, *rest)

    def having(self: Table, key: str) -> bool:
        note(self, key)
        return has(self, key)

    monkeypatch.setattr(Table, "_take", taking)
    monkeypatch.setattr(Table, "has", having)
    text = (examples_folder() / "internal.toml").read_text()
    agent = re.search(r"\[agent\].*?(?=\n\[vector\])", text, re.DOTALL)
    assert agent is not None
    other = text.replace(agent.group(), "[agent]\nreplicas = 3\n")
    vpc = (
        'vpc_id = "vpc-12345678"\nroute_table_ids = ["rtb-12345678"]\n'
        'private_subnet_ids = ["subnet-12345678", "subnet-12345679"]\n'
        'public_subnet_ids = ["subnet-1234567a", "subnet-1234567b"]'
    )
    r2 = '[vault.standby]\nendpoint = "https://r2.example.com"\nbucket = "points"\n'
    work = '[large_work]\nimage = "agents:1"\n'
    files = {
        "plain": text,
        "own": text.replace('cidr = "10.30.0.0/16"', vpc).replace("[recovery]", f"{r2}\n[recovery]"),
        "pods": f'{other}\n{work}[capacity]\nkind = "eks"\ncluster = "c"\ndeployment = "d"\n',
        "machines": f'{other}\n{work}[capacity]\nkind = "auto-scaling"\ngroup = "g"\n',
    }
    for name, content in files.items():
        path = folder / f"{name}.toml"
        path.write_text(content)
        load_environment(path)
    return found


def test_every_key_is_on_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """fails when a key is added, and nobody says what it means; or when the page keeps one that is gone."""
    keys = asked(monkeypatch, tmp_path)
    names = {key.rpartition(".")[2] for key in keys if not key.startswith(ELSEWHERE)}
    assert len(names) > 80
    tables = PAGE.partition("## Keys")[2].partition("## What `env check` says")[0]
    written = set(re.findall(r"`\[{0,2}([a-z0-9_.]+)\]{0,2}`", tables))
    assert names - {part for word in written for part in word.split(".")} == set()
    listed = {
        word
        for row in re.findall(r"^\| (`[^|]*`) \|", tables, re.MULTILINE)
        for word in re.findall(r"`([a-z0-9_]+)`", row)
    }
    assert listed - names == set()


def test_the_excerpt_is_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a figure or a word on the page is another than the program's."""
    main(["env", "check", "internal"])
    said = capsys.readouterr().out.splitlines()
    shown = [line[4:] for line in PAGE.partition("## What `env check` says")[2].splitlines() if line.startswith("    ")]
    assert len(shown) > 30
    assert [line for line in shown if line not in said] == []


def test_the_costs_shown_are_all_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a line of the example's cost is left out, so that what is shown does not add up to what is said."""
    assert main(["env", "check", "internal"]) == 0
    told = capsys.readouterr().out
    block = told[told.index("What the standby costs") : told.index("  and for what is used")]
    assert "".join(f"    {line}\n" for line in block.splitlines()) in PAGE
    shown = [float(item) for item in re.findall(r"^ +([0-9]+\.[0-9]{2})  ", block, re.MULTILINE)]
    about = re.search(r"about ([0-9]+) USD", block)
    assert about is not None
    assert abs(sum(shown) - int(about[1])) <= 5


def test_the_table_of_tiers_is_that_of_the_code() -> None:
    """How often a point is taken, and how often the sentinel looks."""
    from relight_stacks.tiers import SHAPES

    minutes = {"5 min": 5, "hour": 60, "day": 1440}
    (points,) = re.findall(r"^\| a recovery point every \| (.*) \|$", PAGE, re.MULTILINE)
    assert [minutes[cell] for cell in points.split(" | ")] == [shape.snapshot_minutes for shape in SHAPES.values()]
    (noticed,) = re.findall(r"^\| noticed by \| (.*) \|$", PAGE, re.MULTILINE)
    every = [
        f"sentinel every {shape.probe_interval_s:g} s" if shape.standby else "a person" for shape in SHAPES.values()
    ]
    assert noticed.split(" | ") == every


def test_the_first_lines_promise_what_the_examples_do() -> None:
    """fails when the minutes that the README names are others than the sums of the examples."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(
        r"At worst it is (\d+) minutes for the example of the tier `([a-z-]+)`, (\d+) for `([a-z-]+)`.*? and (\d+) for "
        r"`([a-z-]+)`, which may lose the newest (\d+) minutes",
        readme,
    )
    *pairs, lost = named
    examples = {item.name: promises(item) for item in load_environments(examples_folder())}
    for minutes, name in zip(pairs[::2], pairs[1::2], strict=True):
        assert int(minutes) == math.ceil(examples[name].rto.seconds / 60), name
    assert int(lost) * 60 == examples[pairs[-1]].rpo_s

"""The page on vaults: its commands are there, its figures are the code's, and it names all that a vault holds."""

from __future__ import annotations

import re
import shlex

import pytest
from synthesis import ROOT

from relight.objectives import Tier
from relight_cli.main import parser
from relight_constructs import access
from relight_constructs.lifecycle import LEAST_END_DAYS, USUAL_LADDER
from relight_stacks.environment import Vaults
from relight_stacks.tiers import SHAPES

PAGE = (ROOT / "docs" / "vault.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    relight ([^#\n]*)", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_is_one(command: str) -> None:
    """fails when the page tells somebody in need to run what the CLI does not know."""
    args = parser().parse_args(shlex.split(command))
    assert args.environment == "prod"


def test_the_page_has_its_commands() -> None:
    """What can be done by hand about deletions is there."""
    assert {shlex.split(command)[1] for command in COMMANDS} == {"undelete", "hold", "release"}


def test_everything_that_a_vault_holds_is_named() -> None:
    """By the prefixes that grants are made for."""
    places = {access.POINTS, access.JOURNAL, access.FINDINGS, access.RUNS, access.REHEARSALS, access.RESULTS}
    assert set(re.findall(r"^\| `([a-z]+/)` \|", PAGE, re.MULTILINE)) == places


def test_the_figures_are_the_codes() -> None:
    """fails when a default is changed and the page tells of another."""
    text = " ".join(PAGE.split())
    default, minutes = Vaults(), SHAPES[Tier.INTERNAL].snapshot_minutes
    a_day = 24 * 60 // minutes
    assert f'lock = "{default.lock}"`, the default' in text
    assert f"for `lock_days` ({default.lock_days})" in text
    assert f"some {default.lock_days * a_day:,} points" in text
    assert f"`lock_days = 1` makes it {a_day}" in text
    assert f"the ladder's {USUAL_LADDER.hourly + USUAL_LADDER.daily + USUAL_LADDER.monthly}." in text
    assert f"{USUAL_LADDER.cool_days} days with the usual ladder" in text
    assert f"after {LEAST_END_DAYS} days at least" in text

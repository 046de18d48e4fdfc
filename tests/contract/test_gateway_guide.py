"""What docs/gateway.md says: its file is one, its numbers and statuses are the gateway's, its links lead somewhere."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from relight.providers.gateway import anthropic_face, openai_face
from relight.providers.gateway.app import DEGRADE, DEGRADED, DROPPED, GRACE_S, MODEL, PROVIDER, Options
from relight.providers.gateway.config import load_config
from relight.providers.gateway.face import MOST_VALUES, Trouble
from relight.providers.open import open_provider
from relight_cli.gateway import PORT, configure

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"
TEXT = GUIDE.read_text("utf-8")

ROWS = {
    "the request is wrong, or no provider can do it": Trouble.INVALID,
    "nobody can be asked now": Trouble.PROVIDERS_DOWN,
    "the client would rather wait": Trouble.WOULD_DEGRADE,
    "the time is over": Trouble.DEADLINE,
    "answers came, none of use": Trouble.UNUSABLE,
    "the body is above 32 MiB, or holds above a million values": Trouble.TOO_LARGE,
    "the bodies under way are above 128 MiB together": Trouble.BUSY,
}


@pytest.mark.anyio
async def test_the_guides_file_is_one(tmp_path: Path) -> None:
    """fails when the TOML is not what `--config` takes, or names a model that the SDK does not know."""
    (file := tmp_path / "gateway.toml").write_text(re.findall(r"^```toml\n(.*?)^```$", TEXT, re.M | re.S)[0], "utf-8")
    config = load_config(file, {"ANTHROPIC_API_KEY": "a-key"})
    assert [spec.name for spec in config.providers] == ["anthropic", "local"]
    for spec in config.providers:
        await open_provider(spec, config.keys.get(spec.name, "")).close()


@pytest.mark.parametrize("says", ROWS)
def test_the_guides_statuses(says: str) -> None:
    """fails when an error has another status or name than the guide says."""
    row = re.search(rf"^\| {re.escape(says)} \| (.*) \| (.*) \|$", TEXT, re.MULTILINE)
    assert row is not None
    status, name = anthropic_face.STATUSES[ROWS[says]]
    assert row[1].removesuffix(", `Retry-After`") == f"{status} `{name}`"
    status, kind, code = openai_face.STATUSES[ROWS[says]]
    assert row[2].removesuffix(", `Retry-After`") == f"{status} `{code or kind}`"


def test_the_guides_numbers() -> None:
    """fails when a limit, a header or an option is another than the guide says."""
    options = Options()
    assert (options.ping_s, GRACE_S, MOST_VALUES) == (10.0, 10.0, 1_000_000)
    assert f"{options.largest_body >> 20} MiB" in TEXT
    assert f"{options.bodies_at_once >> 20} MiB" in TEXT
    assert f"gets {options.max_tokens};" in TEXT
    assert f"http://127.0.0.1:{PORT}/v1" in TEXT
    assert f"lists one, `{MODEL}`" in TEXT
    assert {PROVIDER, DEGRADED, DROPPED, DEGRADE} == set(re.findall(r"^\| `(x-relight-\w+)", TEXT, re.MULTILINE))
    configure(parser := argparse.ArgumentParser())
    known = {option for action in parser._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) <= known


def test_the_guides_links() -> None:
    """They lead to files."""
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert links != []
    for link in links:
        assert link.startswith("https://") or (GUIDE.parent / link).exists(), link

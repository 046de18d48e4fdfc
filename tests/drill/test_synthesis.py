"""The stacks of worlds are synthesized once for the same input, and never kept half."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from relight_drill.processes import DrillError, ProcessGroup
from relight_drill.synthesis import synthesize

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_synthesized_is_used_again(tmp_path: Path) -> None:
    """A second world starts no synthesis, one with other input does, and what failed leaves nothing to be found."""
    bundle, cache = tmp_path / "bundle.zip", tmp_path / "cache"
    bundle.write_bytes(b"nobody reads it here")

    def world(name: str, environment: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        arguments: list[str | Path] = ["--environment", environment, "--bundle", bundle]
        with ProcessGroup() as group:
            return asyncio.run(synthesize(arguments, cache=cache, group=group, folder=folder))

    first, second = world("first", "demo"), world("second", "demo")
    assert first.resolve() == second.resolve()
    assert (second / "manifest.json").is_file()
    assert (tmp_path / "first" / "synth.log").exists()
    assert not (tmp_path / "second" / "synth.log").exists()
    with pytest.raises(DrillError, match="synth failed with exit code 1") as failure:
        world("third", "nowhere")
    assert "no environment 'nowhere'" in failure.value.hint
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [first.resolve().name]

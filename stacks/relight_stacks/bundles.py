"""The zips that functions run. Pure: nothing here starts node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """The zips that functions run: `region` with the driver of the environment's vector store, `providers` with the
    SDKs of LLM providers."""

    region: Path
    providers: Path

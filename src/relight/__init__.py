"""Relight: disaster recovery for self-hosted AI agents on AWS."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("relight")
except PackageNotFoundError:  # a Lambda bundle carries no distribution metadata
    __version__ = "0.1.0"

"""One synthesis for all of these tests."""

from synthesis import bundle_file, synthesis

__all__ = ["bundle_file", "synthesis"]

"""One synthesis for all of these tests."""

from synthesis import bundle_file, syntheses, synthesis

__all__ = ["bundle_file", "syntheses", "synthesis"]

"""One synthesis for all of these tests."""

from infra.variants import variants
from synthesis import bundle_file, syntheses, synthesis

__all__ = ["bundle_file", "syntheses", "synthesis", "variants"]

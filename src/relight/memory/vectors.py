"""What every store can hold; vectors as bytes: 32-bit floats, little end first, as in journal and manifests."""

from __future__ import annotations

import math
import sys
from array import array
from typing import TYPE_CHECKING

from relight.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack(vector: Sequence[float]) -> bytes:
    """Four bytes for each component.

    Raises PermanentError for a component that no store accepts (not a number, or beyond a 32-bit float): one such entry
    in the journal would stop every region's applier.
    """
    try:
        packed = array("f", vector)
    except (TypeError, OverflowError) as exc:
        raise PermanentError("a vector holds something that is not a 32-bit float", hint="pass floats") from exc
    # A sum of 32-bit floats, in 64 bits, is finite when each of them is; it takes a tenth of the time of asking each.
    if not math.isfinite(sum(packed)):
        bad = next(i for i, value in enumerate(packed) if not math.isfinite(value))
        raise PermanentError(f"component {bad} of a vector is {vector[bad]!r}", hint="pass finite 32-bit floats")
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(data: bytes) -> array[float]:
    """The inverse of `pack`."""
    vector = array("f")
    vector.frombytes(data)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


def is_text(value: str) -> bool:
    """Whether every store takes it as an id or a name: not empty, no NUL, no half of a surrogate pair."""
    try:
        return bool(value) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False

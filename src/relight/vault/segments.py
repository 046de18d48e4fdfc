"""Where archived parts of the journal are in a vault, and how long they stay."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from relight.vault.points import PointStatus
    from relight.vault.store import StoredObject

PREFIX = "journal/"
_KEY = re.compile(r"journal/([^/]+)/(\d{20})-(\d{20})_(\d{20})-(\d{20})_[0-9a-f]{16}\.jsonl\.gz")

# A place in the journal, as (xid, seq).
Place = tuple[int, int]


def prefix(collection: str) -> str:
    """What the keys of a collection's segments begin with."""
    return f"{PREFIX}{quote(collection, safe='')}/"


def segment_key(collection: str, after: Place, until: Place, sha256: str) -> str:
    """The key of what holds a collection's entries after `after` up to `until`, sorted as they are.

    It names the content too: other bytes never take the place of these.
    """
    span = "_".join(f"{xid:020}-{seq:020}" for xid, seq in (after, until))
    return f"{prefix(collection)}{span}_{sha256[:16]}.jsonl.gz"


def parse_key(key: str) -> tuple[str, Place] | None:
    """(collection, until) of a segment's key; None for a key that is none."""
    found = _KEY.fullmatch(key)
    return None if found is None else (unquote(found[1]), (int(found[4]), int(found[5])))


def plan_segments(
    objects: Iterable[StoredObject],
    points: Mapping[str, PointStatus],
    rungs: Mapping[str, tuple[str, ...]],
    *,
    keep_daily: int,
    now: datetime,
) -> list[str]:
    """The keys that no point needs any more which holds an hourly or a daily rung, or is the newest.

    A point needs the segments that end after it. Where such a point's manifest cannot be read, it needs what the one
    before it needs, and everything when there is none before it. Of a collection that no such point has, a segment goes
    when it is as old as the daily rungs would be.
    """
    anchors = [point for point in sorted(rungs) if {*rungs[point]} - {"monthly"} and point in points]
    manifests = [points[point].manifest for point in anchors]
    if not manifests or manifests[0] is None:
        return []
    needed: dict[str, Place] = {}
    for manifest in manifests:
        for part in manifest.collections if manifest is not None else ():
            xid, _, seq = part.position.partition(":")
            if not (xid.isdecimal() and seq.isdecimal()):
                return []
            place = int(xid), int(seq)
            needed[part.name] = min(place, needed.get(part.name, place))
    going = []
    for item in objects:
        found = parse_key(item.key)
        if found is None:
            continue
        collection, until = found
        unused = item.modified < now - timedelta(days=keep_daily)
        if until <= needed[collection] if collection in needed else unused:
            going.append(item.key)
    return going

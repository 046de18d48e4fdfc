"""What people may do about deletions: bring a point back that one hides, and keep a point whatever the ladder says.

No function has the permissions for it, so it is done with a person's own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import ConflictError, NotFoundError
from relight.vault.points import PREFIX, is_id, manifest_key, status_of

if TYPE_CHECKING:
    from datetime import datetime

    from relight.vault.points import PointStatus
    from relight.vault.store import HiddenObject, Vault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenPoint:
    """A point whose manifest a deletion hides, with all of its objects that are still there."""

    id: str
    hidden_at: datetime
    objects: tuple[HiddenObject, ...]

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(item.bytes for item in self.objects)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "id": self.id,
            "hidden_at": self.hidden_at.isoformat(),
            "objects": len(self.objects),
            "bytes": self.bytes,
        }


def hidden_points(vault: Vault, *, point: str = "") -> list[HiddenPoint]:
    """The points that a deletion hides, newest first, or that one alone; a sealed point that is seen is none."""
    found: dict[str, list[HiddenObject]] = {}
    for item in vault.hidden(f"{PREFIX}{point}/" if point else PREFIX):
        found.setdefault(item.key.split("/")[1], []).append(item)
    points = []
    for id_, objects in sorted(found.items(), reverse=True):
        manifest = next((item for item in objects if is_id(id_) and item.key == manifest_key(id_)), None)
        if manifest is not None:
            points.append(HiddenPoint(id=id_, hidden_at=manifest.hidden_at, objects=tuple(objects)))
    return points


def hidden_point(vault: Vault, point: str) -> HiddenPoint:
    """One point that a deletion hides; NotFoundError when it is not hidden, or gone for good."""
    manifest_key(point)
    for found in hidden_points(vault, point=point):
        return found
    raise NotFoundError(
        f"{vault} hides no point {point}", hint="`relight points undelete` shows which can be brought back"
    )


def undelete(vault: Vault, point: str) -> PointStatus:
    """Show a point again and return what it is now; NotFoundError when it is not hidden.

    The manifest comes last, as when it was sealed: cut off before, it can be run again.
    """
    manifest = manifest_key(point)
    for item in sorted(hidden_point(vault, point).objects, key=lambda item: item.key == manifest):
        vault.unhide(item)
    status = status_of(vault, point)
    log.info("point_undeleted", extra={"point": point, "region": vault.region, "reason": status.reason})
    return status


def hold(vault: Vault, point: str, *, held: bool) -> int:
    """Hold every object of a sealed point, or release them all; how many there are.

    A prune leaves a held point, and its lock outlasts every other. Run again, it changes nothing. NotFoundError when
    there is nothing of it, ConflictError when it is not sealed.
    """
    if not status_of(vault, point).sealed:
        raise ConflictError(f"the point {point} is not sealed", hint="hold one that is")
    keys = [*vault.list_keys(f"{PREFIX}{point}/")]
    for key in keys:
        vault.hold(key, held=held)
    log.info("point_held" if held else "point_released", extra={"point": point, "region": vault.region})
    return len(keys)

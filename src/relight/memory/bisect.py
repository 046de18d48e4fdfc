"""The newest recovery point from before the corruption: restored up the ladder, scored, and dropped again."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from relight.errors import IntegrityError, NotFoundError
from relight.memory.scratch import scratch
from relight.vault.points import manifest_key, survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.memory.scratch import Check
    from relight.memory.store import CollectionSpec, VectorStore
    from relight.vault.points import PointStatus
    from relight.vault.store import Vault

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One point that was restored. `good` is None when it could not be, and says nothing then."""

    point: str
    good: bool | None
    recall: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """`newest_good` is None when not even the reference is good; `oldest_bad` is None when the newest point is good."""

    reference: str
    newest_good: str | None
    oldest_bad: str | None
    candidates: int
    tried: tuple[Tried, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def newest_good(count: int, ask: Callable[[int], bool | None]) -> int | None:
    """The last of `count` things in order of which `ask` says True, where all after the first bad one are bad.

    Asks at most ceil(log2(count)) + 1 times, and once more for each answer None, which means that it cannot be told.
    """
    left = list(range(count))
    low, high = 0, count  # what is before `low` is good, what is from `high` on is bad
    while low < high:
        middle = (low + high) // 2
        answer = ask(left[middle])
        if answer is None:
            del left[middle]
            high -= 1
        elif answer:
            low = middle + 1
        else:
            high = middle
    return left[low - 1] if low else None


def bisect(
    *,
    store: VectorStore,
    vault: Vault,
    spec: CollectionSpec,
    floor: float,
    good: str | None = None,
    check: Check | None = None,
    dsn: str = "",
    progress: Callable[[Tried], None] = lambda _: None,
) -> Bisection:
    """Find the newest eligible point that still answers the canaries of an old one as that one did.

    The reference is the point `good`, else the oldest eligible one. A point is good when the recall of the reference's
    canaries reaches `floor`, and `check` passes where there is one. Each is restored into a scratch collection of
    `store`; the live one is not touched. NotFoundError when there is no such reference, ConfigError when `store` has no
    place for a scratch collection.
    """
    points = candidates(vault, spec, good)
    reference = points[0]
    part = reference.manifest.collection(spec.name) if reference.manifest else None
    canaries = part.canaries if part else ()
    tried: list[Tried] = []

    def ask(number: int) -> bool | None:
        point = points[number]
        try:
            with scratch(store=store, vault=vault, spec=spec, status=point, purpose="bisect", floor=0.0) as found:
                recall = store.score(found.name, canaries)
                reason = "" if recall >= floor else f"the recall is {recall:.3f}, below the floor of {floor:g}"
                if not reason and check is not None:
                    reason = check.run(found.name, dsn)
                tried.append(Tried(point=point.id, good=not reason, recall=recall, reason=reason))
        except (IntegrityError, NotFoundError) as exc:
            tried.append(Tried(point=point.id, good=None, recall=None, reason=str(exc)))
        log.info("point_tried", extra={"point": point.id, "good": tried[-1].good, "reason": tried[-1].reason})
        progress(tried[-1])
        return tried[-1].good

    found = newest_good(len(points), ask)
    return Bisection(
        reference=reference.id,
        newest_good=None if found is None else points[found].id,
        oldest_bad=min((item.point for item in tried if item.good is False), default=None),
        candidates=len(points),
        tried=tuple(tried),
    )


def candidates(vault: Vault, spec: CollectionSpec, good: str | None) -> list[PointStatus]:
    """The eligible points with that collection from the reference on, oldest first; the first is the reference."""
    if good is not None:
        manifest_key(good)
    found = [
        status
        for status in survey(vault)
        if status.eligible and status.manifest is not None and status.manifest.collection(spec.name) is not None
    ][::-1]
    if good is not None:
        found = [status for status in found if status.id >= good]
    if not found or (good is not None and found[0].id != good):
        raise NotFoundError(
            f"{vault} holds no eligible point {good or ''} with a collection {spec.name!r}",
            hint="`relight points list` says why",
        )
    return found

"""Catching up between two vaults, where no replication of the store does it or an outage left it behind."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from relight.clock import parse_time
from relight.errors import ConflictError, IntegrityError, NotFoundError
from relight.vault.points import manifest_key, survey
from relight.vault.retention import held_point, plan_retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from relight.vault.manifest import Manifest
    from relight.vault.store import Vault

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024

RESULTS = "results/"
# What a vault holds beside points, of which nothing else is told when it is missing. The journal is not among it: it is
# in the state database until whoever archives it has put it into both vaults.
BESIDE = (*(f"{RESULTS}{digit}" for digit in "0123456789abcdef"), "runs/", "rehearsals/")


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One point that was carried to `region`, or would be.

    `reason` says why it could not be, and is empty; `left` means that it was not tried to its end: the next run is to
    go on with it. `bytes` is what went across, or all that the point has where it is left.
    """

    point: str
    region: str
    bytes: int
    reason: str
    left: bool = False

    @property
    def lacking(self) -> bool:
        """Whether the point is still not there."""
        return self.left or bool(self.reason)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """How many objects beside points were carried, with how many bytes; `left` means that there are more."""

    objects: int
    bytes: int
    failed: dict[str, str]
    left: bool

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


class _OutOfTimeError(Exception):
    """The time that was given is used up."""


def copy_points(
    one: Vault,
    other: Vault,
    *,
    keep_hourly: int,
    keep_daily: int,
    keep_monthly: int,
    now: datetime,
    back: bool = True,
    largest: int | None = None,
    out_of_time: Callable[[], bool] = _never,
    dry_run: bool = False,
) -> list[Copied]:
    """Give each vault the eligible points of the other that it lacks and that retention would keep, newest first.

    Without `back`, only `other` gets what it lacks. A point of more than `largest` bytes is left.

    The objects go first, hashed on the way, and the manifest last and conditionally, so that a copy that is cut leaves
    no point; run again, it goes on with what is missing. A point whose bytes are not what its manifest says is reported
    and not copied. Once `out_of_time`, also in the middle of an object, what is under way is given up and the rest is
    left. Memory is bounded, whatever the size. Raises UnavailableError when a vault fails: what was copied stays.
    """
    held = {vault.region: {status.id: status for status in survey(vault)} for vault in (one, other)}
    plan = plan_retention(
        (held_point(status) for points in held.values() for status in points.values()),
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_monthly=keep_monthly,
        now=now,
    )
    done = []
    for point in plan.keep:
        for source, target in ((one, other), (other, one)) if back else ((one, other),):
            here, there = held[source.region].get(point), held[target.region].get(point)
            if here is None or not here.eligible or here.manifest is None or (there is not None and there.eligible):
                continue
            reason, size = "", here.manifest.total_bytes
            left = (largest is not None and size > largest) or out_of_time()
            if not dry_run and not left:
                anew = there is not None and there.damaged
                try:
                    reason, size = _copy(source, target, here.manifest, anew=anew, out_of_time=out_of_time)
                except _OutOfTimeError:
                    left = True
            done.append(Copied(point=point, region=target.region, bytes=size, reason=reason, left=left))
    return done


def copy_beside(source: Vault, target: Vault, *, out_of_time: Callable[[], bool] = _never) -> Beside:
    """Give `target` what `source` holds beside points and it lacks: large results of steps, timelines, rehearsals.

    Nothing is overwritten that has the size of the other, and nothing is removed. A result is hashed on the way,
    because its key names its content; one that is not what it says is reported and not copied.
    """
    objects = size = 0
    failed: dict[str, str] = {}
    for prefix in BESIDE:
        there = {item.key: item.bytes for item in target.objects(prefix)}
        for item in source.objects(prefix):
            if there.get(item.key) == item.bytes:
                continue
            if out_of_time():
                return Beside(objects=objects, bytes=size, failed=failed, left=True)
            digest = item.key.removeprefix(RESULTS).removesuffix(".json") if item.key.startswith(RESULTS) else None
            try:
                _stream(source, target, item.key, size=item.bytes, sha256=digest, out_of_time=out_of_time)
            except _OutOfTimeError:
                return Beside(objects=objects, bytes=size, failed=failed, left=True)
            except (IntegrityError, NotFoundError) as exc:
                failed[item.key] = exc.problem
                log.error("object_not_copied", extra={"key": item.key, "region": target.region, "reason": exc.problem})
                continue
            objects, size = objects + 1, size + item.bytes
    return Beside(objects=objects, bytes=size, failed=failed, left=False)


def lag_s(copied: Iterable[Copied], *, now: datetime) -> float:
    """How long the oldest point that is still lacking has been waiting; 0 when none is."""
    waiting = [(now - parse_time(item.point)).total_seconds() for item in copied if item.lacking]
    return max([0.0, *waiting])


def _copy(
    source: Vault, target: Vault, manifest: Manifest, *, anew: bool, out_of_time: Callable[[], bool]
) -> tuple[str, int]:
    """(reason, bytes): why the point could not be copied, empty when it was, and how much went across."""
    copied = 0
    key = manifest_key(manifest.id)
    # What is there and of the right size is from a copy that was cut; with `anew` it was read, and found damaged.
    sizes = {} if anew else {item.key: item.bytes for item in target.objects(key.rpartition("/")[0] + "/")}
    try:
        for piece in manifest.pieces:
            if sizes.get(piece.object) != piece.bytes:
                _stream(source, target, piece.object, size=piece.bytes, sha256=piece.sha256, out_of_time=out_of_time)
                copied += piece.bytes
        target.put_bytes(key, manifest.to_json().encode(), only_if_absent=True)
    except (ConflictError, IntegrityError, NotFoundError) as exc:
        reason = f"{target} holds another manifest of it" if isinstance(exc, ConflictError) else str(exc)
        log.error("point_not_copied", extra={"point": manifest.id, "region": target.region, "reason": reason})
        return reason, copied
    log.info("point_copied", extra={"point": manifest.id, "region": target.region, "bytes": copied})
    return "", copied


def _stream(
    source: Vault, target: Vault, key: str, *, size: int, sha256: str | None, out_of_time: Callable[[], bool]
) -> None:
    with source.reader(key) as body, target.writer(key, size=size) as sink:
        while data := body.read(_READ_BYTES):
            sink.write(data)
            if out_of_time():
                raise _OutOfTimeError
        if body.bytes != size or (sha256 is not None and body.sha256 != sha256):
            raise IntegrityError(
                f"{key} in {source.region} has {body.bytes} bytes with SHA-256 {body.sha256}, and it should have "
                f"{size}{f' with {sha256}' if sha256 else ''}",
                hint="verify the points there",
            )

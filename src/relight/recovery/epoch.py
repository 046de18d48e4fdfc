"""The epoch and the lease: which region may act, and until when.

Both live in one object of one small bucket, and change by conditional write only. The holder renews; recovery takes the
next epoch, so that the old holder can renew no more, and then waits the old lease out.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from relight.adapters import aws
from relight.config import OnLeaseLost
from relight.errors import (
    ConflictError,
    IntegrityError,
    LeaseLostError,
    NotFoundError,
    OvertakenError,
    RelightError,
    StaleEpochError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.clock import Clock

LEASE_KEY = "lease.json"
# The run id of an epoch that no recovery took.
FIRST = "first"
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one region to act under one epoch until `expires_at` (UTC)."""

    epoch: int
    region: str
    run_id: str
    expires_at: datetime

    def to_json(self) -> bytes:
        """The object's bytes."""
        return json.dumps({**asdict(self), "expires_at": self.expires_at.isoformat()}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Lease:
        """Parse the object; IntegrityError when it is not a lease."""
        try:
            value = json.loads(body)
            expires_at = datetime.fromisoformat(value.pop("expires_at"))
            return cls(**value, expires_at=expires_at)
        except (ValueError, KeyError, TypeError) as exc:
            raise IntegrityError(
                f"{LEASE_KEY} does not hold a lease", hint="see who wrote to the lease bucket, then recover by hand"
            ) from exc


class LeaseStore:
    """Compare-and-swap on the lease object."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def read(self) -> tuple[Lease, str] | None:
        """The lease and the tag that `write` compares; None before the first."""
        try:
            with aws.translating():
                answer = self._s3.get_object(Bucket=self._bucket, Key=LEASE_KEY)
                body = answer["Body"].read()
        except NotFoundError:
            return None
        return Lease.from_json(body), answer["ETag"]

    def write(self, lease: Lease, *, instead_of: str | None) -> str:
        """Replace the object whose tag is `instead_of` (None: there is no object) and return the new tag.

        Raises ConflictError when somebody else was first.
        """
        condition = {"IfMatch": instead_of} if instead_of else {"IfNoneMatch": "*"}
        with aws.translating():
            answer = self._s3.put_object(Bucket=self._bucket, Key=LEASE_KEY, Body=lease.to_json(), **condition)
        return str(answer["ETag"])


class HeldLease(Protocol):
    """What somebody who acts must ask first."""

    @property
    def epoch(self) -> int:
        """The epoch of the lease that is held; LeaseLostError when none is."""
        ...

    def check(self, for_s: float = 0.0) -> None:
        """Return when the lease is live for `for_s` seconds more; LeaseLostError otherwise."""
        ...


class LeaseKeeper:
    """Keeps a region's lease alive and answers, locally and without a call, whether it is.

    The time left is counted on the monotonic clock from before the renewal was sent, so that neither a slow answer nor
    a step of the wall clock makes it longer than what recovery waits out. Several processes of one region may keep the
    same lease.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        region: str,
        ttl_s: float,
        margin_s: float,
        clock: Clock,
        on_lost: OnLeaseLost = OnLeaseLost.FENCE,
    ) -> None:
        self._store = store
        self._region = region
        self._ttl_s = ttl_s
        self._margin_s = margin_s
        self._clock = clock
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._held: tuple[Lease, float] | None = None
        self._seen: tuple[str, float] | None = None
        self._reachable = True

    @property
    def epoch(self) -> int:
        held = self._held
        if held is None:
            raise LeaseLostError(f"{self._region} holds no lease", hint="it is not this region's turn")
        return held[0].epoch

    def remaining_s(self) -> float:
        """Seconds for which this region may still act, the margin taken off; 0 when it may not."""
        held = self._held
        if held is None:
            return 0.0
        if self._on_lost is OnLeaseLost.SERVE and not self._reachable:
            return self._ttl_s
        return max(0.0, held[1] - self._margin_s - self._clock.monotonic())

    def check(self, for_s: float = 0.0) -> None:
        epoch = self.epoch
        left = self.remaining_s()
        if left <= for_s:
            raise LeaseLostError(
                f"the lease of {self._region} on epoch {epoch} is live for {left:.1f} s and {for_s:g} s are needed",
                hint="nothing was done; the holder of the newest epoch acts",
            )

    def acting(self) -> str | None:
        """The region whose lease was live when it was last read, and has not run out since; None when nobody's is.

        What this region itself may do, `check` tells alone.
        """
        seen = self._seen
        return seen[0] if seen is not None and self._clock.monotonic() < seen[1] else None

    def renew(self) -> float:
        """Read the lease and renew it if it is this region's; return the seconds to wait before the next call.

        Never raises when the store cannot be reached: the lease then runs out by itself.
        """
        with self._lock:
            try:
                self._renew()
                self._reachable = True
            except ConflictError:
                # Another process of this region renewed first, or recovery took the next epoch: read again at once.
                return 0.1
            except RelightError:
                self._reachable = False
        return self._ttl_s / 5

    def _renew(self) -> None:
        before = self._clock.monotonic()
        now = self._clock.now()
        found = self._store.read()
        self._seen = None if found is None else _known(found[0], now, before)
        if found is None or found[0].region != self._region:
            self._held = None
            return
        lease, tag = found
        if self._held is not None and lease.epoch < self._held[0].epoch:
            raise StaleEpochError(f"the lease went back from epoch {self._held[0].epoch} to {lease.epoch}")
        left = (lease.expires_at - now).total_seconds()
        if left > self._ttl_s * 0.8:
            # Renewed a moment ago by another process of this region.
            self._held = lease, before + min(left, self._ttl_s)
            return
        renewed = replace(lease, expires_at=now + timedelta(seconds=self._ttl_s))
        self._store.write(renewed, instead_of=tag)
        self._held = renewed, before + self._ttl_s
        self._seen = _known(renewed, now, before)

    def run(self, stop: threading.Event) -> None:
        """Renew until `stop` is set."""
        while not stop.wait(self.renew()):
            pass


def _known(lease: Lease, now: datetime, monotonic: float) -> tuple[str, float]:
    """Whose a lease is, and when it runs out on the monotonic clock."""
    return lease.region, monotonic + (lease.expires_at - now).total_seconds()


def take_first(store: LeaseStore, *, region: str, ttl_s: float, clock: Clock) -> Lease:
    """Give the first epoch to `region`; a later call returns the lease that is there."""
    found = store.read()
    if found is not None:
        return found[0]
    lease = Lease(epoch=1, region=region, run_id=FIRST, expires_at=clock.now() + timedelta(seconds=ttl_s))
    store.write(lease, instead_of=None)
    return lease


def take_next(
    store: LeaseStore,
    *,
    region: str,
    run_id: str,
    ttl_s: float,
    margin_s: float,
    clock: Clock,
    next_epoch: int | None = None,
    waiting: Callable[[float], None] = lambda _: None,
) -> Lease:
    """Take the next epoch for `region`, wait the old lease out, and return the new lease.

    Called again by the same run, it returns what that run took, after the same wait. The wait is the old lease's own
    remainder plus `margin_s` for the difference between two machines' clocks. OvertakenError when `next_epoch` is given
    and is no longer the next: another recovery was first, and its region must not lose the lease to this one.
    """
    for _ in range(_ATTEMPTS):
        found = store.read()
        if found is None:
            raise NotFoundError("there is no lease to take over", hint="run `relight init` in the primary first")
        old, tag = found
        if old.run_id == run_id:
            _wait_until(old.expires_at - timedelta(seconds=ttl_s), clock, waiting)
            return old
        if next_epoch is not None and old.epoch + 1 != next_epoch:
            raise OvertakenError(
                f"run {run_id} was to take epoch {next_epoch}, and epoch {old.epoch} is held by {old.region} already",
                hint="another recovery was first; see its timeline",
            )
        until = max(old.expires_at + timedelta(seconds=margin_s), clock.now())
        new = Lease(epoch=old.epoch + 1, region=region, run_id=run_id, expires_at=until + timedelta(seconds=ttl_s))
        try:
            store.write(new, instead_of=tag)
        except ConflictError:
            continue  # the old holder renewed in between
        _wait_until(until, clock, waiting)
        return new
    raise ConflictError(f"the lease changed {_ATTEMPTS} times while {region} tried to take it", hint="run it again")


def _wait_until(moment: datetime, clock: Clock, waiting: Callable[[float], None]) -> None:
    left = (moment - clock.now()).total_seconds()
    if left > 0:
        waiting(left)
        clock.sleep(left)

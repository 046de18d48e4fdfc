"""Points in real vaults: pruned, read back, carried across. Amazon's S3 as the emulator plays it, and SeaweedFS."""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError, ConnectionClosedError
from fakes import FakeClock
from point_helpers import make_manifest, seal_point

from relight.clock import SystemClock, point_id
from relight.errors import IntegrityError, NotFoundError, UnavailableError
from relight.vault import points
from relight.vault.copy import Copied, copy_points
from relight.vault.retention import Pruned, prune
from relight.vault.store import Vault
from relight.vault.verify import Verification, verify_points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.seaweed import Seaweed

    from relight.vault.store import ObjectReader
    from relight_drill.emulator import Emulator

    MakeVault = Callable[..., Vault]

pytestmark = pytest.mark.servers

LADDER: dict[str, Any] = {"keep_hourly": 1, "keep_daily": 0, "keep_monthly": 0}
XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
WIDE: dict[str, Any] = {"keep_hourly": 24, "keep_daily": 14, "keep_monthly": 12}
OLD, NEW = "20260419T013000Z", "20260419T023000Z"
IN_TWO_DAYS = datetime.now(UTC) + timedelta(days=2)


def cut(client: Any, operation: str, *, at_call: int = 1) -> Callable[[], None]:
    """Break the connection at that call of the operation and at every later one; returns what mends it."""
    calls = 0

    def before_send(**_: object) -> None:
        nonlocal calls
        calls += 1
        if calls >= at_call:
            raise ConnectionClosedError(endpoint_url="test")

    client.meta.events.register(f"before-send.s3.{operation}", before_send)
    return lambda: client.meta.events.unregister(f"before-send.s3.{operation}", before_send)


@pytest.fixture(scope="module")
def elsewhere(seaweed_server: Seaweed) -> Any:
    """A client of a server that is not Amazon's."""
    return seaweed_server.client()


@pytest.fixture(params=["s3", "elsewhere"])
def client(request: pytest.FixtureRequest) -> Any:
    """A client of each kind of server; a test that breaks it mends it."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_vault() -> Iterator[MakeVault]:
    """Makes empty vaults. They go afterwards: SeaweedFS keeps volumes for each bucket, and has so many."""
    made: list[Vault] = []

    def make(client: Any, *, region: str = "us-east-1", **options: Any) -> Vault:
        bucket = f"points-{secrets.token_hex(6)}"
        client.create_bucket(Bucket=bucket, **options)
        made.append(Vault(client, bucket, region=region))
        return made[-1]

    yield make
    for vault in made:
        vault.delete([*vault.list_keys("")])
        with suppress(ClientError):  # a locked object stays, and its bucket with it
            vault._client.delete_bucket(Bucket=vault.bucket)


@pytest.fixture
def vault(client: Any, make_vault: MakeVault) -> Vault:
    """An empty vault."""
    return make_vault(client)


def keep(vault: Vault, *, now: datetime | None = None, dry_run: bool = False) -> Pruned:
    return prune(vault, **LADDER, now=now or datetime.now(UTC), dry_run=dry_run)


def verify(vault: Vault, *, within_s: float = 60.0, point: str | None = None) -> Verification:
    return verify_points(vault, clock=SystemClock(), within_s=within_s, point=point)


def eligible(vault: Vault) -> list[str]:
    return [manifest.id for manifest in points.eligible(vault)]


def test_a_vault_without_a_point_is_told_from_none(vault: Vault) -> None:
    """fails when a bucket that is missing counts as one in which there is nothing to restore yet."""
    with pytest.raises(points.NoPointError, match="holds no eligible point"):
        points.newest_eligible(vault)
    with pytest.raises(NotFoundError) as missing:
        points.newest_eligible(Vault(vault._client, "no-such-bucket", region=vault.region))
    assert not isinstance(missing.value, points.NoPointError)
    seal_point(vault, NEW)
    assert points.newest_eligible(vault).id == NEW


def test_what_no_rung_holds_is_removed(vault: Vault) -> None:
    """The objects, the manifest and what was found of them go; everything else in the vault stays."""
    for point in (OLD, NEW):
        seal_point(vault, point)
    verify(vault)
    beside = ["points/readme.txt", f"points/{OLD}x/object", "runs/x.json", f"verified/elsewhere/{NEW}.json"]
    for key in (*beside, f"verified/elsewhere/{OLD}.json"):
        vault.put_bytes(key, b"{}")
    before = list(vault.list_keys(""))
    planned = keep(vault, dry_run=True)
    assert (planned.plan.remove, planned.removed, list(vault.list_keys(""))) == ((OLD,), (), before)
    done = keep(vault)
    assert (done.removed, done.objects, done.failed) == ((OLD,), 3, {})
    gone = set(before) - set(vault.list_keys(""))
    folder = f"points/{OLD}"
    assert gone == {
        *(f"{folder}/{end}" for end in ("manifest.json", "memory-0a.pgcopy", "memory-0b.pgcopy")),
        f"verified/us-east-1/{OLD}.json",
        f"verified/elsewhere/{OLD}.json",
    }
    assert eligible(vault) == [NEW]
    again = keep(vault)
    assert (again.removed, again.objects, list(again.plan.keep)) == ((), 0, [NEW])


def test_a_prune_that_is_killed_leaves_no_half_point(client: Any, vault: Vault) -> None:
    """fails when an object goes before its manifest, or what a killed prune leaves behind stays for ever."""
    for point in (OLD, NEW):
        seal_point(vault, point)
    mend = cut(client, "DeleteObjects", at_call=2)
    with pytest.raises(UnavailableError):
        keep(vault)
    mend()
    [_, old] = points.survey(vault)
    assert (old.sealed, old.eligible) == (False, False)
    assert keep(vault).removed == ()  # it could be an upload that is under way
    assert keep(vault, now=IN_TWO_DAYS).removed == (OLD,)
    assert {key.split("/")[1] for key in vault.list_keys("points/")} == {NEW}


def test_an_upload_that_was_cut_is_swept_when_it_is_old(vault: Vault) -> None:
    """fails when a newer id protects it, or when it is taken for the newest point."""
    seal_point(vault, OLD)
    vault.put_bytes(f"points/{NEW}/memory-0a.pgcopy", b"half")
    assert keep(vault).plan.leftovers == ()
    done = keep(vault, now=IN_TWO_DAYS)
    assert (done.plan.leftovers, eligible(vault)) == ((NEW,), [OLD])


def test_the_newest_that_can_be_restored_stays(vault: Vault) -> None:
    """fails when a newer point whose bytes never came costs the one that is whole."""
    seal_point(vault, OLD)
    vault.put_bytes(points.manifest_key(NEW), make_manifest(NEW, {"memory-0a": b"late"}).to_json().encode())
    assert keep(vault).removed == ()
    assert eligible(vault) == [OLD]


def test_a_locked_object_is_left(client: Any, make_vault: MakeVault) -> None:
    """fails when a point is removed of which one object is under retention or a legal hold."""
    vault = make_vault(client, ObjectLockEnabledForBucket=True)
    held, kept, free = "20260419T020000Z", "20260419T021000Z", "20260419T022000Z"
    for point in (held, kept, free, NEW):
        seal_point(vault, point)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    client.put_object_retention(
        Bucket=vault.bucket,
        Key=f"points/{kept}/memory-0b.pgcopy",
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
    )
    client.put_object_legal_hold(Bucket=vault.bucket, Key=f"points/{held}/manifest.json", LegalHold={"Status": "ON"})
    done = keep(vault)
    assert done.removed == (free,)
    assert done.plan.locked.keys() == {held, kept}
    assert done.plan.locked[kept] == until
    assert eligible(vault) == [NEW, kept, held]
    assert keep(vault, now=until + timedelta(days=1)).removed == (kept,)


# As Amazon's S3 answers: the request is fine, and each key has a fate of its own.
REFUSAL = """<?xml version="1.0" encoding="UTF-8"?>
<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error></DeleteResult>"""


@pytest.mark.parametrize(("end", "left"), [("memory-0a.pgcopy", 1), ("manifest.json", 3)])
def test_an_object_that_cannot_be_removed_is_reported(vault: Vault, end: str, left: int) -> None:
    """fails when one object that may not go hides itself, or its point loses the others while its manifest stays."""
    for point in (OLD, NEW):
        seal_point(vault, point)
    key = f"points/{OLD}/{end}"
    client = vault._client

    def refuse(request: Any, **_: object) -> AWSResponse | None:
        keys = [item.text for item in ElementTree.fromstring(request.body).iter(f"{XMLNS}Key")]
        if key not in keys:
            return None
        others = [{"Key": other} for other in keys if other != key]
        if others:
            client.meta.events.unregister("before-send.s3.DeleteObjects", refuse)
            client.delete_objects(Bucket=vault.bucket, Delete={"Objects": others})
        body = REFUSAL.format(key=key).encode()
        return AWSResponse(request.url, 200, HTTPHeaders(), SimpleNamespace(stream=lambda **_: iter([body])))

    client.meta.events.register("before-send.s3.DeleteObjects", refuse)
    done = keep(vault)
    client.meta.events.unregister("before-send.s3.DeleteObjects", refuse)
    assert done.failed == {key: "AccessDenied: Access Denied"}
    assert done.objects == 3 - left
    assert len([*vault.list_keys(f"points/{OLD}/")]) == left
    assert eligible(vault) == ([NEW, OLD] if left == 3 else [NEW])


def test_a_prune_removes_nothing_in_another_vault(emulator: Emulator, make_vault: MakeVault) -> None:
    """fails when what one region does not keep is gone in the other, where it may be all that can be restored."""
    here, there = (make_vault(emulator.client("s3", "us-east-1")) for _ in range(2))
    for vault in (here, there):
        emulator.client("s3", "us-east-1").put_bucket_versioning(
            Bucket=vault.bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    rule = {
        "ID": "all",
        "Status": "Enabled",
        "Priority": 1,
        "Filter": {"Prefix": ""},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": f"arn:aws:s3:::{there.bucket}"},
    }
    emulator.client("s3", "us-east-1").put_bucket_replication(
        Bucket=here.bucket,
        ReplicationConfiguration={"Role": "arn:aws:iam::000000000000:role/replication", "Rules": [rule]},
    )
    for point in (OLD, NEW):
        seal_point(here, point)
    verify(here)
    there.delete([f"points/{NEW}/memory-0a.pgcopy"])
    assert (eligible(here), eligible(there)) == ([NEW, OLD], [OLD])
    assert keep(here).removed == (OLD,)
    assert keep(there).removed == ()
    assert (eligible(here), eligible(there)) == ([NEW], [OLD])
    assert len([*there.list_keys(points.RECORDS)]) == 2


def test_points_are_read_once(vault: Vault) -> None:
    """Newest first; what was verified is not read again, and another region's findings say nothing here."""
    for point in (OLD, NEW):
        seal_point(vault, point)
    assert [status.verified_at for status in points.survey(vault)] == [None, None]
    done = verify(vault)
    assert [(item.point, item.ok) for item in done.findings] == [(NEW, True), (OLD, True)]
    assert (done.left, done.damaged, done.or_raise()) == ((), (), done)
    assert all(status.verified_at is not None for status in points.survey(vault))
    assert points.status_of(vault, OLD).verified_at is not None
    assert verify(vault).findings == ()
    elsewhere = Vault(vault._client, vault.bucket, region="us-west-2")
    assert [item.point for item in verify(elsewhere).findings] == [NEW, OLD]


def test_damage_is_found_before_it_is_needed(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """fails when a flipped byte is only noticed by a restore; a point that is written anew is read anew."""
    manifest = seal_point(vault, NEW)
    seal_point(vault, OLD)
    piece = manifest.pieces[1]
    vault.put_bytes(piece.object, b"sekond")
    assert eligible(vault) == [NEW, OLD]
    done = verify(vault)
    assert done.damaged == (NEW,)
    assert piece.object in done.findings[0].reason
    assert "point_damaged" in caplog.text
    with pytest.raises(IntegrityError, match="1 points are damaged"):
        done.or_raise()
    assert eligible(vault) == [OLD]
    [status, _] = points.survey(vault)
    assert (status.damaged, status.verified_at) == (True, None)
    vault.put_bytes(piece.object, b"second")
    assert eligible(vault) == [NEW, OLD]
    assert verify(vault).damaged == ()


def test_a_verification_ends_in_time(vault: Vault) -> None:
    """What there was no time for is left for the next run, and said."""
    for point in (OLD, NEW):
        seal_point(vault, point)
    assert verify(vault, within_s=0).left == (NEW, OLD)

    class Slow(FakeClock):
        def monotonic(self) -> float:
            self.sleep(1)
            return super().monotonic()

    done = verify_points(vault, clock=Slow(), within_s=5, point=None)
    assert [item.point for item in done.findings] + list(done.left) == [NEW, OLD]
    assert OLD in done.left


def test_a_large_point_holds_up_no_other(vault: Vault) -> None:
    """fails when a point that is too large for a function keeps older ones from being read; without a limit of time or
    size it is read too, and who reads later is told what was found damaged before."""
    small = seal_point(vault, OLD).total_bytes
    large = make_manifest(NEW, {"memory-0a": b"much more than the other one has"})
    for piece in large.pieces:
        vault.put_bytes(piece.object, b"not what the manifest says it is")
    vault.put_bytes(points.manifest_key(NEW), large.to_json().encode())
    done = verify_points(vault, clock=SystemClock(), within_s=60, largest=small)
    assert ([item.point for item in done.findings], done.left) == ([OLD], (NEW,))
    whole = verify_points(vault, clock=SystemClock(), within_s=None)
    assert (whole.damaged, whole.left, whole.known_damaged) == ((NEW,), (), ())
    later = verify(vault)
    assert (later.findings, later.damaged, later.known_damaged) == ((), (), (NEW,))
    assert later.or_raise() is later


class Pruning(Vault):
    """A vault in which another prune removes the older point at the worst moment."""

    def _pruned(self) -> None:
        self.delete([points.manifest_key(OLD), *self.list_keys(f"points/{OLD}/")])

    def locked_until(self, key: str) -> datetime | None:
        self._pruned()
        return super().locked_until(key)

    @contextmanager
    def reader(self, key: str) -> Iterator[ObjectReader]:
        if OLD in key:
            self._pruned()
        with super().reader(key) as body:
            yield body


def test_a_point_that_goes_meanwhile_is_no_damage(vault: Vault) -> None:
    """fails when two prunes at once trip over one another, or a pruned point is reported as damaged."""
    for point in (OLD, NEW):
        seal_point(vault, point)
    both = Pruning(vault._client, vault.bucket, region=vault.region)
    assert [(item.point, item.ok) for item in verify(both).findings] == [(NEW, True)]
    seal_point(vault, OLD)
    assert keep(both).failed == {}
    assert [status.id for status in points.survey(vault)] == [NEW]


def test_one_point_is_read_when_it_is_named(vault: Vault) -> None:
    """Also when it was read before, and with the reason when it cannot be restored whatever its bytes are."""
    seal_point(vault, OLD)
    verify(vault)
    assert [item.ok for item in verify(vault, point=OLD).findings] == [True]
    with pytest.raises(NotFoundError):
        verify(vault, point=NEW)
    vault.delete([f"points/{OLD}/memory-0a.pgcopy"])
    [finding] = verify(vault, point=OLD).findings
    assert (finding.ok, "is not here" in finding.reason) == (False, True)
    vault.put_bytes(f"points/{NEW}/memory-0a.pgcopy", b"half")
    [finding] = verify(vault, point=NEW).findings
    assert "not sealed" in finding.reason


def test_a_finding_that_cannot_be_read_says_nothing(vault: Vault) -> None:
    """fails when a damaged record makes a point eligible, or not, or stops the survey."""
    seal_point(vault, OLD)
    for record in (b"", b"[]", b"{}", b'{"ok": true}', b'{"at": 1, "ok": 1, "reason": 1, "etags": []}'):
        vault.put_bytes(points.record_key(vault.region, OLD), record)
        [status] = points.survey(vault)
        assert (status.eligible, status.verified_at) == (True, None)


def test_a_late_part_makes_a_point_eligible_when_it_comes(vault: Vault) -> None:
    """Replication keeps no order: until its last object is here a point waits, and says for what."""
    manifest = make_manifest(NEW, {"memory-0a": b"one", "memory-0b": b"two"})
    for data, piece in zip((b"one", b"two"), manifest.pieces, strict=True):
        points_before = eligible(vault)
        assert points_before == []
        vault.put_bytes(points.manifest_key(NEW), manifest.to_json().encode())
        [status] = points.survey(vault)
        assert f"{piece.object} is not here" in status.reason
        vault.put_bytes(piece.object, data)
    assert eligible(vault) == [NEW]


NO_IDS = (
    *("../../etc/passwd", "20260419T020000Z/..", "", "20260419T020000Z\n", "20261319T020000Z"),
    "\uff12\uff10260419T020000Z",
)


def test_what_is_no_id_names_nothing(vault: Vault) -> None:
    """fails when a text that is no moment is looked up, surveyed or removed as a point."""
    for id_ in NO_IDS:
        with pytest.raises(NotFoundError, match="does not name"):
            points.find(vault, id_)
        with pytest.raises(NotFoundError, match="does not name"):
            points.status_of(vault, id_)
        with pytest.raises(NotFoundError, match="does not name"):
            points.seal(vault, make_manifest(id_, {}))
    vault.put_bytes("points/20261319T020000Z/manifest.json", b"{}")
    assert list(points.survey(vault)) == []
    assert keep(vault, now=IN_TWO_DAYS).removed == ()


# Carried across between two kinds of server.


@pytest.fixture
def pair(s3: Any, elsewhere: Any, make_vault: MakeVault) -> tuple[Vault, Vault]:
    """A vault in AWS and one that is not."""
    return make_vault(s3), make_vault(elsewhere, region="elsewhere")


def carry(pair: tuple[Vault, Vault], ladder: dict[str, Any] | None = None, *, dry_run: bool = False) -> list[Copied]:
    one, other = pair
    return copy_points(one, other, **ladder or WIDE, now=datetime.now(UTC), dry_run=dry_run)


def test_each_vault_gets_what_it_lacks(pair: tuple[Vault, Vault]) -> None:
    """Both ways, as they are, and only once; with dry_run nothing moves."""
    one, other = pair
    here, there = seal_point(one, OLD), seal_point(other, NEW, instead_of="us-east-1")
    planned = carry(pair, dry_run=True)
    assert (eligible(one), eligible(other)) == ([OLD], [NEW])
    done = carry(pair)
    assert done == planned
    assert [(item.point, item.region, item.reason) for item in done] == [(NEW, "us-east-1", ""), (OLD, "elsewhere", "")]
    assert eligible(one) == eligible(other) == [NEW, OLD]
    for vault in pair:
        assert [points.find(vault, OLD), points.find(vault, NEW)] == [here, there]
        assert verify(vault).damaged == ()
    assert carry(pair) == []


def test_only_what_the_ladder_keeps_is_carried(pair: tuple[Vault, Vault]) -> None:
    """fails when a copy brings back what a prune has just removed."""
    for point in (OLD, NEW):
        seal_point(pair[0], point)
    assert [item.point for item in carry(pair, LADDER)] == [NEW]


@pytest.mark.parametrize("at_call", [1, 2, 3])
def test_a_copy_that_is_cut_goes_on(pair: tuple[Vault, Vault], at_call: int) -> None:
    """fails when half a copy is a point, or when what went across before is sent again."""
    one, other = pair
    manifest = seal_point(one, OLD)
    mend = cut(other._client, "PutObject", at_call=at_call)
    with pytest.raises(UnavailableError):
        carry(pair)
    mend()
    assert eligible(other) == []
    there = {item.key for item in other.objects("points/")}
    [done] = carry(pair)
    assert done.bytes == sum(piece.bytes for piece in manifest.pieces if piece.object not in there)
    assert eligible(other) == [OLD]


def test_a_damaged_point_is_not_carried(pair: tuple[Vault, Vault]) -> None:
    """fails when bytes that are not those of the manifest arrive, or keep the other points from arriving."""
    one, other = pair
    for point in (OLD, NEW):
        seal_point(one, point)
    one.put_bytes(f"points/{NEW}/memory-0b.pgcopy", b"sekond")
    [failed, done] = carry(pair)
    assert (failed.point, "SHA-256" in failed.reason) == (NEW, True)
    assert (done.point, done.reason) == (OLD, "")
    assert eligible(other) == [OLD]
    assert f"points/{NEW}/memory-0b.pgcopy" not in list(other.list_keys("points/"))


def test_a_copy_mends_what_the_other_vault_lost(pair: tuple[Vault, Vault]) -> None:
    """A missing object, one that was cut, and one that was found damaged are sent again, and only those."""
    one, other = pair
    for point in (OLD, NEW):
        seal_point(one, point)
    carry(pair)
    other.delete([f"points/{OLD}/memory-0a.pgcopy"])
    other.put_bytes(f"points/{OLD}/memory-0b.pgcopy", b"sec")
    other.put_bytes(f"points/{NEW}/memory-0b.pgcopy", b"sekond")
    assert verify(other).damaged == (NEW,)
    assert [(item.point, item.reason) for item in carry(pair)] == [(NEW, ""), (OLD, "")]
    assert eligible(other) == [NEW, OLD]
    assert verify(other).damaged == ()


def test_two_points_of_one_second_are_not_mixed(pair: tuple[Vault, Vault]) -> None:
    """fails when a copy overwrites a manifest, or completes one point with another's objects."""
    one, other = pair
    seal_point(one, OLD)
    other.put_bytes(points.manifest_key(OLD), make_manifest(OLD, {"other": b"x"}).to_json().encode())
    [done] = carry(pair)
    assert "another manifest" in done.reason
    [status] = points.survey(other)
    assert not status.eligible
    assert status.manifest is not None
    assert status.manifest.pieces[0].node == "other"


def test_large_objects_are_carried_in_parts(pair: tuple[Vault, Vault], monkeypatch: pytest.MonkeyPatch) -> None:
    """Across servers of two kinds a multipart upload arrives as the bytes that were sent."""
    monkeypatch.setattr("relight.vault.store.PART_BYTES", 5 * 1024 * 1024)
    data = secrets.token_bytes(11 * 1024 * 1024)
    seal_point(pair[0], point_id(datetime.now(UTC)), {"memory-0a.pgcopy": data})
    [done] = carry(pair)
    assert (done.reason, done.bytes) == ("", len(data))
    assert verify(pair[1]).damaged == ()

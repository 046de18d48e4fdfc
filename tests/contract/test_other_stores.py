"""Vaults outside AWS: stores that refuse what Cloudflare's R2 and Google's refuse, played over a real server."""

from __future__ import annotations

import hashlib
import secrets
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import urllib3
from other_stores import DISORDERLY, GOOGLE, KEY_ID, R2, SECRET, RefusedError, play
from point_helpers import make_manifest, seal_point

from relight.adapters import aws
from relight.clock import SystemClock, parse_time
from relight.errors import ConfigError, ConflictError, DeniedError, IntegrityError, NotFoundError, PermanentError
from relight.vault import points
from relight.vault.copy import Copied, copy_beside, copy_points, lag_s
from relight.vault.probe import probe
from relight.vault.retention import prune
from relight.vault.store import Vault, equal_part_bytes
from relight.vault.verify import verify_points

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.seaweed import Seaweed
    from other_stores import Request, Rules, Store

pytestmark = pytest.mark.servers

OLD, NEW = "20260419T013000Z", "20260419T023000Z"
WIDE: dict[str, Any] = {"keep_hourly": 24, "keep_daily": 14, "keep_monthly": 12}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's, and whom its clients have to know."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    known = tmp_path_factory.mktemp("stores") / "ca.pem"
    authority.cert_pem.write_to_path(str(known))
    return context, known


@pytest.fixture(params=[R2, GOOGLE, DISORDERLY], ids=lambda rules: rules.name)
def rules(request: pytest.FixtureRequest) -> Rules:
    """Each kind of store."""
    found: Rules = request.param
    return found


@pytest.fixture
def store(
    rules: Rules, seaweed_server: Seaweed, certificates: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store of that kind."""
    context, known = certificates
    monkeypatch.setenv("AWS_CA_BUNDLE", str(known))
    with play(rules, seaweed_server, context) as store:
        yield store


@pytest.fixture
def bucket(seaweed_server: Seaweed) -> Iterator[str]:
    """An empty bucket."""
    name = f"other-{secrets.token_hex(6)}"
    client = seaweed_server.client()
    client.create_bucket(Bucket=name)
    yield name
    vault = Vault(client, name, region="us-east-1")
    vault.delete([*vault.list_keys("")])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def away(store: Store, bucket: str) -> Vault:
    """A vault in it."""
    return Vault(store.client(), bucket, region="us-west-2", elsewhere=True)


def eligible(vault: Vault) -> list[str]:
    return [manifest.id for manifest in points.eligible(vault)]


def test_everything_that_a_vault_does_is_taken(away: Vault, store: Store) -> None:
    """Objects small and large, listings, ranges, conditional puts, deletions: signed, and with nothing unknown."""
    data = secrets.token_bytes(11 * MIB)
    with away.writer("points/x/large", size=len(data)) as writer:
        writer.write(data)
    with away.reader("points/x/large") as reader:
        assert b"".join(iter(lambda: reader.read(MIB), b"")) == data
    seal_point(away, OLD)
    seal_point(away, NEW)
    away.put_json("runs/a b+c/ö.json", {"a": 1})
    assert away.get_json("runs/a b+c/ö.json") == {"a": 1}
    assert eligible(away) == [NEW, OLD]
    assert points.newest_id(away) == NEW
    assert away.locked_until("points/x/large") is None
    assert away.delete([*away.list_keys("")]) == {}
    assert [*away.list_keys("")] == []
    with pytest.raises(NotFoundError):
        away.get_bytes("points/x/large")
    assert {"PUT", "GET", "HEAD", "POST"} <= {request.method for request in store.requests}


@pytest.mark.parametrize("rules", [R2, GOOGLE], ids=lambda rules: rules.name, indirect=True)
def test_a_vector_store_may_be_told_to_fetch(away: Vault, certificates: tuple[ssl.SSLContext, Path]) -> None:
    """By an address that needs no keys, signed for the store's own region, and for that object alone."""
    away.put_bytes("points/x/a b", b"content")
    url = away.presigned_url("points/x/a b", expires_s=60)
    assert "%2Fauto%2Fs3%2Faws4_request" in url
    with urllib3.PoolManager(ca_certs=str(certificates[1])) as pool:
        assert pool.request("GET", url).data == b"content"
        assert pool.request("GET", url.replace("a%20b", "other")).status == 403


def test_what_s3_alone_has_is_not_asked_for(away: Vault, store: Store) -> None:
    """Versions that a deletion hides and holds of single objects: who asks is told where to look."""
    for ask in (lambda: away.hidden("points/"), lambda: away.hold("points/x", held=True)):
        with pytest.raises(ConfigError, match="is not in S3"):
            ask()
    assert store.requests == []


@pytest.mark.parametrize("rules", [R2, GOOGLE], ids=lambda rules: rules.name, indirect=True)
def test_what_is_made_for_amazon_is_refused(store: Store, bucket: str) -> None:
    """fails when the played stores take what the real ones refuse, and these tests show nothing."""
    session = aws.session(KEY_ID, SECRET)
    client = aws.client("s3", "auto", session=session, endpoint_url=store.url)
    vault = Vault(client, bucket, region="us-west-2")
    with pytest.raises((DeniedError, PermanentError)):
        vault.put_bytes("points/x", b"data")
    with pytest.raises((DeniedError, PermanentError)):
        vault.delete(["points/x"])


@pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)
def test_keys_and_the_region_that_is_signed_for_are_checked(store: Store, bucket: str) -> None:
    """A wrong secret and an unknown key are denied; a region of AWS is none of R2's."""
    for client in (store.client(secret=SECRET[::-1]), store.client(key_id="other")):
        with pytest.raises(DeniedError):
            Vault(client, bucket, region="us-west-2", elsewhere=True).put_bytes("x", b"data")
    with pytest.raises(PermanentError, match="InvalidRegionName"):
        Vault(store.client(region="us-west-2"), bucket, region="us-west-2", elsewhere=True).put_bytes("x", b"data")


@pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)
def test_parts_are_alike_where_the_store_wants_them_so(
    away: Vault, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when a large upload, whose parts grow towards Amazon's limit of their number, is refused at its end."""
    monkeypatch.setattr("relight.vault.store.part_bytes", lambda number: (5 + number) * MIB)
    data = secrets.token_bytes(24 * MIB)
    unlike = Vault(away._client, away.bucket, region="us-west-2")
    with pytest.raises(PermanentError, match="same length"), unlike.writer("points/x/o") as writer:
        writer.write(data)
    monkeypatch.setattr("relight.vault.store.PART_BYTES", 6 * MIB)
    for size, sizes in ((None, [24 * MIB]), (len(data), [6 * MIB] * 4)):
        store.requests.clear()
        with away.writer("points/x/o", size=size) as writer:
            writer.write(data)
        assert away.get_bytes("points/x/o") == data
        sent = [len(request.body) for request in store.made("PUT", partNumber="")]
        assert sent == sizes


def test_parts_that_are_alike_reach_far() -> None:
    """10,000 of them hold what is to be written, in bounded memory; what is not known may have 335 GB."""
    assert 10_000 * equal_part_bytes(None) > 335e9
    for size in (0, 1, 80_000 * MIB, 80_000 * MIB + 1, 500_000_000_000):
        part = equal_part_bytes(size)
        assert 10_000 * part >= size
        assert 8 * MIB <= part <= 52 * MIB
        assert part % MIB == 0


def test_the_first_manifest_stays(away: Vault, store: Store) -> None:
    """fails when a store that ignores the condition of a put lets a second point take the first one's place."""
    first = seal_point(away, OLD)
    other = make_manifest(OLD, {"other": b"x"})
    with pytest.raises(ConflictError):
        points.seal(away, other)
    assert points.find(away, OLD) == first
    points.seal(away, first)  # the retry of the one that did it


@pytest.mark.parametrize("rules", [GOOGLE], ids=["google"], indirect=True)
def test_who_was_overtaken_is_told(away: Vault, store: Store) -> None:
    """fails when one of two that put at once is told that the key holds its bytes, and it holds the other's."""
    other = Vault(store.client(), away.bucket, region="us-west-2", elsewhere=True)

    def overtake(request: Request) -> None:
        if request.method == "HEAD":
            store.before = lambda _: None
            other.put_bytes("points/x/manifest.json", b"later")

    store.before = overtake
    with pytest.raises(ConflictError, match="somebody else was later"):
        away.put_bytes("points/x/manifest.json", b"earlier", only_if_absent=True)


def test_bytes_that_were_altered_on_the_way_are_refused(away: Vault, store: Store) -> None:
    """fails when nothing protects a body that TLS leaves unsigned: the store keeps what a broken proxy made of it."""

    def alter(request: Request) -> None:
        if request.method == "PUT":
            object.__setattr__(request, "body", b"?" + request.body[1:])

    store.before = alter
    with pytest.raises(IntegrityError, match="BadDigest"):
        away.put_bytes("points/x/small", b"some bytes")
    with pytest.raises(IntegrityError, match="BadDigest"), away.writer("points/x/large") as writer:
        writer.write(bytes(40 * MIB))
    store.before = lambda _: None
    assert [*away.list_keys("points/")] == []


# Relight copies between the vaults itself.


@pytest.fixture
def home(s3: Any) -> Iterator[Vault]:
    """The primary's vault, in AWS."""
    name = f"home-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=name)
    yield Vault(s3, name, region="us-east-1")


def fetch(source: Vault, target: Vault, **options: Any) -> list[Copied]:
    return copy_points(source, target, **WIDE, now=datetime.now(UTC), back=False, **options)


def stop_after(store: Store, puts: int) -> None:
    """From now on the store takes so many puts and no more."""
    store.requests.clear()

    def look(request: Request) -> None:
        if request.method == "PUT" and len(store.made("PUT")) > puts:
            raise RefusedError(403, "AccessDenied", "the power is gone")

    store.before = look


def test_a_point_is_eligible_when_its_copy_is_whole(home: Vault, away: Vault, store: Store) -> None:
    """fails when the standby would restore a point of which a part is still on its way: cut at any request, the copy
    leaves no point there, and the next goes on with what is missing."""
    manifest = seal_point(home, OLD)
    for puts, there in ((0, 0), (1, 1), (1, 2), (0, 2)):
        stop_after(store, puts)
        with pytest.raises(DeniedError):
            fetch(home, away)
        assert (eligible(away), len([*away.list_keys(f"points/{OLD}/")])) == ([], there)
    store.before = lambda _: None
    [done] = fetch(home, away)
    assert (done.point, done.reason, done.lacking, done.bytes) == (OLD, "", False, 0)
    assert (points.find(away, OLD), eligible(away)) == (manifest, [OLD])
    store.requests.clear()
    assert fetch(home, away) == []
    assert store.made("PUT") == []
    assert verify_points(away, clock=SystemClock(), within_s=60).damaged == ()


def test_a_vault_elsewhere_is_copied_from_as_well(home: Vault, away: Vault) -> None:
    """What a relit region seals in its own vault is fetched by the other, and only what the asker lacks moves."""
    seal_point(away, NEW)
    seal_point(home, OLD)
    assert [item.point for item in fetch(away, home)] == [NEW]
    assert (eligible(home), eligible(away)) == ([NEW, OLD], [NEW])


@pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)
def test_both_vaults_may_be_elsewhere(
    away: Vault, bucket: str, seaweed_server: Seaweed, certificates: tuple[ssl.SSLContext, Path]
) -> None:
    """R2 in one region and Google's in the other: each is asked at its own address."""
    name = f"{bucket}-g"
    seaweed_server.client().create_bucket(Bucket=name)
    with play(GOOGLE, seaweed_server, certificates[0]) as store:
        other = Vault(store.client(), name, region="us-east-1", elsewhere=True)
        seal_point(other, OLD, {"memory-0a.pgcopy": secrets.token_bytes(9 * MIB)})
        assert [(item.point, item.reason) for item in fetch(other, away)] == [(OLD, "")]
        assert fetch(other, away) == []
        other.delete([*other.list_keys("")])
    assert eligible(away) == [OLD]


@pytest.mark.parametrize("rules", [GOOGLE], ids=["google"], indirect=True)
def test_a_damaged_point_keeps_nobody_waiting_but_itself(home: Vault, away: Vault) -> None:
    """fails when bytes that are not the manifest's arrive, hold others up, or are forgotten."""
    for point in (OLD, NEW):
        seal_point(home, point)
    home.put_bytes(f"points/{NEW}/memory-0b.pgcopy", b"sekond")
    done = fetch(home, away)
    assert [(item.point, item.lacking) for item in done] == [(NEW, True), (OLD, False)]
    assert "SHA-256" in done[0].reason
    assert f"points/{NEW}/memory-0b.pgcopy" not in {*away.list_keys("points/")}
    assert eligible(away) == [OLD]
    at = parse_time(NEW) + timedelta(minutes=7)
    assert lag_s(done, now=at) == 420
    assert lag_s(done[1:], now=at) == 0


@pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)
def test_a_copy_ends_in_time(home: Vault, away: Vault, seaweed_server: Seaweed) -> None:
    """fails when a function is killed in the middle of a large object, whose parts then stay; what is left is said,
    newest first, and the next run goes on."""
    large = {"memory-0a.pgcopy": secrets.token_bytes(12 * MIB), "memory-0b.pgcopy": secrets.token_bytes(20 * MIB)}
    seal_point(home, NEW, large)
    seal_point(home, OLD)
    looks = iter([False] * 25)
    done = fetch(home, away, out_of_time=lambda: next(looks, True))
    assert [(item.point, item.left, item.reason) for item in done] == [(NEW, True, ""), (OLD, True, "")]
    assert [item.bytes for item in done] == [32 * MIB, sum(piece.bytes for piece in points.find(home, OLD).pieces)]
    assert [*away.list_keys("points/")] == [f"points/{NEW}/memory-0a.pgcopy"]
    assert seaweed_server.client().list_multipart_uploads(Bucket=away.bucket).get("Uploads", []) == []
    assert lag_s(done, now=parse_time(NEW)) == 3600
    assert [(item.point, item.bytes) for item in fetch(home, away)] == [
        (NEW, 20 * MIB),
        (OLD, sum(piece.bytes for piece in points.find(home, OLD).pieces)),
    ]
    assert eligible(away) == [NEW, OLD]


@pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)
def test_what_is_too_large_is_left_to_others(home: Vault, away: Vault) -> None:
    """It holds up nothing that is small enough, and is not begun."""
    seal_point(home, NEW, {"memory-0a.pgcopy": bytes(1000)})
    seal_point(home, OLD)
    done = fetch(home, away, largest=999)
    assert (done[0].point, done[0].left, done[0].bytes) == (NEW, True, 1000)
    assert ([*away.list_keys(f"points/{NEW}/")], eligible(away)) == ([], [OLD])


def test_a_prune_keeps_the_ladder_there_too(away: Vault) -> None:
    """Points go with their objects, wherever the listing puts them."""
    for point in (OLD, NEW):
        seal_point(away, point)
    done = prune(away, keep_hourly=1, keep_daily=0, keep_monthly=0, now=datetime.now(UTC))
    assert (done.removed, done.failed, eligible(away)) == ((OLD,), {}, [NEW])
    assert {key.split("/")[1] for key in away.list_keys("points/")} == {NEW}


@pytest.mark.parametrize("rules", [replace(R2, keeps_locked=True)], ids=["locked"], indirect=True)
def test_a_lock_of_the_bucket_hides_nothing(away: Vault) -> None:
    """fails when a point is said to be removed, or loses its manifest, under a lock that no answer tells of."""
    for point in (OLD, NEW):
        seal_point(away, point)
    done = prune(away, keep_hourly=1, keep_daily=0, keep_monthly=0, now=datetime.now(UTC))
    assert (done.removed, {*done.failed}) == ((), {points.manifest_key(OLD)})
    assert "ObjectLockedByBucketPolicy" in done.failed[points.manifest_key(OLD)]
    assert eligible(away) == [NEW, OLD]


@pytest.mark.parametrize("rules", [replace(R2, keeps_locked=True)], ids=["locked"], indirect=True)
def test_a_lock_that_is_known_is_waited_for(away: Vault) -> None:
    """fails when each prune fails for as long as the bucket's own lock keeps what the ladder has let go."""
    for point in (OLD, NEW):
        seal_point(away, point)
    held = Vault(away._client, away.bucket, region=away.region, elsewhere=True, holds_for=timedelta(days=7))
    now = datetime.now(UTC)
    done = prune(held, keep_hourly=1, keep_daily=0, keep_monthly=0, now=now)
    assert (done.failed, done.removed, [*done.plan.locked]) == ({}, (), [OLD])
    assert timedelta(days=6) < done.plan.locked[OLD] - now < timedelta(days=8)
    later = prune(held, keep_hourly=1, keep_daily=0, keep_monthly=0, now=now + timedelta(days=8), dry_run=True)
    assert later.plan.remove == (OLD,)


def test_what_is_beside_points_is_fetched_too(home: Vault, away: Vault) -> None:
    """Results of steps, timelines and rehearsals, once each; one that is not what its name says is left and told of,
    and of the journal and of what was found of points each region keeps its own."""
    good, bad = b"x" * 70_000, b"y" * 70_000
    held = {
        f"results/{hashlib.sha256(good).hexdigest()}.json": good,
        "runs/r/a.json": b"{}",
        "rehearsals/b.json": b"[]",
    }
    for key, data in held.items():
        home.put_bytes(key, data)
    altered = f"results/{hashlib.sha256(bad).hexdigest()}.json"
    home.put_bytes(altered, bad[:-1] + b"!")
    for key in ("journal/memory/x", "verified/us-east-1/x.json", "lease.json"):
        home.put_bytes(key, b"mine")
    done = copy_beside(home, away)
    assert (done.objects, done.bytes, {*done.failed}) == (3, sum(map(len, held.values())), {altered})
    assert {key: away.get_bytes(key) for key in away.list_keys("")} == held
    again = copy_beside(home, away)
    assert (again.objects, {*again.failed}) == (0, {altered})
    assert copy_beside(home, away, out_of_time=lambda: True).left


def test_a_probe_says_what_a_store_does(away: Vault, rules: Rules) -> None:
    """Each kind does what is relied upon, or it is said; nothing stays."""
    found = [*probe(away)]
    assert [item.what for item in found if not item.ok] == []
    [condition] = [item.found for item in found if "condition" in item.what]
    assert condition.startswith("heeded" if rules.heeds_conditions else "ignored")
    assert [*away.list_keys("")] == []


@pytest.mark.parametrize("rules", [replace(R2, keeps_locked=True)], ids=["locked"], indirect=True)
def test_a_probe_says_what_a_store_does_not(away: Vault, store: Store) -> None:
    """A lock that keeps what is deleted, a body that is kept as it came, and an error in the middle, one by one."""
    assert [(item.ok, "stay under probe/" in item.found) for item in probe(away)][-1] == (False, True)

    def careless(request: Request) -> None:
        if request.path.endswith("/altered"):
            object.__setattr__(request, "body", b"sent")  # as a store does that does not look
        elif "uploads" in request.query:
            raise RefusedError(501, "NotImplemented", "no parts here")

    store.before = careless
    failed = {item.what: item.found for item in probe(away) if not item.ok}
    assert [*failed] == [
        "a body that was altered on the way",
        "an upload in parts, read back in ranges",
        "a deletion of several at once",
    ]
    assert failed["a body that was altered on the way"].startswith("taken")
    assert "no parts here" in failed["an upload in parts, read back in ranges"]


@pytest.mark.parametrize("rules", [R2], ids=["r2"], indirect=True)
@pytest.mark.usefixtures("store")
def test_amazons_store_is_probed_alike(home: Vault) -> None:
    """As the emulator plays it."""
    assert [item.what for item in probe(home) if not item.ok] == []
    assert [*home.list_keys("")] == []

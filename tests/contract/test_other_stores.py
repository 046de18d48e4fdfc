"""Vaults outside AWS: stores that refuse what Cloudflare's R2 and Google's refuse, played over a real server."""

from __future__ import annotations

import secrets
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from other_stores import DISORDERLY, GOOGLE, R2, SECRET, Request, Rules, Store, play
from point_helpers import make_manifest, seal_point

from relight.adapters import aws
from relight.errors import ConflictError, DeniedError, IntegrityError, NotFoundError, PermanentError
from relight.vault import points
from relight.vault.store import Vault, equal_part_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.seaweed import Seaweed

pytestmark = pytest.mark.servers

OLD, NEW = "20260419T013000Z", "20260419T023000Z"
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
def test_what_is_made_for_amazon_is_refused(store: Store, bucket: str) -> None:
    """fails when the played stores take what the real ones refuse, and these tests show nothing."""
    session = aws.session("GOOG1EPLAYEDKEY", SECRET)
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

"""The deployed vaults: what Object Lock keeps, what a prune may hide, and how that is undone."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from point_helpers import seal_point

from relight.clock import point_id
from relight.config import Role
from relight.errors import ConflictError, NotFoundError, UnavailableError
from relight.recovery.points import prune_points
from relight.vault import points
from relight.vault.holding import hidden_points, hold, undelete
from relight.vault.retention import prune
from relight.vault.store import PART_BYTES, Vault
from relight.wiring import Region
from relight_cli.main import main
from relight_drill.applier import apply
from relight_drill.emulator import SECRET_KEY, Emulator
from relight_stacks.loading import load_named
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from relight.vault.store import HiddenObject
    from relight_drill.deployment import Deployment
    from relight_drill.processes import ProcessGroup

pytestmark = pytest.mark.servers

EAST, WEST = "us-east-1", "us-west-2"
# The middle of an hour that is over, so that the ladder's hours are the same whenever this runs.
HALF_PAST = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=30, second=0)


@pytest.fixture(scope="module")
def deployed(server_group: ProcessGroup, server_dir: Path, demo_stacks: Path) -> Iterator[tuple[Emulator, Deployment]]:
    """An emulator of its own with the stack `demo-vault` applied."""
    emulator = Emulator(server_group, server_dir / "locked")

    async def start() -> Deployment:
        await emulator.start()
        return await apply(emulator, demo_stacks, stacks=["demo-vault"])

    deployment = asyncio.run(start())
    yield emulator, deployment
    asyncio.run(emulator.stop())


@pytest.fixture
def region(deployed: tuple[Emulator, Deployment], monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    """The standby as its functions find it."""
    emulator, _ = deployed
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", emulator.account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    for name, value in settings_for(load_named("demo"), Role.STANDBY).to_env().items():
        monkeypatch.setenv(name, value)
    with Region.from_env() as region:
        yield region


@pytest.fixture
def emulator_pages(region: Region) -> None:
    """Pages of five entries, whatever is asked for."""
    region.vault._client.meta.events.register(
        "provide-client-params.s3.ListObjectVersions", lambda params, **_: {**params, "MaxKeys": 5}
    )


def versions(vault: Vault, prefix: str) -> tuple[list[Any], list[Any]]:
    """Of all keys under `prefix`: the versions with bytes, and the markers that hide them."""
    listed = vault._client.list_object_versions(Bucket=vault.bucket, Prefix=prefix)
    return listed.get("Versions", []), listed.get("DeleteMarkers", [])


def eligible(vault: Vault) -> list[str]:
    return [manifest.id for manifest in points.eligible(vault)]


# The emulator gives a replica neither the lock of its source nor the key of its bucket, which S3 does: what is put here
# is put into each vault, and what the replication is told is held on the JSON.


def test_what_is_put_is_locked(region: Region) -> None:
    """fails when a version can be destroyed within the week by whoever may delete versions."""
    for vault in (region.vault, region.peer_vault):
        key = f"runs/locked-{vault.region}.json"
        vault.put_bytes(key, b"{}")
        until = vault.locked_until(key)
        [item] = vault.objects(key)
        assert until is not None
        assert abs(until - item.modified - timedelta(days=7)) <= timedelta(seconds=1)
        ([version], []) = versions(vault, key)
        named = {"Key": key, "VersionId": version["VersionId"]}
        with pytest.raises(ClientError, match="AccessDenied"):
            vault._client.delete_object(Bucket=vault.bucket, **named)
        refused = vault._client.delete_objects(Bucket=vault.bucket, Delete={"Objects": [named]})
        assert [item["Code"] for item in refused["Errors"]] == ["AccessDenied"]
        assert vault.get_bytes(key) == b"{}"


def test_every_upload_has_a_checksum(region: Region) -> None:
    """fails when S3 would refuse it: into a bucket that locks what is put, nothing goes without one."""
    seen: dict[str, list[bool]] = {}

    def look(request: Any, event_name: str, **_: object) -> None:
        headers = {name.lower() for name in request.headers}
        has = any(name.startswith("x-amz-checksum-") or name in ("x-amz-trailer", "content-md5") for name in headers)
        seen.setdefault(event_name.rpartition(".")[2], []).append(has)

    events = region.vault._client.meta.events
    events.register("before-send.s3", look)
    region.vault.put_bytes("runs/checked.json", b"{}", only_if_absent=True)
    with region.vault.writer("points/checked/small") as writer:
        writer.write(b"x")
    with region.vault.writer("points/checked/large") as writer:
        writer.write(bytes(PART_BYTES + 1))
    events.unregister("before-send.s3", look)
    assert {name: (len(found), all(found)) for name, found in seen.items() if name in ("PutObject", "UploadPart")} == {
        "PutObject": (2, True),
        "UploadPart": (2, True),
    }


def test_each_region_encrypts_with_its_own_copy_of_one_key(
    region: Region, deployed: tuple[Emulator, Deployment]
) -> None:
    """What one region's key encrypted, the other region decrypts with its own and without the first."""
    arns = {}
    for vault in (region.vault, region.peer_vault):
        key = f"runs/encrypted-{vault.region}.json"
        vault.put_bytes(key, b"{}")
        head = vault._client.head_object(Bucket=vault.bucket, Key=key)
        assert head["ServerSideEncryption"] == "aws:kms"
        arns[vault.region] = head["SSEKMSKeyId"]
    assert {arn.split(":")[3] for arn in arns.values()} == {EAST, WEST}
    assert len({arn.rpartition("/")[2] for arn in arns.values()}) == 1
    emulator, _ = deployed
    made = emulator.client("kms", EAST).encrypt(KeyId="alias/relight-demo-vault", Plaintext=b"x")["CiphertextBlob"]
    opened = emulator.client("kms", WEST).decrypt(KeyId="alias/relight-demo-vault", CiphertextBlob=made)
    assert opened["Plaintext"] == b"x"


def test_a_prune_hides_what_the_bucket_locked_and_nothing_is_lost(region: Region) -> None:
    """The ladder is what is found and restored; the bytes of what it let go are there for as long as the lock says, and
    come back when their markers are removed. A point that somebody has locked stays as it is."""
    vault = region.vault
    ids = [point_id(HALF_PAST - timedelta(minutes=5 * number)) for number in range(26)]
    for point in ids:
        seal_point(vault, point)
    asked_for = ids[20]
    vault._client.put_object_legal_hold(
        Bucket=vault.bucket, Key=points.manifest_key(asked_for), LegalHold={"Status": "ON"}
    )
    pruned = prune_points(region)
    assert pruned.failed == {}
    assert [*pruned.plan.locked] == [asked_for]
    kept = {ids[0], ids[7], ids[19], asked_for}
    assert {*pruned.plan.keep} == kept - {asked_for}, "the newest of each hour"
    assert {*eligible(vault)} == kept
    assert {*pruned.removed} == {*ids} - kept
    gone = pruned.removed[0]
    found, markers = versions(vault, f"points/{gone}/")
    assert (len(found), len(markers)) == (3, 3)
    assert not any(version["IsLatest"] for version in found)
    for version in found:
        with pytest.raises(ClientError, match="AccessDenied"):
            vault._client.delete_object(Bucket=vault.bucket, Key=version["Key"], VersionId=version["VersionId"])
    assert {point.id for point in hidden_points(vault)} == {*pruned.removed}
    assert undelete(vault, gone).eligible
    assert gone in eligible(vault)
    assert prune_points(region).removed == (gone,)


def test_a_point_is_brought_back_and_held_by_hand(region: Region, capsys: pytest.CaptureFixture[str]) -> None:
    """What was deleted is shown, comes back after a yes, and stays through prunes until it is released."""
    vault = region.vault
    old, new = (point_id(HALF_PAST - timedelta(days=200, minutes=5 * number)) for number in (1, 0))
    for point in (old, new):
        seal_point(vault, point)
    vault.delete([*vault.list_keys(f"points/{old}/")])
    vault.delete([points.manifest_key(old)])  # twice, and still one deletion to undo
    assert main(["points", "undelete", "--json"]) == 0
    shown = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert (shown[old]["objects"], new in shown) == (3, False)
    assert main(["points", "undelete", old, "--dry-run"]) == 0
    assert old not in eligible(vault)
    assert main(["points", "undelete", old, "--yes"]) == 0
    assert old in eligible(vault)
    assert main(["points", "hold", old, "--yes"]) == 0
    assert main(["points", "hold", old, "--yes"]) == 0
    capsys.readouterr()
    assert old in prune_points(region).plan.locked
    assert old in eligible(vault)
    assert main(["points", "release", old, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"point": old, "held": False, "objects": 3}
    assert old in prune_points(region).removed


def test_what_cannot_be_brought_back_is_said(region: Region, capsys: pytest.CaptureFixture[str]) -> None:
    """A point that is seen, that never was, or that has no name; and nothing is held that is no point."""
    point = point_id(HALF_PAST - timedelta(days=300))
    seal_point(region.vault, point)
    for arguments, code, message in (
        (["undelete", point], 1, f"hides no point {point}"),
        (["undelete", "20200101T000000Z"], 1, "hides no point 20200101T000000Z"),
        (["undelete", "../x"], 1, "does not name a recovery point"),
        (["hold"], 2, "no point is named"),
        (["hold", "20200101T000000Z"], 1, "holds nothing of point"),
        (["prune", point], 2, "takes no point"),
    ):
        assert main(["points", *arguments, "--yes"]) == code, arguments
        assert message in capsys.readouterr().err
    half = point_id(HALF_PAST - timedelta(days=301))
    region.vault.put_bytes(f"points/{half}/memory-0a.pgcopy", b"half")
    with pytest.raises(ConflictError, match="is not sealed"):
        hold(region.vault, half, held=True)


def test_an_undelete_that_is_cut_shows_no_half_point(region: Region) -> None:
    """fails when the manifest comes back before the bytes that it names; run again, it ends."""
    vault = region.vault
    point = point_id(HALF_PAST - timedelta(days=310))
    seal_point(vault, point)
    vault.delete([*vault.list_keys(f"points/{point}/")])

    class Cut(Vault):
        left = 2

        def unhide(self, item: HiddenObject) -> None:
            if not self.left:
                raise UnavailableError("cut")
            self.left -= 1
            super().unhide(item)

    with pytest.raises(UnavailableError):
        undelete(Cut(vault._client, vault.bucket, region=vault.region), point)
    assert (points.status_of(vault, point).sealed, [item.id for item in hidden_points(vault, point=point)]) == (
        False,
        [point],
    )
    assert undelete(vault, point).eligible
    with pytest.raises(NotFoundError, match="hides no point"):
        undelete(vault, point)


def test_many_hidden_objects_are_all_found(region: Region, emulator_pages: None) -> None:
    """fails when a listing of versions that has several pages is read in part."""
    vault = region.vault
    keys = [f"points/20250101T0000{number:02}Z/manifest.json" for number in range(12)]
    for key in keys:
        vault.put_bytes(key, b"{}")
    vault.delete(keys)
    assert [item.key for item in vault.hidden("points/20250101T")] == keys


def test_a_lock_that_somebody_made_longer_is_respected(region: Region) -> None:
    """fails when a point goes whose objects a person has locked for longer than the bucket does, of whatever mode."""
    vault = region.peer_vault
    held, free = (point_id(HALF_PAST - timedelta(days=40, minutes=5 * number)) for number in (2, 1))
    later = point_id(HALF_PAST - timedelta(days=40))
    for point in (held, free, later):
        seal_point(vault, point)
    vault._client.put_object_retention(
        Bucket=vault.bucket,
        Key=f"points/{held}/memory-0b.pgcopy",
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(days=30)},
    )
    locked_for = timedelta(days=region.settings.lock_days)
    done = prune(vault, keep_hourly=24, keep_daily=14, keep_monthly=12, now=datetime.now(UTC), locked_for=locked_for)
    assert (held in done.plan.locked, free in done.removed) == (True, True)
    assert held in eligible(vault)

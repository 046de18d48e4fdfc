"""Signatures of recovery points: one contract, by KMS as the emulator plays it and by a key file."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from relight.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, RelightError
from relight.vault import points
from relight.vault.manifest import Manifest, Signature, StatePosition
from relight.vault.signing import FileSigner, KmsSigner, Signer, digest, objection, open_signer, signed
from relight.vault.store import Vault

if TYPE_CHECKING:
    from pathlib import Path

    from relight_drill.emulator import Emulator

pytestmark = pytest.mark.servers

AT = datetime(2026, 4, 19, 2, tzinfo=UTC)
MANIFEST = Manifest(
    id="20260419T020000Z",
    environment="test",
    region="us-east-1",
    instead_of=None,
    taken_at=AT,
    sealed_at=AT,
    software="0",
    previous=None,
    state=StatePosition(lsn="0/1", timeline=1, schema_version=2),
    queue=None,
    collections=(),
)


class SignerContract:
    """What every signer does."""

    @pytest.fixture
    def signer(self) -> Signer:
        raise NotImplementedError

    @pytest.fixture
    def stranger(self) -> Signer:
        """One of the same kind with another key."""
        raise NotImplementedError

    def test_its_own_signature_is_good(self, signer: Signer) -> None:
        """Also of a manifest that was written and read back; it says by which key it is."""
        manifest = signed(MANIFEST, signer)
        assert manifest.signature is not None
        assert manifest.signature.key
        back = Manifest.from_json(manifest.to_json(), source="x")
        assert objection(back, signer) == ""
        assert digest(back) == digest(MANIFEST)

    @pytest.mark.parametrize(
        "change",
        [{"region": "us-west-2"}, {"id": "20260419T020001Z"}, {"previous": "x"}, {"sealed_at": datetime.now(UTC)}],
    )
    def test_an_altered_manifest_is_noticed(self, signer: Signer, change: dict[str, Any]) -> None:
        """fails when any field can be changed under the signature."""
        assert "is not one of" in objection(replace(signed(MANIFEST, signer), **change), signer)

    def test_a_missing_signature_is_noticed(self, signer: Signer) -> None:
        """fails when taking the signature away makes a manifest acceptable."""
        assert "not signed" in objection(MANIFEST, signer)
        assert objection(MANIFEST, None) == ""

    @pytest.mark.parametrize("value", [b"", b"x", bytes(32), bytes(70), b"0" * 300])
    def test_a_made_up_signature_is_refused(self, signer: Signer, value: bytes) -> None:
        """fails when bytes that are no signature pass, or raise."""
        good = signer.sign(digest(MANIFEST))
        assert objection(replace(MANIFEST, signature=replace(good, value=value)), signer)

    def test_another_key_or_algorithm_is_refused(self, signer: Signer, stranger: Signer) -> None:
        """fails when whoever has some key can sign, or a manifest can choose how it is checked."""
        theirs = signed(MANIFEST, stranger)
        assert objection(theirs, signer)
        good = signer.sign(digest(MANIFEST))
        assert "not" in objection(replace(MANIFEST, signature=replace(good, algorithm="none")), signer)
        assert theirs.signature is not None
        renamed = replace(MANIFEST, signature=replace(theirs.signature, key=good.key))
        assert objection(renamed, signer)

    def test_a_point_is_sealed_signed_or_not_at_all(
        self, signer: Signer, stranger: Signer, s3: Any, bucket: str
    ) -> None:
        """It is found by whoever has the key, and by nobody who has another one."""
        vault = Vault(s3, bucket, region="us-east-1", signer=signer)
        with pytest.raises(ConfigError, match="sign it first"):
            points.seal(vault, MANIFEST)
        manifest = points.sign(vault, MANIFEST)
        points.seal(vault, manifest)
        points.seal(vault, manifest)  # the retry of a put whose answer was lost
        with pytest.raises(ConflictError):
            points.seal(vault, points.sign(vault, replace(MANIFEST, region="elsewhere")))
        assert points.find(vault, MANIFEST.id) == manifest
        assert [point.id for point in points.eligible(vault)] == [MANIFEST.id]
        other = Vault(s3, bucket, region="us-east-1", signer=stranger)
        with pytest.raises(IntegrityError, match="cannot be trusted"):
            points.find(other, MANIFEST.id)
        [status] = points.survey(other)
        assert (status.eligible, status.sealed) == (False, True)
        assert "signature" in status.reason


class TestKeyFile(SignerContract):
    """HMAC-SHA256 with a secret in a file."""

    @pytest.fixture
    def signer(self, tmp_path: Path) -> Signer:
        return make_file(tmp_path / "key")

    @pytest.fixture
    def stranger(self, tmp_path: Path) -> Signer:
        return make_file(tmp_path / "other")

    @pytest.mark.parametrize(
        ("size", "mode", "problem"), [(31, 0o600, "31 bytes"), (32, 0o604, "mode 604"), (0, 0o600, "0 bytes")]
    )
    def test_a_poor_key_is_refused(self, tmp_path: Path, size: int, mode: int, problem: str) -> None:
        """fails when a secret that is short, or that anybody can read, is used."""
        path = tmp_path / "key"
        path.write_bytes(bytes(size))
        path.chmod(mode)
        with pytest.raises(ConfigError, match=problem):
            FileSigner(path)

    def test_a_missing_key_is_refused(self, tmp_path: Path) -> None:
        """fails when points would be sealed without a signature because there is no key."""
        with pytest.raises(ConfigError, match="cannot be read"):
            open_signer(f"file:{tmp_path / 'none'}", kms=lambda: pytest.fail("not asked for"))

    def test_the_secret_is_told_to_nobody(self, tmp_path: Path) -> None:
        """fails when the key, or where it is, ends in a manifest or in a text."""
        signer = make_file(tmp_path / "key")
        text = signed(MANIFEST, signer).to_json() + repr(signer) + str(signer)
        assert str(tmp_path) not in text
        assert (tmp_path / "key").read_bytes().hex() not in text


class TestKms(SignerContract):
    """A multi-region key, used by its alias in its own region."""

    @pytest.fixture
    def signer(self, emulator: Emulator) -> Signer:
        return make_key(emulator)[0]

    @pytest.fixture
    def stranger(self, emulator: Emulator) -> Signer:
        return make_key(emulator)[0]

    def test_the_replica_verifies_without_the_primary(self, emulator: Emulator) -> None:
        """What one region signed, the other verifies with its own replica, by the same alias and by ARN."""
        here, alias, key_id = make_key(emulator)
        there = emulator.client("kms", "us-west-2")
        arn = emulator.client("kms", "us-east-1").replicate_key(KeyId=key_id, ReplicaRegion="us-west-2")[
            "ReplicaKeyMetadata"
        ]["Arn"]
        there.create_alias(AliasName=alias, TargetKeyId=key_id)
        manifest = signed(MANIFEST, here)
        for name in (alias, arn):
            replica = KmsSigner(there, name)
            assert objection(manifest, replica) == ""
            assert objection(replace(manifest, region="x"), replica)
            assert objection(signed(MANIFEST, replica), here) == ""

    def test_a_key_that_is_not_there_is_an_error(self, emulator: Emulator) -> None:
        """fails when a point is called unsigned, or passes, because the key cannot be asked."""
        nobody = KmsSigner(emulator.client("kms", "us-east-1"), "alias/nobody")
        signature = Signature(algorithm="ECDSA_SHA_256", key="x", value=b"x")
        with pytest.raises(NotFoundError):
            nobody.sign(digest(MANIFEST))
        with pytest.raises(RelightError):
            objection(replace(MANIFEST, signature=signature), nobody)


def make_file(path: Path) -> Signer:
    path.write_bytes(secrets.token_bytes(32))
    path.chmod(0o600)
    signer = open_signer(f"file:{path}", kms=lambda: None)
    assert signer is not None
    return signer


def make_key(emulator: Emulator) -> tuple[Signer, str, str]:
    """(signer, alias, id) of a new multi-region key in us-east-1."""
    kms = emulator.client("kms", "us-east-1")
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY", MultiRegion=True)["KeyMetadata"]
    alias = f"alias/test-{secrets.token_hex(4)}"
    kms.create_alias(AliasName=alias, TargetKeyId=key["KeyId"])
    signer = open_signer(alias, kms=lambda: kms)
    assert signer is not None
    return signer, alias, key["KeyId"]

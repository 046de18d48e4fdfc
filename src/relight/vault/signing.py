"""Signatures of recovery points: who may seal one is who may use the key, and an altered manifest is noticed."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from relight.adapters.aws import translating
from relight.errors import ConfigError
from relight.vault.manifest import Signature

if TYPE_CHECKING:
    from relight.vault.manifest import Manifest

FILE = "file:"
KEY_BYTES = 32
_READABLE_BY_OTHERS = 0o007

# The most that a signature of this curve takes in DER.
_ECDSA_BYTES = 72


class Signer(Protocol):
    """Signs a digest and verifies signatures, with one key. Safe to share between threads."""

    def sign(self, digest: bytes) -> Signature:
        """The signature of a SHA-256 digest; UnavailableError or DeniedError."""
        ...

    def reject(self, digest: bytes, signature: Signature) -> str:
        """Why `signature` is not this key's of `digest`, empty when it is; UnavailableError or DeniedError.

        What the signature says of its key is told to people and decides nothing.
        """
        ...


class KmsSigner:
    """An asymmetric KMS key, ECC_NIST_P256, by alias or ARN. A replica of it in another region verifies alike."""

    algorithm = "ECDSA_SHA_256"

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key

    def sign(self, digest: bytes) -> Signature:
        """See `Signer.sign`; the signature names the key's ARN."""
        with translating():
            answer = self._client.sign(
                KeyId=self._key, Message=digest, MessageType="DIGEST", SigningAlgorithm=self.algorithm
            )
        return Signature(algorithm=self.algorithm, key=answer["KeyId"], value=answer["Signature"])

    def reject(self, digest: bytes, signature: Signature) -> str:
        """See `Signer.reject`."""
        if signature.algorithm != self.algorithm:
            return f"its signature is {signature.algorithm}, not {self.algorithm}"
        if not 0 < len(signature.value) <= _ECDSA_BYTES:  # KMS would call the request malformed
            return _not_ours(self._key, signature)
        with translating():
            try:
                answer = self._client.verify(
                    KeyId=self._key,
                    Message=digest,
                    MessageType="DIGEST",
                    Signature=signature.value,
                    SigningAlgorithm=self.algorithm,
                )
            except self._client.exceptions.KMSInvalidSignatureException:
                return _not_ours(self._key, signature)
        return "" if answer["SignatureValid"] is True else _not_ours(self._key, signature)


class FileSigner:
    """A secret of at least 32 bytes in a file that only its users can read, for vaults outside AWS: HMAC-SHA256."""

    algorithm = "HMAC_SHA_256"

    def __init__(self, path: Path) -> None:
        hint = f"make one with `head -c {KEY_BYTES} /dev/urandom > {path}; chmod 600 {path}`"
        try:
            mode, self._secret = path.stat().st_mode, path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"the signing key {path} cannot be read: {exc.strerror}", hint=hint) from exc
        if mode & _READABLE_BY_OTHERS:
            raise ConfigError(f"the signing key {path} has mode {mode & 0o777:o}: anybody may use it", hint=hint)
        if len(self._secret) < KEY_BYTES:
            raise ConfigError(f"the signing key {path} has {len(self._secret)} bytes of {KEY_BYTES}", hint=hint)
        # Tells two keys apart and gives neither away.
        self._name = f"sha256:{hashlib.sha256(b'relight signing key' + self._secret).hexdigest()[:16]}"

    def sign(self, digest: bytes) -> Signature:
        """See `Signer.sign`; the signature names a fingerprint of the key."""
        return Signature(algorithm=self.algorithm, key=self._name, value=self._mac(digest))

    def reject(self, digest: bytes, signature: Signature) -> str:
        """See `Signer.reject`."""
        if signature.algorithm != self.algorithm:
            return f"its signature is {signature.algorithm}, not {self.algorithm}"
        return "" if hmac.compare_digest(self._mac(digest), signature.value) else _not_ours(self._name, signature)

    def _mac(self, digest: bytes) -> bytes:
        return hmac.digest(self._secret, digest, "sha256")


def open_signer(key: str, *, kms: Any) -> Signer | None:
    """The signer of `Settings.signing_key`; None when it is empty. `kms` makes the region's client when one is needed.

    Raises ConfigError for a file that is no key.
    """
    if not key:
        return None
    if key.startswith(FILE):
        return FileSigner(Path(key.removeprefix(FILE)))
    return KmsSigner(kms(), key)


def signed(manifest: Manifest, signer: Signer) -> Manifest:
    """The manifest with the signature of everything else in it."""
    return replace(manifest, signature=signer.sign(digest(manifest)))


def objection(manifest: Manifest, signer: Signer | None) -> str:
    """Why the manifest's signature is not good enough, empty when it is. Without a signer every one is."""
    if signer is None:
        return ""
    if manifest.signature is None:
        return "it is not signed, and a signing key is set"
    return signer.reject(digest(manifest), manifest.signature)


def digest(manifest: Manifest) -> bytes:
    """What is signed: the SHA-256 of the manifest's text with `"signature": null`."""
    return hashlib.sha256(replace(manifest, signature=None).to_json().encode()).digest()


def _not_ours(key: str, signature: Signature) -> str:
    return f"its signature by {signature.key} is not one of {key} over this manifest"

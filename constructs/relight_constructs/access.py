"""Buckets, and the topic, as every stack knows them, and what may be done to them. Pure: nothing here starts node.

A vault belongs to one stack and is used from others, whose state must not depend on it: so it is known by its computed
name, and its key by its alias, because a key's id cannot be computed. Each verb's actions are a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relight.recovery.metrics import NAMESPACE
from relight_constructs.policies import Statement, by_alias, metrics

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee

POINTS = "points/"
JOURNAL = "journal/"
MANIFESTS = f"{POINTS}*/manifest.json"
RUNS = "runs/"
FINDINGS = "verified/"
REHEARSALS = "rehearsals/"
RESULTS = "results/"
# What is in both vaults beside points; see `relight.vault.copy`.
COPIED_BESIDE = (RESULTS, RUNS, REHEARSALS)
LEASE_OBJECT = "lease.json"
SENTINEL_OBJECT = "sentinel.json"

PRUNE_ACTIONS = ("s3:DeleteObject",)
# Asking for an object's head takes the permission to read it, and tells of locks only to who may know of them.
HOLD_LOOK_ACTIONS = ("s3:GetObject", "s3:GetObjectLegalHold", "s3:GetObjectRetention")
ARCHIVE_ACTIONS = ("s3:GetObject", "s3:PutObject")
SEAL_ACTIONS = ("s3:AbortMultipartUpload", "s3:PutObject")
COMPARE_ACTIONS = ("s3:GetObject",)
RESTORE_ACTIONS = ("s3:GetObject",)
RECORD_ACTIONS = ("s3:PutObject",)
REVIEW_ACTIONS = ("s3:GetObject",)
LIST_ACTIONS = ("s3:ListBucket",)
HOLD_ACTIONS = ("s3:GetObject", "s3:PutObject")
READ_ACTIONS = ("s3:GetObject",)
KEEP_RESULTS_ACTIONS = ("s3:GetObject", "s3:PutObject")
ENCRYPT_ACTIONS = ("kms:Decrypt", "kms:GenerateDataKey")
SIGN_ACTIONS = ("kms:Sign",)
CHECK_ACTIONS = ("kms:Verify",)
WRITE_KEY_ACTIONS = ("kms:GenerateDataKey",)
READ_KEY_ACTIONS = ("kms:Decrypt",)
READ_SECRET_ACTIONS = ("secretsmanager:GetSecretValue",)
PUBLISH_ACTIONS = ("sns:Publish",)


def grant_metrics(grantee: Grantee) -> None:
    """Publish metrics of Relight's namespace, and of no other."""
    grantee.allow("metrics", metrics(NAMESPACE))


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRef:
    """A bucket with the key that encrypts it. `label` tells it from others in the names of policies."""

    label: str
    bucket: str
    region: str
    account: str
    key_alias: str

    @property
    def arn(self) -> str:
        """The bucket's ARN."""
        return f"arn:aws:s3:::{self.bucket}"

    def _objects(self, actions: tuple[str, ...], key: str) -> Statement:
        return Statement(actions=actions, resources=(f"{self.arn}/{key}",))

    def _listing(self, prefix: str) -> Statement:
        return Statement(
            actions=LIST_ACTIONS,
            resources=(self.arn,),
            condition={"StringLike": {"s3:prefix": f"{prefix}*"}},
        )

    def _key(self, actions: tuple[str, ...]) -> Statement:
        """Any key of the region that carries the alias, through S3 alone."""
        return Statement(
            actions=actions,
            resources=(f"arn:aws:kms:{self.region}:{self.account}:key/*",),
            condition=by_alias(self.key_alias, via=f"s3.{self.region}"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultRef(BucketRef):
    """A region's vault: recovery points under `points/`, what was found of them under `verified/`, the timelines of
    recovery runs under `runs/`, the records of rehearsals under `rehearsals/`, large results of steps under
    `results/`."""

    def grant_seal(self, grantee: Grantee) -> None:
        """Upload recovery points and seal them. KMS asks for `Decrypt` to put a multipart upload together.

        A manifest that is there already may be the one that was just put, by an attempt whose answer was lost: reading
        it tells.
        """
        self._allow(
            grantee,
            f"seal-{self.label}",
            self._listing(POINTS),
            self._objects(SEAL_ACTIONS, f"{POINTS}*"),
            self._objects(COMPARE_ACTIONS, MANIFESTS),
            self._key(ENCRYPT_ACTIONS),
        )

    def grant_restore(self, grantee: Grantee) -> None:
        """Find recovery points, know what was found of them in this region, and read them."""
        self._allow(
            grantee,
            f"restore-{self.label}",
            self._listing(POINTS),
            self._listing(FINDINGS),
            self._objects(RESTORE_ACTIONS, f"{POINTS}*"),
            self._objects(RESTORE_ACTIONS, self._findings),
            self._key(READ_KEY_ACTIONS),
        )

    def grant_survey(self, grantee: Grantee) -> None:
        """See which recovery points there are and which are eligible, and nothing of what is in them."""
        self._allow(
            grantee,
            f"survey-{self.label}",
            self._listing(POINTS),
            self._listing(FINDINGS),
            self._objects(REVIEW_ACTIONS, MANIFESTS),
            self._objects(REVIEW_ACTIONS, self._findings),
            self._key(READ_KEY_ACTIONS),
        )

    def grant_bring_forward(self, grantee: Grantee) -> None:
        """Read the archived parts of the journal, and know which there are."""
        self._allow(
            grantee,
            f"bring-forward-{self.label}",
            self._listing(JOURNAL),
            self._objects(RESTORE_ACTIONS, f"{JOURNAL}*"),
            self._key(READ_KEY_ACTIONS),
        )

    def grant_archive(self, grantee: Grantee) -> None:
        """Archive parts of the journal. One that is there already is read, to see that it is the same."""
        self._allow(
            grantee,
            f"archive-{self.label}",
            self._listing(JOURNAL),
            self._objects(ARCHIVE_ACTIONS, f"{JOURNAL}*"),
            self._key(ENCRYPT_ACTIONS),
        )

    def grant_cover(self, grantee: Grantee) -> None:
        """See which of the region's points are eligible; beside `grant_seal`."""
        self._allow(
            grantee,
            f"cover-{self.label}",
            self._listing(FINDINGS),
            self._objects(RESTORE_ACTIONS, self._findings),
            self._key(READ_KEY_ACTIONS),
        )

    def grant_verify(self, grantee: Grantee) -> None:
        """Record what was found of recovery points; beside `grant_restore`."""
        self._allow(
            grantee,
            f"verify-{self.label}",
            self._objects(RECORD_ACTIONS, self._findings),
            self._key(WRITE_KEY_ACTIONS),
        )

    def grant_prune(self, grantee: Grantee) -> None:
        """Find recovery points, and remove them and what was found of them in either region, and what of the journal no
        point needs."""
        self._allow(
            grantee,
            f"prune-{self.label}",
            self._listing(POINTS),
            self._listing(FINDINGS),
            self._objects(HOLD_LOOK_ACTIONS, f"{POINTS}*"),
            self._objects(RESTORE_ACTIONS, self._findings),
            self._objects(PRUNE_ACTIONS, f"{POINTS}*"),
            self._objects(PRUNE_ACTIONS, f"{FINDINGS}*"),
            self._key(READ_KEY_ACTIONS),
        )
        self._allow(
            grantee,
            f"prune-journal-{self.label}",
            self._listing(JOURNAL),
            self._objects(HOLD_LOOK_ACTIONS, f"{JOURNAL}*"),
            self._objects(PRUNE_ACTIONS, f"{JOURNAL}*"),
        )

    def grant_keep_results(self, grantee: Grantee) -> None:
        """Keep what steps gave back that is too large for the ledger, and read it.

        Whoever may not list a bucket is told of a missing object that it is forbidden.
        """
        self._allow(
            grantee,
            f"results-{self.label}",
            self._listing(RESULTS),
            self._objects(KEEP_RESULTS_ACTIONS, f"{RESULTS}*"),
            self._key(ENCRYPT_ACTIONS),
        )

    def grant_rehearse(self, grantee: Grantee) -> None:
        """Record how rehearsals went; beside `grant_restore`."""
        self._allow(
            grantee,
            f"rehearse-{self.label}",
            self._objects(RECORD_ACTIONS, f"{REHEARSALS}*"),
            self._key(WRITE_KEY_ACTIONS),
        )

    def grant_rehearsed(self, grantee: Grantee) -> None:
        """See how rehearsals went, and which points there are, of which nothing is read."""
        self._allow(
            grantee,
            f"rehearsed-{self.label}",
            self._listing(POINTS),
            self._listing(REHEARSALS),
            self._objects(REVIEW_ACTIONS, f"{REHEARSALS}*"),
            self._key(READ_KEY_ACTIONS),
        )

    @property
    def _findings(self) -> str:
        return f"{FINDINGS}{self.region}/*"

    def grant_record(self, grantee: Grantee) -> None:
        """Write to the timelines of recovery runs, and read nothing."""
        self._allow(
            grantee,
            f"record-{self.label}",
            self._objects(RECORD_ACTIONS, f"{RUNS}*"),
            self._key(WRITE_KEY_ACTIONS),
        )

    def grant_review(self, grantee: Grantee) -> None:
        """Read the timelines of recovery runs."""
        self._allow(
            grantee,
            f"review-{self.label}",
            self._listing(RUNS),
            self._objects(REVIEW_ACTIONS, f"{RUNS}*"),
            self._key(READ_KEY_ACTIONS),
        )

    def grant_copy_from(self, grantee: Grantee) -> None:
        """Find and read whatever the other region's vault should have too, where no store replicates."""
        self._allow(
            grantee,
            f"copy-from-{self.label}",
            *(self._listing(prefix) for prefix in (POINTS, FINDINGS, *COPIED_BESIDE)),
            *(self._objects(RESTORE_ACTIONS, f"{prefix}*") for prefix in (POINTS, *COPIED_BESIDE)),
            self._objects(RESTORE_ACTIONS, self._findings),
            self._key(READ_KEY_ACTIONS),
        )

    def grant_copy_to(self, grantee: Grantee) -> None:
        """Put what was found there, and seal recovery points."""
        self._allow(
            grantee,
            f"copy-to-{self.label}",
            *(self._listing(prefix) for prefix in (POINTS, FINDINGS, *COPIED_BESIDE)),
            *(self._objects(SEAL_ACTIONS, f"{prefix}*") for prefix in (POINTS, *COPIED_BESIDE)),
            self._objects(COMPARE_ACTIONS, MANIFESTS),
            self._objects(RESTORE_ACTIONS, self._findings),
            self._key(ENCRYPT_ACTIONS),
        )

    def _allow(self, grantee: Grantee, name: str, *statements: Statement) -> None:
        grantee.allow(name, *statements)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """A secret of the region's own, known by its name, with the key that encrypts it."""

    label: str
    name: str
    region: str
    account: str
    key_alias: str

    def grant_read(self, grantee: Grantee) -> None:
        """Read its value. The service ends its ARN with a hyphen and six letters that nobody can compute."""
        grantee.allow(
            f"read-{self.label}",
            Statement(
                actions=READ_SECRET_ACTIONS,
                resources=(f"arn:aws:secretsmanager:{self.region}:{self.account}:secret:{self.name}-??????",),
            ),
            Statement(
                actions=READ_KEY_ACTIONS,
                resources=(f"arn:aws:kms:{self.region}:{self.account}:key/*",),
                condition=by_alias(self.key_alias, via=f"secretsmanager.{self.region}"),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherVaultRef(VaultRef):
    """A region's vault in a store that is not Amazon's: whoever may do anything with it has the keys to it, which are
    in the secret `keys`. What they may do is for that store to say."""

    keys: SecretRef

    def _allow(self, grantee: Grantee, name: str, *statements: Statement) -> None:  # noqa: ARG002 - IAM rules nothing there
        self.keys.grant_read(grantee)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRef:
    """The key that signs recovery points, as a region has it."""

    alias: str
    region: str
    account: str

    def grant_sign(self, grantee: Grantee) -> None:
        """Sign a point."""
        grantee.allow("sign", self._statement(SIGN_ACTIONS))

    def grant_check(self, grantee: Grantee) -> None:
        """Check the signature of a point."""
        grantee.allow("check-signature", self._statement(CHECK_ACTIONS))

    def _statement(self, actions: tuple[str, ...]) -> Statement:
        return Statement(
            actions=actions,
            resources=(f"arn:aws:kms:{self.region}:{self.account}:key/*",),
            condition=by_alias(self.alias),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRef:
    """The topic that people are told by, as both regions know it."""

    name: str
    region: str
    account: str
    key_alias: str

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:sns:{self.region}:{self.account}:{self.name}"

    def grant_publish(self, grantee: Grantee) -> None:
        """Tell people."""
        grantee.allow(
            "publish",
            Statement(actions=PUBLISH_ACTIONS, resources=(self.arn,)),
            Statement(
                actions=ENCRYPT_ACTIONS,
                resources=(f"arn:aws:kms:{self.region}:{self.account}:key/*",),
                condition=by_alias(self.key_alias, via=f"sns.{self.region}"),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRef(BucketRef):
    """The one bucket of the epoch and the lease.

    Whoever reads it may also list it: S3 answers 403 rather than 404 for a missing object to those who may not, and a
    lease that was never taken must not look like a missing permission. That holds only for a listing without a prefix.
    """

    def grant_hold(self, grantee: Grantee) -> None:
        """Take, renew and read the lease."""
        self._grant(grantee, f"hold-{self.label}", HOLD_ACTIONS, LEASE_OBJECT, ENCRYPT_ACTIONS)

    def grant_read(self, grantee: Grantee) -> None:
        """Read the lease."""
        self._grant(grantee, f"read-{self.label}", READ_ACTIONS, LEASE_OBJECT, READ_KEY_ACTIONS)

    def grant_remember(self, grantee: Grantee) -> None:
        """Keep the sentinel's own notes between its minutes."""
        self._grant(grantee, "remember", HOLD_ACTIONS, SENTINEL_OBJECT, ENCRYPT_ACTIONS)

    def _grant(
        self, grantee: Grantee, name: str, actions: tuple[str, ...], key: str, key_actions: tuple[str, ...]
    ) -> None:
        grantee.allow(
            name,
            Statement(actions=LIST_ACTIONS, resources=(self.arn,)),
            self._objects(actions, key),
            self._key(key_actions),
        )

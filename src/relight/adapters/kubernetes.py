"""The Kubernetes API of an EKS cluster: one call that gives up in time, and errors from the one tree."""

from __future__ import annotations

import base64
import binascii
import json
import ssl
from typing import Any
from urllib.parse import quote

import urllib3

from relight.adapters import aws
from relight.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    PermanentError,
    RelightError,
    UnavailableError,
)

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
# What the cluster's authenticator knows a token by, and the header that says for which cluster it was made.
TOKEN_PREFIX = "k8s-aws-v1."  # noqa: S105 - it begins every token
CLUSTER_HEADER = "x-k8s-aws-id"
# The cluster looks at no later moment than a quarter of an hour; older ones refuse more than this.
TOKEN_S = 60
_MERGE = "application/merge-patch+json"
_BY_STATUS: dict[int, type[RelightError]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    429: UnavailableError,
}
_HINTS = {
    401: "give the role of the function an access entry of the cluster",
    403: "bind the Kubernetes role of docs/capacity.md to the group of the access entry",
}


def token_for(sts: Any, cluster: str) -> str:
    """The token by which the caller's own IAM role comes into the cluster: a request to STS, signed and not sent, that
    the cluster sends to see who signed it. Source: kubernetes-sigs/aws-iam-authenticator, "API Authorization from
    Outside a Cluster"."""

    def say_cluster(request: Any, **_: Any) -> None:
        request.headers[CLUSTER_HEADER] = cluster

    event = "before-sign.sts.GetCallerIdentity"
    sts.meta.events.register(event, say_cluster)
    try:
        with aws.translating():
            url = sts.generate_presigned_url("get_caller_identity", ExpiresIn=TOKEN_S, HttpMethod="GET")
    finally:
        sts.meta.events.unregister(event, say_cluster)
    return TOKEN_PREFIX + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")


class Kubernetes:
    """A cluster's API: JSON, over TLS by the cluster's own authority and no other. The token is shown nowhere."""

    def __init__(self, address: str, *, authority: str, token: str) -> None:
        """`authority` is the PEM of the cluster's certificates, in base64, as EKS gives it."""
        try:
            trust = ssl.create_default_context(cadata=base64.b64decode(authority, validate=True).decode("ascii"))
        except (binascii.Error, UnicodeDecodeError, ssl.SSLError) as exc:
            raise PermanentError("the cluster's certificate authority is not one in PEM") from exc
        self._address = address.rstrip("/")
        self._headers = {"Accept": "application/json", "Authorization": f"Bearer {token}"}
        self._pool = urllib3.PoolManager(
            ssl_context=trust,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            retries=urllib3.Retry(2, backoff_factor=0.1, redirect=0, status=0, raise_on_redirect=False),
        )

    def call(self, method: str, *path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON; a `body` is merged into what is there. DeniedError, NotFoundError, ConflictError,
        UnavailableError, and PermanentError for what else is refused."""
        what = f"kubernetes {method} /{'/'.join(path)}"
        url = "/".join([self._address, *(quote(part, safe="") for part in path)])
        headers = self._headers | ({"Content-Type": _MERGE} if body is not None else {})
        try:
            answer = self._pool.request(
                method, url, headers=headers, body=None if body is None else json.dumps(body).encode(), redirect=False
            )
        except urllib3.exceptions.HTTPError as exc:
            # The error's own text may hold the request.
            raise UnavailableError(
                f"{what} did not answer: {_reason(exc)}", hint="see whether the cluster's API can be reached from here"
            ) from None
        if answer.status != 200:
            kind = UnavailableError if answer.status >= 500 else _BY_STATUS.get(answer.status, PermanentError)
            raise kind(f"{what} failed: {answer.status}: {_message(answer.data)}", hint=_HINTS.get(answer.status, ""))
        try:
            found = json.loads(answer.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnavailableError(f"{what} answered with something that is not a JSON object")
        return found


def _reason(exc: urllib3.exceptions.HTTPError) -> str:
    cause = getattr(exc, "reason", None) or exc
    return type(cause).__name__


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return "no message"

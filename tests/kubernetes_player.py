"""A small Kubernetes API on loopback, as an EKS cluster's is: TLS by an authority of its own, tokens of IAM, RBAC.

It stands for a cluster's API server with the authenticator in front of it. A token is checked as the authenticator
checks it before it asks STS (host, parameters, the header that names the cluster, its age), and its signature as STS
does, over the only key that there is. What a group of the caller may not do is refused; changes are compared by their
resource version; pods become ready as slowly as a test says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPS = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
SCALERS = "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"
CLUSTER_HEADER = "x-k8s-aws-id"
# The authenticator's: other parameters of the request to STS are refused.
PARAMETERS = {
    *("action", "version", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires"),
    *("x-amz-security-token", "x-amz-signature", "x-amz-signedheaders"),
}


class RefusedError(Exception):
    """A Status of Kubernetes: its code and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class PlayedDeployment:
    """A Deployment; `ready` says how many pods are, at each look, of those that are asked for."""

    replicas: int = 1
    ready: Callable[[int], int] = lambda asked: asked
    version: int = 1
    conditions: list[dict[str, str]] = field(default_factory=list)


@dataclass
class PlayedScaler:
    """A HorizontalPodAutoscaler."""

    target: str
    least: int = 1
    most: int = 10
    kind: str = "Deployment"
    version: int = 1


@dataclass
class KubernetesPlayer:
    """What there is in one namespace, and what was done: `calls` are (method, path, body) in their order."""

    cluster: str
    key_id: str
    secret: str
    region: str = "us-west-2"
    namespace: str = "default"
    deployments: dict[str, PlayedDeployment] = field(default_factory=dict)
    scalers: dict[str, PlayedScaler] = field(default_factory=dict)
    forbidden: tuple[str, ...] = ()
    """What of the API's paths the caller may not reach."""
    rules: list[dict[str, Any]] | None = None
    """Those of the caller's Role, of RBAC; without them he may do all."""
    access: bool = True
    """Whether the caller has an access entry."""
    failing: list[int] = field(default_factory=list)
    """The statuses of the next answers."""
    before_patch: Callable[[KubernetesPlayer], None] = lambda _: None
    redirect: str = ""
    status: str = "ACTIVE"
    calls: list[tuple[str, str, dict[str, Any] | None]] = field(default_factory=list)

    def patched(self) -> list[tuple[str, dict[str, Any] | None]]:
        """What was asked to be changed, and how."""
        return [(path.rpartition("/namespaces/")[2], body) for method, path, body in self.calls if method == "PATCH"]

    def answer(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any] | None) -> dict[str, Any]:
        self._authenticate(headers.get("authorization", ""))
        self.calls.append((method, path, body))
        if self.failing:
            raise RefusedError(self.failing.pop(0), "as the player was told")
        if any(part in path for part in self.forbidden) or not self._allows(method, path):
            raise RefusedError(403, f"cannot reach {path}")
        if method == "PATCH":
            assert headers["content-type"] == "application/merge-patch+json"
            self.before_patch(self)
        root = SCALERS.format(namespace=self.namespace)
        if path == root and method == "GET":
            return {"items": [self._scaler(name, item) for name, item in self.scalers.items()]}
        if path.startswith(f"{root}/"):
            return self._one_scaler(path.removeprefix(f"{root}/"), body)
        for name, item in self.deployments.items():
            where = APPS.format(namespace=self.namespace, name=name)
            if path == where and method == "GET":
                return self._deployment(item)
            if path == f"{where}/scale":
                return self._scale(item, body)
        raise RefusedError(404, f"{path} not found")

    def _allows(self, method: str, path: str) -> bool:
        """Whether a rule allows the verb on the resource, of that name where it names any."""
        if self.rules is None:
            return True
        _, _, group, _, _, namespace, kind, *rest = path.split("/")
        name, sub = (*rest, "", "")[:2]
        verb = "list" if method == "GET" and not name else method.lower()
        resource = f"{kind}/{sub}" if sub else kind
        return namespace == self.namespace and any(
            group in rule["apiGroups"]
            and resource in rule["resources"]
            and verb in rule["verbs"]
            and ("resourceNames" not in rule or name in rule["resourceNames"])
            for rule in self.rules
        )

    def _deployment(self, item: PlayedDeployment) -> dict[str, Any]:
        ready = item.ready(item.replicas)
        status: dict[str, Any] = {"conditions": item.conditions} | ({"readyReplicas": ready} if ready else {})
        return {
            "metadata": {"resourceVersion": str(item.version)},
            "spec": {"replicas": item.replicas},
            "status": status,
        }

    def _scale(self, item: PlayedDeployment, body: dict[str, Any] | None) -> dict[str, Any]:
        if body is not None:
            _compare(body, item.version)
            item.replicas, item.version = body["spec"]["replicas"], item.version + 1
        # A number of none is left out, as Go leaves out what is empty.
        spec = {"replicas": item.replicas} if item.replicas else {}
        return {"metadata": {"resourceVersion": str(item.version)}, "spec": spec}

    def _one_scaler(self, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
        item = self.scalers[name]
        if body is not None:
            _compare(body, item.version)
            least, most = body["spec"]["minReplicas"], body["spec"]["maxReplicas"]
            if not 1 <= least <= most:
                raise RefusedError(422, f"minReplicas {least} and maxReplicas {most}")
            item.least, item.most, item.version = least, most, item.version + 1
        return self._scaler(name, item)

    def _scaler(self, name: str, item: PlayedScaler) -> dict[str, Any]:
        target = {"apiVersion": "apps/v1", "kind": item.kind, "name": item.target}
        spec = {"scaleTargetRef": target, "minReplicas": item.least, "maxReplicas": item.most}
        return {"metadata": {"name": name, "resourceVersion": str(item.version)}, "spec": spec}

    def _authenticate(self, authorization: str) -> None:
        kind, _, token = authorization.partition(" ")
        try:
            assert kind == "Bearer"
            assert token.startswith("k8s-aws-v1.")
            assert len(token) <= 4096
            coded = token.removeprefix("k8s-aws-v1.")
            assert "=" not in coded, "the authenticator takes no padding"
            self._signed(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode())
        except (AssertionError, binascii.Error, KeyError, ValueError) as exc:
            raise RefusedError(401, f"Unauthorized: {exc}") from exc
        if not self.access:
            raise RefusedError(401, "Unauthorized")

    def _signed(self, url: str) -> None:
        """What the authenticator, and STS after it, look at."""
        parts = urlsplit(url)
        query = {name.lower(): values[0] for name, values in parse_qs(parts.query).items()}
        assert (parts.scheme, parts.hostname, parts.path) == ("https", f"sts.{self.region}.amazonaws.com", "/")
        assert query.keys() <= PARAMETERS, query.keys() - PARAMETERS
        assert query["action"] == "GetCallerIdentity"
        assert query["x-amz-signedheaders"] == f"host;{CLUSTER_HEADER}"
        assert 0 <= int(query["x-amz-expires"]) <= 60
        signed_at = datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - signed_at) < timedelta(minutes=15)
        day, *scope = query["x-amz-credential"].removeprefix(f"{self.key_id}/").split("/")
        assert (day, scope) == (query["x-amz-date"][:8], [self.region, "sts", "aws4_request"])
        assert query["x-amz-signature"] == self._signature(url, query["x-amz-date"]), "signed for another cluster"

    def _signature(self, url: str, at: str) -> str:
        """Signature Version 4, over the headers that it must be over."""
        parts = urlsplit(url)
        query = "&".join(sorted(item for item in parts.query.split("&") if not item.startswith("X-Amz-Signature=")))
        headers = f"host:{parts.netloc}\n{CLUSTER_HEADER}:{self.cluster}\n"
        nothing = hashlib.sha256(b"").hexdigest()
        whole = "\n".join(["GET", parts.path, query, headers, f"host;{CLUSTER_HEADER}", nothing])
        scope = f"{at[:8]}/{self.region}/sts/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashlib.sha256(whole.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()


def _compare(body: dict[str, Any], version: int) -> None:
    if body["metadata"]["resourceVersion"] != str(version):
        raise RefusedError(409, "the object has been modified")


@contextmanager
def playing(player: KubernetesPlayer, *, names: tuple[str, ...] = ("127.0.0.1",)) -> Iterator[str]:
    """The address of an EKS that tells where the cluster's API is, and by which authority its certificate of `names`
    was issued."""
    authority, lock = trustme.CA(), threading.Lock()

    class Api(_Handler):
        def _serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                if player.redirect:
                    self.say(307, {}, location=player.redirect)
                    return
                try:
                    self.say(200, player.answer(self.command, self.path, headers, body))
                except RefusedError as exc:
                    self.say(exc.status, {"kind": "Status", "status": "Failure", "message": str(exc)})

        do_GET = do_PATCH = _serve  # noqa: N815 - as the server calls them

    class Eks(_Handler):
        def do_GET(self) -> None:
            assert f"/{player.region}/eks/" in self.headers["Authorization"], "signed for the cluster's region"
            if self.path != f"/clusters/{player.cluster}":
                error = {"message": f"No cluster found for name: {self.path.rpartition('/')[2]}."}
                self.say(404, error, kind="ResourceNotFoundException")
                return
            found: dict[str, Any] = {"name": player.cluster, "status": player.status}
            if player.status != "CREATING":
                pem = base64.b64encode(authority.cert_pem.bytes()).decode()
                found |= {"endpoint": f"https://127.0.0.1:{api.server_port}", "certificateAuthority": {"data": pem}}
            self.say(200, {"cluster": found})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    with _served(Api, context) as api, _served(Eks) as eks:
        yield f"http://127.0.0.1:{eks.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, status: int, value: dict[str, Any], *, kind: str = "", location: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"x-amzn-ErrorType": kind, "Location": location}.items():
            if text:
                self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def _served(handler: type[_Handler], context: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

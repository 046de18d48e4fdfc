"""S3-compatible stores that are not Amazon's, played at the wire: each refuses what it refuses in life, checks every
signature, and keeps its objects in a real server behind it.

What each refuses is from its own documentation and from reports of those who met it; docs/other-stores.md names them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from relight.adapters import aws

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.seaweed import Seaweed

KEY_ID = "GOOG1EPLAYEDKEY"
# As such keys are: base64, with what has a meaning in addresses.
SECRET = "pLay+ed/Secret0123456789abcdefghijklmno="

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]*)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)"
)
_CONTENTS = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_KEYS = re.compile(rb"<Key>.*?</Key>")
_PART_BYTES_LEAST = 5 * 1024 * 1024
_HOP_BY_HOP = {"connection", "transfer-encoding", "date", "server", "content-length"}
# How the played store signs to the server behind it.
_BEHIND = "us-east-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """In what a store differs from Amazon's."""

    name: str
    regions: tuple[str, ...] = ()
    """Which may be signed for; any where it is empty."""
    heeds_conditions: bool = True
    """Whether a put looks at If-None-Match; the others answer as if there were none."""
    equal_parts: bool = False
    ordered: bool = True
    keeps_locked: bool = False
    """Whether nothing can be deleted, as under a lock of the bucket's own that no answer tells of."""


R2 = Rules(name="r2", regions=("auto", "us-east-1"), equal_parts=True)
GOOGLE = Rules(name="google", heeds_conditions=False)
DISORDERLY = Rules(name="disorderly", ordered=False)


class RefusedError(Exception):
    """The store says no."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Store:
    """A played store that runs. `requests` are all that were made, `before` may raise RefusedError in front of one."""

    url: str
    rules: Rules
    requests: list[Request] = field(default_factory=list)
    before: Callable[[Request], None] = lambda _: None

    def client(self, *, key_id: str = KEY_ID, secret: str = SECRET, region: str = "auto") -> Any:
        """A client made as Relight makes its own."""
        return aws.elsewhere(self.url, key_id=key_id, secret=secret, region=region)

    def made(self, method: str, **query: str) -> list[Request]:
        """The requests of that method whose query has these names."""
        return [item for item in self.requests if item.method == method and {*query} <= {*item.query}]


@contextmanager
def play(rules: Rules, seaweed: Seaweed, context: ssl.SSLContext) -> Iterator[Store]:
    """A store of that kind, over TLS on loopback; its objects are in `seaweed`."""
    behind = _Behind(seaweed)
    parts: dict[str, dict[str, int]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(
                method=self.command,
                path=url.path,
                query=dict(parse_qsl(url.query, keep_blank_values=True)),
                headers=headers,
                body=self.rfile.read(int(headers.get("content-length", "0"))),
            )
            store.requests.append(request)
            try:
                store.before(request)
                _check(rules, request, url.query)
                self._forward(request)
            except RefusedError as exc:
                body = f"<Error><Code>{exc.code}</Code><Message>{exc.message}</Message></Error>".encode()
                self._send(exc.status, {"Content-Type": "application/xml"}, body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - the names that the base calls

        def _forward(self, request: Request) -> None:
            upload = request.query.get("uploadId", "")
            if request.method == "PUT" and upload:
                parts.setdefault(upload, {})[request.query["partNumber"]] = len(request.body)
            if request.method == "POST" and upload:
                _check_parts(rules, parts.get(upload, {}))
            if rules.keeps_locked and "delete" in request.query:
                self._send(200, {"Content-Type": "application/xml"}, _kept(request.body))
                return
            status, headers, body = behind.ask(request, conditions=rules.heeds_conditions)
            if not rules.ordered and request.query.get("list-type"):
                entries = iter(reversed(_CONTENTS.findall(body)))
                body = _CONTENTS.sub(lambda _: next(entries), body)
            self._send(status, headers, body)

        def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            told = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", told)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Nothing: what was asked is in `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    store = Store(url=f"https://localhost:{server.server_address[1]}", rules=rules)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Behind:
    """The real server, asked with its own keys."""

    def __init__(self, seaweed: Seaweed) -> None:
        self._url = seaweed.url
        self._credentials = Credentials(seaweed.access_key, seaweed.secret_key)
        self._pool = urllib3.PoolManager(maxsize=16)

    def ask(self, request: Request, *, conditions: bool) -> tuple[int, dict[str, str], bytes]:
        kept = {
            name: value
            for name, value in request.headers.items()
            if not name.startswith("x-amz-") and name in ("content-md5", "content-type", "range", "if-match")
        }
        if conditions and "if-none-match" in request.headers:
            kept["if-none-match"] = request.headers["if-none-match"]
        asked = {name: value for name, value in request.query.items() if not name.lower().startswith("x-amz-")}
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in asked.items())
        signed = AWSRequest(
            method=request.method, url=f"{self._url}{request.path}?{query}", data=request.body, headers=kept
        )
        S3SigV4Auth(self._credentials, "s3", _BEHIND).add_auth(signed)
        answer = self._pool.request(
            request.method,
            str(signed.url),
            body=request.body,
            headers=dict(signed.headers.items()),
            retries=False,
            decode_content=False,
        )
        return answer.status, dict(answer.headers.items()), answer.data


def _check(rules: Rules, request: Request, query: str) -> None:
    """Raise RefusedError for what such a store refuses."""
    headers, body = request.headers, request.body
    _check_signature(rules, request, query)
    unknown = [
        name
        for name in headers
        if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer", "x-amz-object-lock"))
    ]
    if unknown or "aws-chunked" in headers.get("content-encoding", ""):
        if rules is GOOGLE:  # which signs the request without what it does not know
            raise RefusedError(403, "SignatureDoesNotMatch", "Invalid argument.")
        raise RefusedError(501, "NotImplemented", f"Header {unknown} not implemented")
    if "x-amz-security-token" in headers:
        raise RefusedError(400, "InvalidArgument", "these keys have no session")
    if {"retention", "legal-hold", "object-lock"} & {*request.query}:
        raise RefusedError(501, "NotImplemented", "there are no locks of objects here")
    digest = headers.get("content-md5")
    needed = (request.method == "PUT" and body) or "delete" in request.query
    if needed and digest is None:
        raise RefusedError(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    if digest is not None and base64.b64decode(digest) != hashlib.md5(body, usedforsecurity=False).digest():
        raise RefusedError(400, "BadDigest", "The Content-MD5 you specified did not match what was received.")


def _kept(body: bytes) -> bytes:
    """The answer to a deletion of which nothing was done."""
    why = b"<Code>ObjectLockedByBucketPolicy</Code><Message>The object is locked by the bucket's policy.</Message>"
    refused = b"".join(b"<Error>" + key + why + b"</Error>" for key in _KEYS.findall(body))
    return b'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">' + refused + b"</DeleteResult>"


def _check_parts(rules: Rules, sizes: Mapping[str, int]) -> None:
    ordered = [sizes[number] for number in sorted(sizes, key=int)]
    if any(size < _PART_BYTES_LEAST for size in ordered[:-1]):
        raise RefusedError(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size.")
    if rules.equal_parts and (len({*ordered[:-1]}) > 1 or ordered[-1] > ordered[0]):
        raise RefusedError(400, "InvalidPart", "All non-trailing parts must have the same length.")


def _check_signature(rules: Rules, request: Request, query: str) -> None:
    """As the signature's own documentation computes it, and not as the client's library does."""
    said, asked = request.headers.get("authorization", ""), request.query
    at, payload = request.headers.get("x-amz-date", ""), request.headers.get("x-amz-content-sha256", "")
    if "X-Amz-Signature" in asked:  # an address that whoever has it may use
        said = f"{asked['X-Amz-Algorithm']} Credential={asked['X-Amz-Credential']}, "
        said += f"SignedHeaders={asked['X-Amz-SignedHeaders']}, Signature={asked['X-Amz-Signature']}"
        at, payload = asked["X-Amz-Date"], "UNSIGNED-PAYLOAD"
        query = "&".join(item for item in query.split("&") if not item.startswith("X-Amz-Signature="))
    found = _AUTHORIZATION.fullmatch(said)
    if found is None:
        raise RefusedError(400, "InvalidArgument", "Authorization is not AWS4-HMAC-SHA256")
    key_id, date, region, names, signature = found.groups()
    if key_id != KEY_ID:
        raise RefusedError(403, "InvalidAccessKeyId", "The access key does not exist.")
    if rules.regions and region not in rules.regions:
        raise RefusedError(400, "InvalidRegionName", f"The region name '{region}' is not valid.")
    if payload not in ("UNSIGNED-PAYLOAD", hashlib.sha256(request.body).hexdigest()):
        raise RefusedError(400, "XAmzContentSHA256Mismatch", "The body is not what was signed.")
    pairs = sorted(item if "=" in item else f"{item}=" for item in query.split("&") if item)
    canonical = "\n".join(
        [
            request.method,
            request.path,
            "&".join(pairs),
            *(f"{name}:{' '.join(request.headers[name].split())}" for name in names.split(";")),
            "",
            names,
            payload,
        ]
    )
    scope = f"{date}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for item in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, item.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature):
        raise RefusedError(403, "SignatureDoesNotMatch", "The signature does not match.")

"""The gate in front of the emulator: a lost region is denied by service and region, so that a recovery that leans on it
fails as it would in life.

A played part: it stands for the network between a caller and AWS's endpoints. Each side that calls (a region, or the
operator outside) has a port of its own. A request belongs to the regions that would have to be alive to serve it:

- the region of its SigV4 scope, in the header or in a presigned URL;
- for IAM, Route 53 and the other global services the region of their control plane, whatever the scope says, because an
  endpoint override makes botocore sign them for the client's region;
- for S3 also the region of the bucket and of the bucket copied from, and us-east-1 for what makes, deletes or
  configures buckets (AWS Fault Isolation Boundaries, "Global single-region operations");
- for other services the region of an ARN of that same service in the path or in a small body.

A request of a lost region, or from one, is left silent or reset, and is recorded. A request without a SigV4 scope is
refused always, because the emulator takes it for root's; a SigV2 presigned URL belongs to its bucket's region.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import aiohttp
import psutil
from aiohttp import hdrs, web
from botocore.exceptions import ClientError

from relight_drill.network import Mode, carry_request, expected, onward_session, proxy_runner, reset
from relight_drill.processes import DrillError, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relight_drill.emulator import Emulator

CONTROL_PLANES = {
    **dict.fromkeys(
        (
            "iam",
            "route53",
            "route53domains",
            "cloudfront",
            "organizations",
            "account",
            "budgets",
            "ce",
            "shield",
            "waf",
        ),
        "us-east-1",
    ),
    **dict.fromkeys(("support", "trustedadvisor", "health", "billing", "tax"), "us-east-1"),
    **dict.fromkeys(("globalaccelerator", "networkmanager"), "us-west-2"),
}
S3_CONTROL_PLANE = "us-east-1"
SCOPE = re.compile(r"(?:^|[\s,])Credential=[^/\s,]+/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")
PRESIGNED_SCOPE = re.compile(r"[^/]+/\d{8}/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request")
ARN = re.compile(rb"arn:aws:([a-z0-9-]+):([a-z0-9-]+):")
PEEK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a request is, as far as the wire can tell. `regions` says why each region would have to be alive."""

    service: str
    operation: str
    regions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A request that was not let through. `at` is monotonic seconds; `region` is empty where there was no scope."""

    at: float
    side: str
    service: str
    operation: str
    region: str
    why: str


@dataclass(eq=False, slots=True)
class _Flight:
    side: str
    call: Call
    cut: asyncio.Future[tuple[str, str]] = field(repr=False)
    response: web.StreamResponse | None = None
    written: int = 0

    def begin(self, response: web.StreamResponse) -> None:
        self.response = response

    def write(self, size: int) -> None:
        self.written += size

    @property
    def answered(self) -> bool:
        """Whether the caller has its whole answer already, or is being handed the last of it."""
        response = self.response
        if response is None or not response.prepared or response.content_length is None:
            return False
        # aiohttp's own count is made once a response has ended, which may be after its caller has read all of it.
        return self.written >= response.content_length


def classify(
    method: str, raw_path: str, headers: Mapping[str, str], *, buckets: Mapping[str, str], body: bytes = b""
) -> Call | None:
    """Tell to which regions a request belongs; None when it has no scope that says so."""
    path, _, query_text = raw_path.partition("?")
    query = _query(query_text)
    scope = SCOPE.search(headers.get("Authorization", "")) or PRESIGNED_SCOPE.fullmatch(
        query.get("x-amz-credential", "")
    )
    regions: dict[str, str] = {}
    if scope is not None:
        region, service = scope.groups()
        regions[region] = "scope"
    elif _is_sigv2(headers, query):
        service = "s3"
    else:
        return None
    operation = headers.get("X-Amz-Target", "").rpartition(".")[2] or query.get("action") or f"{method} {path}"
    if service in ("s3", "s3express"):
        known = _s3_regions(method, path, query, headers, buckets)
        if scope is None and "bucket" not in known.values():
            return None
        for name, why in known.items():
            regions.setdefault(name, why)
    elif service in CONTROL_PLANES:
        regions = {CONTROL_PLANES[service]: "control plane"}
    else:
        for named, region in ARN.findall(unquote(path).encode() + b" " + body):
            if named.decode() == service:
                regions.setdefault(region.decode(), "resource")
    return Call(service=service, operation=operation, regions=regions)


def _query(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split("&") if item)
    return {unquote(name).lower(): unquote(value.replace("+", " ")) for name, _, value in pairs}


def _is_sigv2(headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
    return ("awsaccesskeyid" in query and "signature" in query) or headers.get("Authorization", "").startswith("AWS ")


def _s3_regions(
    method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], buckets: Mapping[str, str]
) -> dict[str, str]:
    """The regions of the bucket, of the bucket copied from, and of S3's own control plane where it is asked."""
    host = headers.get("Host", "").split(":")[0]
    hosted = next((name for name in buckets if host.startswith(f"{name}.")), None)
    first, _, rest = unquote(path).lstrip("/").partition("/")
    bucket, key = (hosted, unquote(path).lstrip("/")) if hosted is not None else (first, rest)
    found: dict[str, str] = {}
    if bucket in buckets:
        found[buckets[bucket]] = "bucket"
    source = headers.get("x-amz-copy-source") or query.get("x-amz-copy-source", "")
    origin = unquote(source).lstrip("/").partition("/")[0]
    if origin in buckets:
        found.setdefault(buckets[origin], "copy source")
    if bucket and not key and method in ("PUT", "DELETE"):
        found.setdefault(S3_CONTROL_PLANE, "control plane")
    return found


class Gate:
    """Lets callers reach the emulator, except for what a lost region would have to serve."""

    def __init__(self, emulator: Emulator, *, buckets: Mapping[str, str] | None = None) -> None:
        self._emulator = emulator
        self._lost: dict[str, Mode] = {}
        self._runners: list[web.AppRunner] = []
        self._session: aiohttp.ClientSession | None = None
        self._flights: set[_Flight] = set()
        self._over = asyncio.Event()
        self._freed: dict[str, asyncio.Event] = {}
        self.ports: dict[str, int] = {}
        self.buckets: dict[str, str] = dict(buckets or {})
        self.denials: deque[Denial] = deque(maxlen=10_000)

    @property
    def lost(self) -> Mapping[str, Mode]:
        """The regions that are lost now, and how."""
        return dict(self._lost)

    async def add_side(self, name: str) -> int:
        """Open a port for the callers of a side: a region's name, or `outside`."""
        if self._session is None:
            self._session = onward_session()

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(name, request)

        runner = proxy_runner(handle)
        await runner.setup()
        self._runners.append(runner)
        port = self.ports[name] = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return port

    def url(self, side: str) -> str:
        """The endpoint of a side's callers."""
        return f"http://127.0.0.1:{self.ports[side]}"

    def lose(self, region: str, mode: Mode) -> None:
        """From now on deny what `region` serves and what its own side asks for, requests in flight included."""
        if mode is Mode.OPEN:
            raise DrillError("a region is lost silent or dead, not open", hint="use restore()")
        self._lost[region] = mode
        self._freed[region] = asyncio.Event()
        for flight in self._flights:
            reason = self._reason(flight.side, flight.call)
            if reason is not None and not flight.answered and not flight.cut.done():
                flight.cut.set_result(reason)

    def restore(self, region: str) -> None:
        """Let a lost region be reached again; what was left silent is reset."""
        self._lost.pop(region, None)
        freed = self._freed.pop(region, None)
        if freed is not None:
            freed.set()

    async def close(self) -> None:
        """Reset what is open and stop listening."""
        self._over.set()
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        if self._session is not None:
            await self._session.close()

    async def _handle(self, side: str, request: web.Request) -> web.StreamResponse:
        assert self._session is not None  # noqa: S101 - a side is open
        body: bytes | None = None
        call = classify(request.method, request.raw_path, request.headers, buckets=self.buckets)
        if call is None:
            self._record(side, None, "", "no scope")
            return _unsigned()
        reason = self._reason(side, call)
        if reason is not None:
            return await self._deny(side, call, reason, request)
        await expected(request)
        if self._lost and call.service != "s3" and (request.content_length or 0) <= PEEK:
            body = await request.read()
            call = classify(request.method, request.raw_path, request.headers, buckets=self.buckets, body=body) or call
            reason = self._reason(side, call)
            if reason is not None:
                return await self._deny(side, call, reason, request)
        flight = _Flight(side, call, asyncio.get_running_loop().create_future())
        self._flights.add(flight)
        carried = asyncio.ensure_future(
            carry_request(
                request,
                self._session,
                self._emulator.url,
                headers={"X-Forwarded-Proto": "https"},
                body=body,
                begun=flight.begin,
                writes=flight.write,
            )
        )
        try:
            await asyncio.wait((carried, flight.cut), return_when=asyncio.FIRST_COMPLETED)
            if flight.cut.done():
                carried.cancel()
                await asyncio.wait((carried,))
                return await self._deny(side, call, flight.cut.result(), request)
            return carried.result()
        except (aiohttp.ClientError, TimeoutError, ConnectionResetError):
            reset(request.transport)
            return web.Response(status=502)
        finally:
            self._flights.discard(flight)
            flight.cut.cancel()
            if not carried.done():
                carried.cancel()
                await asyncio.wait((carried,))

    def _reason(self, side: str, call: Call) -> tuple[str, str] | None:
        """The lost region that would have to serve the call, and why."""
        if side in self._lost:
            return side, "caller"
        return next(((region, why) for region, why in call.regions.items() if region in self._lost), None)

    async def _deny(self, side: str, call: Call, reason: tuple[str, str], request: web.Request) -> web.StreamResponse:
        region, why = reason
        self._record(side, call, region, why)
        if self._lost.get(region) is Mode.SILENT:
            freed = asyncio.create_task(self._freed[region].wait())
            over = asyncio.create_task(self._over.wait())
            try:
                await asyncio.wait((freed, over), return_when=asyncio.FIRST_COMPLETED)
            finally:
                freed.cancel()
                over.cancel()
        reset(request.transport)
        return web.Response(status=503)

    def _record(self, side: str, call: Call | None, region: str, why: str) -> None:
        self.denials.append(
            Denial(
                at=time.monotonic(),
                side=side,
                service=call.service if call else "",
                operation=call.operation if call else "",
                region=region,
                why=why,
            )
        )


def _unsigned() -> web.Response:
    text = json.dumps({"__type": "MissingAuthenticationTokenException", "message": "the request is not signed"})
    return web.Response(status=403, text=text, content_type="application/json", headers={hdrs.CONNECTION: "close"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Darkened:
    """What ran in a region by itself before it was lost; `relight` starts it again."""

    region: str
    schedules: tuple[dict[str, Any], ...]
    rules: tuple[str, ...]
    functions: Mapping[str, int | None]


def darken(emulator: Emulator, region: str) -> Darkened:
    """Stop what a region does by itself: schedules, rules, functions and executions. Blocks; goes straight to root.

    The emulator is one process for every region, so the region's own clockwork would tick on behind the gate.
    """
    scheduler = emulator.client("scheduler", region)
    schedules = []
    for item in scheduler.list_schedules()["Schedules"]:
        full = scheduler.get_schedule(Name=item["Name"], GroupName=item["GroupName"])
        if full["State"] == "ENABLED":
            kept = {key: full[key] for key in SCHEDULE_KEYS if full.get(key) is not None}
            scheduler.update_schedule(**{**kept, "State": "DISABLED"})
            schedules.append(kept)
    events = emulator.client("events", region)
    rules = tuple(rule["Name"] for rule in events.list_rules()["Rules"] if rule["State"] == "ENABLED")
    for name in rules:
        events.disable_rule(Name=name)
    functions = _disable_functions(emulator, region)
    states = emulator.client("stepfunctions", region)
    for machine in states.list_state_machines()["stateMachines"]:
        running = states.list_executions(stateMachineArn=machine["stateMachineArn"], statusFilter="RUNNING")
        for execution in running["executions"]:
            with suppress(ClientError):
                states.stop_execution(executionArn=execution["executionArn"], cause="the region is lost")
    for worker in workers(emulator, region):
        with suppress(psutil.NoSuchProcess):
            worker.send_signal(signal.SIGKILL)
    return Darkened(region=region, schedules=tuple(schedules), rules=rules, functions=functions)


SCHEDULE_KEYS = (
    *("Name", "GroupName", "ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "Target", "State"),
    *("Description", "KmsKeyArn", "StartDate", "EndDate", "ActionAfterCompletion"),
)


def _disable_functions(emulator: Emulator, region: str) -> dict[str, int | None]:
    lambdas = emulator.client("lambda", region)
    functions: dict[str, int | None] = {}
    for function in lambdas.list_functions()["Functions"]:
        name = function["FunctionName"]
        functions[name] = lambdas.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
        lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    return functions


def relight(emulator: Emulator, darkened: Darkened) -> None:
    """Start again what `darken` stopped. Blocks."""
    lambdas = emulator.client("lambda", darkened.region)
    for name, reserved in darkened.functions.items():
        if reserved is None:
            lambdas.delete_function_concurrency(FunctionName=name)
        else:
            lambdas.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
    events = emulator.client("events", darkened.region)
    for name in darkened.rules:
        events.enable_rule(Name=name)
    scheduler = emulator.client("scheduler", darkened.region)
    for schedule in darkened.schedules:
        scheduler.update_schedule(**schedule)


def workers(emulator: Emulator, region: str) -> list[psutil.Process]:
    """The processes in which the emulator runs the functions of a region."""
    found = []
    for process in psutil.Process(emulator.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            environment = process.environ()
            if environment.get("AWS_REGION") == region and "AWS_LAMBDA_FUNCTION_NAME" in environment:
                found.append(process)
    return found

"""Whether LLM providers could be asked from here: tried in the standby, before the day that it matters."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError, UnavailableError
from relight.providers.faults import Fault
from relight.providers.opening import open_one
from relight.recovery.metrics import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relight.providers.port import Provider
    from relight.providers.spec import ProviderSpec
    from relight.recovery.metrics import Tallies
    from relight.wiring import Region

_log = logging.getLogger(__name__)

METRIC = "ProviderReady"
# A local model that is cold takes longer than this to load, and then it is not ready.
CHECK_S = 20.0
_CLOSE_S = 5.0

NOT_CONFIGURED = "not_configured"
BROKEN = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReadiness:
    """One provider, asked for one token. `fault` is empty when it is ready, else the kind of fault, `not_configured`
    (no key, no SDK, an unknown model), or `error`; `detail` says more, and is free of keys."""

    provider: str
    model: str
    ready: bool
    seconds: float
    fault: str = ""
    detail: str = ""


async def check_providers(
    specs: Sequence[ProviderSpec], *, open_: Callable[[ProviderSpec], Provider], timeout_s: float = CHECK_S
) -> tuple[ProviderReadiness, ...]:
    """Ask each provider whether it would answer now, all at once; in the order given, and never raises on a provider's
    account. Takes little more than `timeout_s`."""
    # The first of an API to be opened imports its SDK, seconds of a small function's processor: no provider's silence.
    opened = [_opened(spec, open_) for spec in specs]
    return tuple(
        await asyncio.gather(*(_check(spec, found, timeout_s) for spec, found in zip(specs, opened, strict=True)))
    )


def _opened(spec: ProviderSpec, open_: Callable[[ProviderSpec], Provider]) -> Provider | Exception:
    try:
        return open_(spec)
    except Exception as exc:  # noqa: BLE001 - it is this provider's result, beside those of the others
        return exc


async def _check(spec: ProviderSpec, opened: Provider | Exception, timeout_s: float) -> ProviderReadiness:
    began = time.monotonic()
    fault, detail = "", ""
    try:
        if isinstance(opened, Exception):
            raise opened
        try:
            async with asyncio.timeout(timeout_s + 1.0):
                await opened.check(timeout_s=timeout_s)
        finally:
            await _close(opened)
    except ConfigError as exc:
        fault, detail = NOT_CONFIGURED, str(exc)
    except Fault as exc:
        fault, detail = exc.kind.value, exc.detail
    except Exception as exc:  # noqa: BLE001 - a mistake in one adapter must not hide what the others found
        # Its text is nobody's promise, and may hold what was sent.
        fault, detail = BROKEN, type(exc).__name__
        _log.error("provider_check_broken", extra={"provider": spec.name, "error": detail})
    return ProviderReadiness(
        provider=spec.name,
        model=spec.model,
        ready=not fault,
        seconds=round(time.monotonic() - began, 3),
        fault=fault,
        detail=detail,
    )


async def _close(provider: Provider) -> None:
    """Whether it can be closed says nothing about whether it is ready, and hides no fault that was found."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await provider.close()
    except Exception as exc:  # noqa: BLE001 - an adapter's mistake, which concerns this check's connections alone
        _log.warning("provider_check_not_closed", extra={"provider": provider.spec.name, "error": type(exc).__name__})


def check_region(region: Region, *, timeout_s: float = CHECK_S) -> dict[str, Any]:
    """Ask every provider of the region from here, publish `ProviderReady` of each, and return what was found.

    One whose `ca_file` is the agent's and is not here is `not_tried`, which says nothing about it. What was found is
    returned too when it could not be published, and says so; DeniedError when that may not be.
    """
    settings = region.settings
    open_ = partial(open_one, connections=region.provider_connections, settings=settings)
    specs = [spec for spec in settings.providers if not spec.ca_file or Path(spec.ca_file).is_file()]
    found = asyncio.run(check_providers(specs, open_=open_, timeout_s=timeout_s))
    result: dict[str, Any] = {
        "region": settings.region,
        "providers": [asdict(item) for item in found],
        "not_tried": [spec.name for spec in settings.providers if spec not in specs],
    }
    for item in found:
        if not item.ready:
            fields = {"provider": item.provider, "fault": item.fault, "detail": item.detail}
            _log.warning("provider_not_ready", extra=fields)
    try:
        publish_readiness(region.metrics, found, region=region)
    except UnavailableError as exc:
        _log.warning("provider_readiness_not_published", extra={"error": str(exc)})
        result["not_published"] = str(exc)
    return result


def publish_readiness(metrics: Tallies, found: Sequence[ProviderReadiness], *, region: Region) -> None:
    """`ProviderReady` of each provider: 1 when it is, else 0."""
    tallies = [
        Tally(name=METRIC, counts={1.0 if item.ready else 0.0: 1}, dimensions={"provider": item.provider})
        for item in found
    ]
    metrics.put_tallies(tallies, at=region.clock.now())

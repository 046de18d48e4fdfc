"""Opens LLM providers, and the router over them, from the settings and the connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from relight.errors import ConfigError
from relight.providers.board import Board
from relight.providers.incidents import Incidents, Kind
from relight.providers.meter import Meter
from relight.providers.open import open_provider
from relight.providers.router import AsyncRouter
from relight.providers.shared import PostgresBreakers, PostgresEpisodes
from relight.providers.spec import check_specs
from relight.recovery.telling import News, Severity, key_of, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from relight.clock import Clock
    from relight.config import Connections, Settings
    from relight.providers.incidents import Incident
    from relight.providers.port import Provider
    from relight.providers.prompts import Prompts
    from relight.providers.router import Degradation
    from relight.providers.spec import ProviderSpec
    from relight.recovery.metrics import Tallies
    from relight.tasks.database import Database


def open_one(spec: ProviderSpec, *, connections: Connections, settings: Settings) -> Provider:
    """The provider with its key; ConfigError that names the provider and the secret that lacks one."""
    key = connections.provider_keys.get(spec.name, "")
    if not key and not spec.keyless:
        entry = f'"{spec.name}": "…"' if settings.provider_keys_secret else f'"provider_keys": {{"{spec.name}": "…"}}'
        raise ConfigError(
            f"provider {spec.name} has no key in the secret {settings.secret_with_provider_keys}",
            hint=f"put {entry} into it, or set keyless for a server that asks for none",
        )
    return open_provider(spec, key)


class OpenedRouter(AsyncRouter):
    """A router that was opened with what belongs to it, all of which `close` ends."""

    def __init__(self, *args: Any, meter: Meter | None, incidents: Incidents | None, **options: Any) -> None:
        super().__init__(*args, incidents=incidents, on_attempt=None if meter is None else meter.attempt, **options)
        self._ends = [self.board.close, *([incidents.close] if incidents else []), *([meter.close] if meter else [])]

    def end(self) -> None:
        """End its threads, in some seconds at most, from any thread; safe to call twice, and after `close`. Each is
        ended, whatever another one raises; the first that was raised is raised then."""
        errors = []
        for end in self._ends:
            try:
                end()
            except Exception as exc:  # noqa: BLE001 - raised once all have ended
                errors.append(exc)
        if errors:
            raise errors[0]

    async def close(self) -> None:
        """Close the providers' connections, and end its threads, also when a connection cannot be closed; safe to call
        twice."""
        try:
            await super().close()
        finally:
            await asyncio.to_thread(self.end)


def open_router(
    settings: Settings,
    connections: Connections,
    *,
    clock: Clock,
    database: Database | None = None,
    metrics: Tallies | None = None,
    page: Callable[[Incident], None] | None = None,
    prompts: Prompts | None = None,
    on_degraded: Callable[[Degradation], None] | None = None,
) -> OpenedRouter:
    """The router over all providers of the settings. Nothing is connected yet.

    With a `database`, breakers and incidents are shared with all workers, and what they know is waited for, for two
    seconds at most. `metrics` takes what is counted, and `page` tells a person. Raises ConfigError where there is no
    provider, and where one has no key, no SDK or an unknown model, before anything is started.
    """
    check_specs(settings.providers)
    providers = [open_one(spec, connections=connections, settings=settings) for spec in settings.providers]
    names, limits = [spec.name for spec in settings.providers], settings.provider_limits
    breakers = None if database is None else PostgresBreakers(database)
    episodes = None if database is None else PostgresEpisodes(database)
    return OpenedRouter(
        providers,
        limits=limits,
        board=Board(names, limits=limits, clock=clock, shared=breakers),
        incidents=None if page is None else Incidents(page, limits=limits, clock=clock, shared=episodes),
        meter=None if metrics is None else Meter(metrics, providers=names, clock=clock),
        prompts=prompts,
        on_degraded=on_degraded,
        clock=clock,
    )


_TO_DO = {
    Kind.FALLBACK: "Nothing stands still, but answers may be worse than usual. See what is wrong with the first"
    " provider, and whether on its side. It is asked again by itself.",
    Kind.DENIED: "It is left out until it takes its key again. Look at the key, the quota and the bill; a new key goes"
    " into {place} in both regions, and the agents are started again.",
    Kind.RECOVERED: "Nothing is left to do.",
}


def publish_incident(sns: Callable[[], Any], settings: Settings) -> Callable[[Incident], None]:
    """A `page` that writes to the incidents topic; UnavailableError or DeniedError when it cannot."""

    def send(incident: Incident) -> None:
        to_do = _TO_DO[incident.kind].format(
            place=f"the secret {settings.secret_with_provider_keys}"
            if settings.provider_keys_secret
            else f"provider_keys of the secret {settings.connections_secret}"
        )
        lines = [
            incident.text,
            "",
            f"In {settings.region} since {incident.since:%Y-%m-%d %H:%M:%SZ}. {to_do}",
            f"Look with: relight status --environment {settings.environment}",
            "Runbook: 3. An LLM provider is out",
        ]
        subject = f"Relight {settings.environment}: {_SUBJECTS[incident.kind].format(provider=incident.provider)}"
        kinds = incident.ended or (incident.kind,)
        news = News(
            subject=subject,
            text="\n".join(lines),
            keys=tuple(_key(settings.environment, kind, incident.provider) for kind in kinds),
            severity=Severity.INFO if incident.kind is Kind.RECOVERED else Severity.ERROR,
            over=incident.kind is Kind.RECOVERED,
        )
        tell(sns(), settings.incidents_topic_arn, news)

    return send


def _key(environment: str, kind: Kind, provider: str) -> str:
    """What goes on, whichever worker tells of it. That a fallback answers is one thing, whichever it is."""
    return key_of(environment, "providers", *([] if kind is Kind.FALLBACK else [provider]), kind)


_SUBJECTS = {
    Kind.FALLBACK: "LLM answers come from the fallback {provider}",
    Kind.DENIED: "LLM provider {provider} refuses its key",
    Kind.RECOVERED: "LLM provider {provider} answers again",
}

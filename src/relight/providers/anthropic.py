"""Anthropic, by its own SDK. Importing this imports the SDK: let `open_provider` do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anthropic import AsyncAnthropic, transform_schema

from relight.providers import anthropic_form as form
from relight.providers.sdk import SdkProvider
from relight.providers.wire import http_client, timeouts

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from relight.providers.messages import Request
    from relight.providers.sdk import EventStream, Reader
    from relight.providers.spec import ProviderSpec

BASE_URL = "https://api.anthropic.com"


class AnthropicProvider(SdkProvider):
    """One of Anthropic's models."""

    def __init__(self, spec: ProviderSpec, key: str) -> None:
        super().__init__(spec, key)
        self._client = AsyncAnthropic(
            # Without a key the SDK asks nothing at all; a server without keys ignores this one.
            api_key=key or "none",
            # The SDK adds /v1 itself; many write it all the same, as other providers want it.
            base_url=(spec.base_url or BASE_URL).rstrip("/").removesuffix("/v1"),
            max_retries=0,
            timeout=timeouts(spec),
            http_client=http_client(spec),
            open_telemetry=False,
        )
        # The SDK takes headers from ANTHROPIC_CUSTOM_HEADERS, and no argument keeps it from that.
        self._client._custom_headers = {}
        # Imported on first use, which would hold up the loop of the first call.
        self._create = self._client.messages.create

    def dropped(self, request: Request) -> tuple[str, ...]:
        """The settings of `request` that do not reach the model."""
        return form.dropped(request, self._spec)

    async def close(self) -> None:
        """Close its connections; safe to call twice."""
        await self._client.close()

    def _reader(self) -> Reader:
        return form.Reader(self._spec)

    def _render(self, request: Request) -> dict[str, Any]:
        return form.render(request, self._spec, schema=transform_schema)

    def _ask(self, body: dict[str, Any]) -> Awaitable[EventStream]:
        return self._create(**body)

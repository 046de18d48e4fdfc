"""OpenAI, by its own SDK. Importing this imports the SDK: let `open_provider` do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI

from relight.providers import openai_form as form
from relight.providers.sdk import SdkProvider
from relight.providers.wire import http_client, timeouts

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from relight.providers.messages import Request
    from relight.providers.sdk import EventStream, Reader
    from relight.providers.spec import ProviderSpec

BASE_URL = "https://api.openai.com/v1"


class OpenAIProvider(SdkProvider):
    """One of OpenAI's models, by Chat Completions."""

    def __init__(self, spec: ProviderSpec, key: str) -> None:
        super().__init__(spec, key)
        self._client = AsyncOpenAI(
            # The SDK reads the environment where there is no key; a server without keys ignores this one.
            api_key=key or "none",
            base_url=spec.base_url or BASE_URL,
            max_retries=0,
            timeout=timeouts(spec),
            http_client=http_client(spec),
        )
        # The SDK takes these from the environment, and no argument keeps it from that.
        self._client._custom_headers = {}
        self._client._ambient_authorizations = frozenset()
        self._client.organization = None
        self._client.project = None
        self._client.admin_api_key = None
        self._client.webhook_secret = None
        # Imported on first use, which would hold up the loop of the first call.
        self._create = self._client.chat.completions.create

    def dropped(self, request: Request) -> tuple[str, ...]:
        """The settings of `request` that do not reach the model."""
        return form.dropped(request, self._spec)

    async def close(self) -> None:
        """Close its connections; safe to call twice."""
        await self._client.close()

    def _reader(self) -> Reader:
        return form.Reader(self._spec)

    def _render(self, request: Request) -> dict[str, Any]:
        return form.render(request, self._spec)

    def _ask(self, body: dict[str, Any]) -> Awaitable[EventStream]:
        return self._create(**body)

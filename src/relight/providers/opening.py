"""Opens LLM providers, and the router over them, from the settings and the connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.errors import ConfigError
from relight.providers.open import open_provider

if TYPE_CHECKING:
    from relight.config import Connections
    from relight.providers.port import Provider
    from relight.providers.spec import ProviderSpec


def open_one(spec: ProviderSpec, *, connections: Connections, secret: str) -> Provider:
    """The provider with its key; ConfigError that names the provider and the `secret` that lacks one."""
    key = connections.provider_keys.get(spec.name, "")
    if not key and not spec.keyless:
        raise ConfigError(
            f"provider {spec.name} has no key in the secret {secret}",
            hint=f'put "provider_keys": {{"{spec.name}": "…"}} into it, or set keyless for a server that asks for none',
        )
    return open_provider(spec, key)

"""Makes a provider of its settings and its key; only here are the SDKs imported, each where it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from relight.errors import ConfigError
from relight.providers.spec import Api

if TYPE_CHECKING:
    from relight.providers.port import Provider
    from relight.providers.spec import ProviderSpec

# Which module has the adapter, and which extra has its SDK.
_ADAPTERS = {
    Api.ANTHROPIC: ("relight.providers.anthropic", "AnthropicProvider", "anthropic"),
    Api.OPENAI: ("relight.providers.openai", "OpenAIProvider", "openai"),
    Api.COMPATIBLE: ("relight.providers.local", "CompatibleProvider", "openai"),
}


def open_provider(spec: ProviderSpec, key: str = "") -> Provider:
    """The provider that `spec` describes. Nothing is connected yet. ConfigError for a missing key or extra, and for a
    model that the provider's SDK does not know, unless `unlisted` says that this is meant."""
    if not key and not spec.keyless:
        raise ConfigError(
            f"provider {spec.name} has no key",
            hint=f"put one under {spec.name!r} into the secret, or set keyless for a server that asks for none",
        )
    module, name, extra = _ADAPTERS[spec.api]
    try:
        adapter: Any = getattr(import_module(module), name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("relight"):
            raise
        raise ConfigError(
            f"provider {spec.name} needs the package {exc.name}, which is not installed",
            hint=f"pip install 'relight[{extra}]'",
        ) from exc
    _check_model(spec)
    provider: Provider = adapter(spec, key)
    return provider


def _check_model(spec: ProviderSpec) -> None:
    known = _models(spec.api)
    if known and spec.model not in known and not spec.unlisted:
        raise ConfigError(
            f"provider {spec.name} has the unknown model {spec.model!r}",
            hint=f"correct it (for example {known[0]}), or set unlisted for a model newer than the SDK",
        )


def _models(api: Api) -> tuple[str, ...]:
    """The models that an SDK knows by name; none for a server whose models are its own."""
    if api is Api.ANTHROPIC:
        from anthropic.types import Model  # the SDK is imported by now

        return tuple(get_args(get_args(Model)[0]))
    if api is Api.OPENAI:
        from openai.types import ChatModel

        return tuple(get_args(ChatModel))
    return ()

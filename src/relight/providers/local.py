"""Any server that speaks OpenAI's format: vLLM, llama.cpp, Ollama. Importing this imports OpenAI's SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight.providers.openai import OpenAIProvider

if TYPE_CHECKING:
    from relight.providers.spec import ProviderSpec


class CompatibleProvider(OpenAIProvider):
    """One model of a compatible server, with a key or without."""

    def __init__(self, spec: ProviderSpec, key: str = "") -> None:
        super().__init__(spec, key)

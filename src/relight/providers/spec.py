"""Which providers there are, and the limits within which they are called: settings alone, without any SDK."""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a task waits for in the ledger that would take any provider's answer.
ANY_PROVIDER = "providers"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Api(StrEnum):
    """Whose wire format a provider speaks. `COMPATIBLE` is the OpenAI format as vLLM, llama.cpp and Ollama speak it."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    COMPATIBLE = "compatible"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSpec:
    """One provider and one of its models.

    `context_tokens` of 0 means unknown: what is too long is then found out from the provider's refusal. `thinks` is
    whether the model takes an effort. `keyless` is for a server that asks for no key. `unlisted` is for a model that
    the provider's SDK does not know by name yet. `ca_file` holds the certificates that are trusted beside the system's.

    The provider is left when no event has come for `silence_s` (signs of life count), when nothing of the answer has
    come for `progress_s`, and when a connection takes longer than `connect_s`. A model that thinks silently needs more.
    """

    name: str
    api: Api
    model: str
    base_url: str = ""
    context_tokens: int = 0
    max_output_tokens: int = 0
    tools: bool = True
    images: bool = True
    thinks: bool = False
    keyless: bool = False
    unlisted: bool = False
    ca_file: str = ""
    connect_s: float = 5.0
    silence_s: float = 10.0
    progress_s: float = 120.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"provider name {self.name!r} is not lower-case letters, digits, '.', '_' and '-'",
                hint="give each provider a short name, such as anthropic",
            )
        if not isinstance(self.api, Api):
            raise ConfigError(
                f"api of provider {self.name} is {self.api!r}, which is unknown", hint=f"choose from {', '.join(Api)}"
            )
        for field_ in fields(self):
            # What is no switch, such as "no", would count as one that is on.
            of = {"str": str, "bool": bool}.get(str(field_.type))
            if of is not None and not isinstance(getattr(self, field_.name), of):
                raise ConfigError(f"{field_.name} of provider {self.name} is no {of.__name__}", hint="correct its type")
        if not self.model:
            raise ConfigError(f"provider {self.name} names no model", hint="set its model")
        if self.api is Api.COMPATIBLE and not self.base_url:
            raise ConfigError(
                f"provider {self.name} has no base_url", hint="set the server's address, such as http://llm:8000/v1"
            )
        _check_address(self.base_url, of=self.name)
        for name in ("connect_s", "silence_s", "progress_s"):
            check_positive(getattr(self, name), f"{name} of provider {self.name}")
        for name in ("context_tokens", "max_output_tokens"):
            _check_count(getattr(self, name), f"{name} of provider {self.name}", least=0, hint="set 0 for unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """When a provider is left alone, and for how long.

    A breaker opens after `failures` failures within `window_s`, and when they are at least `failure_share` of the calls
    in that time; `open_s` later one probe is let through, which is given up after `probe_s`. After a 429 without
    Retry-After a provider is left alone for `cool_s`, with one for what it says but at most `cool_at_most_s`; after a
    401 or 403, which concerns this process alone, for `denied_s`. An answer whose first piece takes `slow_factor` times
    the model's own baseline, and more than `slow_least_s`, is slow, and `failures` of them in a row within `window_s`
    open it too; a baseline needs `slow_samples` answers, and a factor of 0 turns it off. A call may take `deadline_s`
    in all. After `incident_after_s` on a fallback an incident is raised.
    """

    failures: int = 3
    window_s: float = 60.0
    failure_share: float = 0.0
    open_s: float = 60.0
    probe_s: float = 60.0
    cool_s: float = 15.0
    cool_at_most_s: float = 3600.0
    denied_s: float = 60.0
    slow_factor: float = 10.0
    slow_least_s: float = 5.0
    slow_samples: int = 20
    deadline_s: float = 600.0
    incident_after_s: float = 1800.0

    def __post_init__(self) -> None:
        for name in ("failures", "slow_samples"):
            _check_count(getattr(self, name), name, least=1, hint="correct it, or leave it out for the default")
        for item in fields(self):
            if item.name not in ("failure_share", "slow_factor"):
                check_positive(getattr(self, item.name), item.name)
        if not 0 <= self.failure_share <= 1:
            raise ConfigError(f"failure_share={self.failure_share} is not from 0 to 1", hint="0 counts failures alone")
        if self.slow_factor != 0 and not 1 < self.slow_factor < math.inf:
            raise ConfigError(f"slow_factor={self.slow_factor} is not above 1", hint="0 turns it off")


def _check_address(address: str, *, of: str) -> None:
    """Raise ConfigError unless it is empty or `http(s)://host…`; no error shows it, because somebody may have put a key
    there."""
    if not address:
        return
    parts, port = None, 0
    with suppress(ValueError):  # whose text shows what cannot be read
        parts = urlsplit(address)
        port = parts.port or (443 if parts.port is None else 0)
    if parts is not None and (parts.username or parts.password):
        raise ConfigError(f"base_url of provider {of} holds a key or password", hint="put the key into the secret")
    if parts is not None and (parts.query or parts.fragment):
        raise ConfigError(
            f"base_url of provider {of} holds more than host and path", hint="put a key into the secret, and no query"
        )
    fits = parts is not None and parts.scheme in ("http", "https") and parts.hostname and port
    if not fits or not address.isprintable() or " " in address:
        raise ConfigError(f"base_url of provider {of} is no http(s) address", hint="write http://host/v1")


def _check_count(value: int, what: str, *, least: int, hint: str) -> None:
    """Raise ConfigError unless `value` is a whole number, and not too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} is {value!r}, not a whole number from {least}", hint=hint)


def provider_key(name: str) -> str:
    """What a task waits for in the ledger that would take this provider's answer alone."""
    return f"provider:{name}"


def check_positive(value: float, what: str) -> None:
    """Raise ConfigError unless `value` is a finite number above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError(
            f"{what} is {value!r}, not a number above 0", hint="correct it, or leave it out for the default"
        )


def check_specs(specs: Sequence[ProviderSpec]) -> None:
    """Raise ConfigError where there is no provider, or two have one name."""
    if not specs:
        raise ConfigError("there are no providers", hint="configure one at least, in order of preference")
    twice = [name for name, count in Counter(spec.name for spec in specs).items() if count > 1]
    if twice:
        raise ConfigError(f"two providers are named {twice[0]}", hint="give each a name of its own")

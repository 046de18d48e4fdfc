"""The LLM providers of an environment, played outside both regions, each at the end of a wire that can be cut."""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from relight.providers.spec import Api
from relight_drill.corpus import Embedder
from relight_drill.llm import PlayedAnthropic, PlayedOpenAI, Reply, echo
from relight_drill.network import Link
from relight_drill.questions import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relight.providers.spec import ProviderSpec
    from relight_drill.llm import Asked, PlayedProvider
    from relight_drill.network import Authority, Internet, Mode

_HOSTS = {Api.ANTHROPIC: "https://api.anthropic.com", Api.OPENAI: "https://api.openai.com"}
# A played model thinks for so long, and then says a piece of its answer every so often.
THINKS_S = (0.2, 0.9)
PIECE_EVERY_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One provider: its played server, and the wire to it."""

    name: str
    server: PlayedProvider
    wire: Link

    async def set_mode(self, mode: Mode) -> None:
        """What becomes of everything that is sent to it and comes from it, from wherever."""
        await self.wire.set_mode(mode)

    @property
    def in_flight(self) -> int:
        """How many questions of tasks are being answered, as far as the provider knows."""
        return sum(bool(asked.tag) for asked in self.server.asked) - sum(bool(item.tag) for item in self.server.bill)


class Models:
    """The providers in the environment's order. Enter to have them listen and be found by their names."""

    def __init__(
        self, regions: Iterable[Sequence[ProviderSpec]], *, internet: Internet, authority: Authority, seed: int
    ) -> None:
        """`regions` are the providers as each region has them: a server of one's own may have a name in each."""
        self._regions = [tuple(specs) for specs in regions]
        self._internet = internet
        self._authority = authority
        self._seed = seed
        self._embedder: Embedder | None = None
        self._thinking = threading.Lock()
        self._open = AsyncExitStack()
        self.all: tuple[Model, ...] = ()

    async def __aenter__(self) -> Self:
        names = dict.fromkeys(spec.name for specs in self._regions for spec in specs)
        if names:
            self._embedder = await asyncio.to_thread(Embedder)
        try:
            self.all = tuple([await self._play(name) for name in names])
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    def keys(self) -> Mapping[str, str]:
        """The keys by the providers' names, as they stand in a region's secret."""
        return {model.name: model.server.key for model in self.all if model.server.key is not None}

    async def _play(self, name: str) -> Model:
        specs = [spec for region in self._regions for spec in region if spec.name == name]
        first = specs[0]
        places = {urlsplit(spec.base_url or _HOSTS[spec.api]) for spec in specs}
        hosts = sorted({place.hostname or "" for place in places})
        key = None if first.keyless else f"sk-drill-{name}-{secrets.token_hex(16)}"
        tls = self._authority.server(*hosts) if places and all(place.scheme == "https" for place in places) else None
        models = sorted({spec.model for spec in specs})
        server: PlayedProvider
        if first.api is Api.ANTHROPIC:
            server = PlayedAnthropic(key=key, models=models, tls=tls, answer=self._answer, tag=_task)
        else:
            compatible = first.api is Api.COMPATIBLE
            server = PlayedOpenAI(
                key=key, models=models, tls=tls, answer=self._answer, tag=_task, compatible=compatible
            )
        await asyncio.to_thread(server.open)
        self._open.push_async_callback(asyncio.to_thread, server.shut)
        wire = Link(server.port)
        await wire.start()
        self._open.push_async_callback(wire.close)
        for place in places:
            port = place.port or (443 if place.scheme == "https" else 80)
            self._internet.publish(place.hostname or "", port, at=wire.port)
        return Model(name=name, server=server, wire=wire)

    def _answer(self, asked: Asked) -> Reply:
        """The sentences that are nearest to the topic, after a think time that is the task's own: every provider gives
        the same answer to the same question, in the same time."""
        question = read(asked.said)
        if question is None or self._embedder is None:
            return echo(asked)
        chance = random.Random(f"{self._seed}/{question.task}")  # noqa: S311 - a think time, not a secret
        with self._thinking:  # one embedder, and a thread a provider
            text = self._embedder.summarise(question.topic, question.texts)
        return Reply(text=text, first_s=chance.uniform(*THINKS_S), between_s=PIECE_EVERY_S)


def _task(asked: Asked) -> str:
    """The task that asks; empty where it is a check of readiness."""
    question = read(asked.said)
    return "" if question is None else question.task

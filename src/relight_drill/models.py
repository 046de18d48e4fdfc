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
from relight_drill.outage import Account, InVain
from relight_drill.questions import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from relight.providers.spec import ProviderSpec
    from relight_drill.llm import Asked, PlayedProvider
    from relight_drill.network import Authority, Internet, Listener, Mode

_HOSTS = {Api.ANTHROPIC: "https://api.anthropic.com", Api.OPENAI: "https://api.openai.com"}
# A played model thinks for so long, and then says a piece of its answer every so often.
THINKS_S = (0.2, 0.9)
PIECE_EVERY_S = 0.005
# So much longer it thinks while somebody waits for answers to be awaited.
HELD_S = 5.0


@dataclass(slots=True, kw_only=True)
class Model:
    """One provider: its played server, and the wire to it. While it is `held`, it thinks for seconds longer."""

    name: str
    server: PlayedProvider
    wire: Link
    held: bool = False

    async def set_mode(self, mode: Mode) -> None:
        """What becomes of everything that is sent to it and comes from it, from wherever."""
        await self.wire.set_mode(mode)

    @property
    def in_flight(self) -> int:
        """How many questions of tasks are being answered, as far as the provider knows."""
        return sum(bool(asked.tag) for asked in self.server.asked) - sum(bool(item.tag) for item in self.server.bill)

    def account(self) -> Account:
        """What it was asked by tasks and what it billed them, and what its wire handed over of that."""
        asked = [item for item in self.server.asked if item.tag]
        bill = [item for item in self.server.bill if item.tag]
        ports = {item.number: item.caller_port for item in asked}
        delivered: dict[int, float] = {}
        for item in bill:
            handed_over = [
                exchange.answered_at
                for passage in self.wire.passages
                if passage.our_port == ports[item.asked]
                for exchange in passage.exchanges
                if exchange.answered_at is not None and exchange.answered_at >= item.at and not exchange.cut
            ]
            if handed_over:
                delivered[item.asked] = min(handed_over)
        return Account(asked=asked, bill=bill, delivered=delivered)

    def in_vain(self, side: Listener, *, fault_at: float, back_at: float, resets: bool) -> list[InVain]:
        """What a side had on its way to it when it was cut off, or sent to it until it came back: nothing of that was
        answered whole."""
        delivered = self.account().delivered
        unheard = {item.caller_port for item in self.server.asked if item.at < back_at and item.number not in delivered}
        waiting = {passage.caller_port for passage in self.wire.passages if passage.our_port in unheard}
        found = []
        for passage in side.passages:
            if passage.to_port != self.wire.port or (passage.left_at or back_at) < fault_at:
                continue
            if not passage.our_port and fault_at <= passage.opened_at < back_at:
                found.append(InVain(at=passage.opened_at, ended_at=passage.opened_at))
            for exchange in passage.exchanges:
                under_way = (
                    exchange is passage.exchanges[-1]
                    and exchange.begun_at < fault_at
                    and (exchange.answered_at is None or passage.our_port in waiting)
                )
                if not under_way and not fault_at <= exchange.begun_at < back_at:
                    continue
                ended_at = max(exchange.begun_at, fault_at) if resets else passage.left_at
                known = ended_at is not None and ended_at < back_at
                found.append(InVain(at=exchange.begun_at, ended_at=ended_at if known else None))
        return sorted(found, key=lambda item: item.at)


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
        model: Model | None = None

        def answer(asked: Asked) -> Reply:
            return self._answer(asked, held=model is not None and model.held)

        if first.api is Api.ANTHROPIC:
            server = PlayedAnthropic(key=key, models=models, tls=tls, answer=answer, tag=_task)
        else:
            compatible = first.api is Api.COMPATIBLE
            server = PlayedOpenAI(key=key, models=models, tls=tls, answer=answer, tag=_task, compatible=compatible)
        await asyncio.to_thread(server.open)
        self._open.push_async_callback(asyncio.to_thread, server.shut)
        wire = Link(server.port)
        await wire.start()
        self._open.push_async_callback(wire.close)
        for place in places:
            port = place.port or (443 if place.scheme == "https" else 80)
            self._internet.publish(place.hostname or "", port, at=wire.port)
        model = Model(name=name, server=server, wire=wire)
        return model

    def _answer(self, asked: Asked, *, held: bool) -> Reply:
        """The sentences that are nearest to the topic, after a think time that is the task's own: every provider gives
        the same answer to the same question, in the same time."""
        question = read(asked.said)
        if question is None or self._embedder is None:
            return echo(asked)
        chance = random.Random(f"{self._seed}/{question.task}")  # noqa: S311 - a think time, not a secret
        with self._thinking:  # one embedder, and a thread a provider
            text = self._embedder.summarise(question.topic, question.texts)
        return Reply(text=text, first_s=chance.uniform(*THINKS_S) + (HELD_S if held else 0.0), between_s=PIECE_EVERY_S)


def _task(asked: Asked) -> str:
    """The task that asks; empty where it is a check of readiness."""
    question = read(asked.said)
    return "" if question is None else question.task

"""Two language models that are played: a hosted one and a local one, whose servers speak the real wire formats.

Both say the sentences that are nearest to the topic (`web.summarise`); the agent asks them as it would ask real ones.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from examples.web import summarise
from relight.providers.messages import Request, user
from relight.providers.open import open_provider
from relight.providers.router import AsyncRouter
from relight.providers.spec import Api, ProviderSpec
from relight_drill.llm import PlayedAnthropic, PlayedOpenAI, Reply, Trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight_drill.llm import Asked

_PAGES = "\n\n---\n\n"


def router(cloud_port: int, local_port: int) -> AsyncRouter:
    """Asks the hosted model, and the local one while that cannot be asked.

    Where Relight is deployed, `Region.from_env().router()` is this, over the environment's providers and their keys.
    """
    cloud = ProviderSpec(
        name="anthropic",
        api=Api.ANTHROPIC,
        model="claude-sonnet-5-5",
        base_url=f"http://127.0.0.1:{cloud_port}",  # without it, the real one
    )
    local = ProviderSpec(
        name="local", api=Api.COMPATIBLE, model="any", base_url=f"http://127.0.0.1:{local_port}/v1", keyless=True
    )
    return AsyncRouter([open_provider(cloud, "played"), open_provider(local)])


def request(topic: str, texts: Sequence[str]) -> Request:
    """What the agent asks of a model."""
    return Request(
        system=f"Summarise what the pages say about the topic: {topic}",
        messages=(user(_PAGES.join(texts)),),
        max_tokens=2000,
    )


class Models:
    """Both servers, each in a thread of its own."""

    def __init__(self, *, cloud_port: int | None = None, local_port: int | None = None) -> None:
        self.cloud = PlayedAnthropic(answer=_answer, key=None, port=cloud_port)
        self.local = PlayedOpenAI(answer=_answer, compatible=True, port=local_port)

    @property
    def paid(self) -> list[str]:
        """Who was asked for each answer that was sent whole."""
        return ["anthropic"] * len(self.cloud.bill) + ["local"] * len(self.local.bill)

    def start(self) -> None:
        """Serve until `close`."""
        self.cloud.open()
        self.local.open()

    def close(self) -> None:
        """Serve no more."""
        self.cloud.shut()
        self.local.shut()


def _answer(asked: Asked) -> Reply:
    return Reply(text=summarise(asked.system.partition(": ")[2], asked.said.split(_PAGES)))


def main() -> None:
    cloud_port, local_port, trouble = sys.argv[1:]
    models = Models(cloud_port=int(cloud_port), local_port=int(local_port))
    models.cloud.trouble = Trouble(trouble) if trouble else None
    models.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()

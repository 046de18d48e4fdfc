"""What the agents read and how they summarise it, without a network and without a language model.

The web is played by the docstrings of Python's standard library; the summary is made of the sentences that are nearest
to the topic.
"""

from __future__ import annotations

import functools
import json
import secrets
from typing import TYPE_CHECKING, Any, cast

from relight.memory.store import CollectionSpec
from relight_drill.corpus import DIMENSION, Embedder, documents

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SPEC = CollectionSpec(name="research", dimension=DIMENSION, embedding_model="wordllama-l2-256")
PAGES = 400


class Web:
    """Pages to search; read once, and kept in `folder` for the next time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "web.json"

    def search(self, topic: str, *, limit: int = 5) -> list[dict[str, str]]:
        """The pages that are nearest to the topic, best first."""
        [wanted] = embed([topic])
        best = sorted(self._pages, key=lambda page: -sum(a * b for a, b in zip(wanted, page["vector"], strict=True)))
        return [{"url": page["url"], "text": page["text"]} for page in best[:limit]]

    @functools.cached_property
    def _pages(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            pages = documents(PAGES, seed=1)
            vectors = embed([page.text for page in pages])
            found = [
                {"url": f"pydoc:{page.name}", "text": page.text, "vector": [round(number, 5) for number in vector]}
                for page, vector in zip(pages, vectors, strict=True)
            ]
            partial = self._path.with_suffix(f".{secrets.token_hex(4)}")
            partial.write_text(json.dumps(found))
            partial.replace(self._path)
        return cast("list[dict[str, Any]]", json.loads(self._path.read_text()))


def summarise(topic: str, texts: Sequence[str]) -> str:
    """A summary of `texts`, as the played language models say it; the Hermes example calls it itself, where you would
    ask yours.

    Like a model's it is another one each time, by the number of its draft: that one is mailed twice, or another one
    than was stored, cannot go unseen.
    """
    return f"{_embedder().summarise(topic, texts)}\n\n(draft {secrets.token_hex(4)})"


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of the texts, as `SPEC` has them."""
    return _embedder().embed(texts)


@functools.cache
def _embedder() -> Embedder:
    return Embedder()

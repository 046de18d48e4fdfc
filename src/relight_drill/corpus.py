"""Real text to remember: the docstrings of the standard library, and real embeddings of it."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DIMENSION = 256
_PACKAGES = (
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
_MINIMUM = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One docstring; `name` is where it stands, as `json.decoder.JSONDecoder`."""

    name: str
    text: str


def documents(count: int, *, seed: int) -> list[Document]:
    """`count` docstrings chosen by the seed, no two of one name or one text."""
    every = _every_document()
    return random.Random(seed).sample(every, min(count, len(every)))  # noqa: S311 - a choice of examples


@cache
def _every_document() -> tuple[Document, ...]:
    """All there are, read from the sources, so that nothing is imported; once, because it takes a core for seconds."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py") if "test" not in path.parts)
    paths += sorted(root.glob("*.py"))
    names: set[str] = set()
    found: dict[str, Document] = {}
    for path in paths:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for document in _docstrings(module, path.read_text("utf-8")):
            # Methods of several classes of one module may have one name.
            if document.name not in names and document.text not in found:
                names.add(document.name)
                found[document.text] = document
    return tuple(sorted(found.values(), key=lambda document: document.name))


def _docstrings(module: str, source: str) -> list[Document]:
    found = []
    nodes: deque[ast.AST] = deque([ast.parse(source)])
    while nodes:
        node = nodes.popleft()
        # Expressions, which are most of a module, hold none.
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            inner = getattr(node, part, ())
            nodes.extend(inner if isinstance(inner, list) else ())
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _MINIMUM:
                found.append(Document(name=f"{module}.{getattr(node, 'name', '')}".rstrip("."), text=text))
    return found


class Embedder:
    """Static word embeddings whose weights ship in the wheel: real, deterministic and offline."""

    def __init__(self) -> None:
        import wordllama

        home = Path(wordllama.__file__).parent
        self._model = wordllama.WordLlama.load(dim=DIMENSION, cache_dir=home, disable_download=True)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One normalised vector of DIMENSION per text."""
        vectors: list[list[float]] = self._model.embed(list(texts), norm=True).tolist()
        return vectors

    def summarise(self, topic: str, texts: Sequence[str], *, sentences: int = 3) -> str:
        """The sentences of `texts` that are nearest to the topic, in their order."""
        parts = [part.strip() for text in texts for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", text) if len(part) > 30]
        parts = list(dict.fromkeys(parts))
        if not parts:
            return topic
        target, *candidates = self.embed([topic, *parts])
        scores = [sum(a * b for a, b in zip(target, vector, strict=True)) for vector in candidates]
        best = sorted(sorted(range(len(parts)), key=lambda i: -scores[i])[:sentences])
        return " ".join(" ".join(parts[i].split()) for i in best)

"""What the drill's agent asks of a language model, and how a played model reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM = "Summarise for the team what the agent remembers: the sentences that are nearest to the topic, in their order."
_BETWEEN = "\n\n---\n\n"
_QUESTION = re.compile(r"Task: (?P<task>[^\n]*)\nTopic: (?P<topic>[^\n]*)\n\n(?P<texts>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A summary that is asked for; `task` is whose it is."""

    task: str
    topic: str
    texts: tuple[str, ...]

    def __str__(self) -> str:
        return f"Task: {self.task}\nTopic: {self.topic}\n\n{_BETWEEN.join(self.texts)}"


def question(task: str, topic: str, texts: Sequence[str]) -> Question:
    """A question about a topic, on one line each where it has to be."""
    return Question(task=" ".join(task.split()), topic=" ".join(topic.split()), texts=tuple(texts))


def read(text: str) -> Question | None:
    """The question that a message is; None for any other."""
    found = _QUESTION.fullmatch(text)
    if found is None:
        return None
    return Question(task=found["task"], topic=found["topic"], texts=tuple(found["texts"].split(_BETWEEN)))

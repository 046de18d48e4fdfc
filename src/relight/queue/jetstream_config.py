"""How the streams and the consumer are configured: what is promised is brought about; what else an operator set stays.

Pure functions over configurations as the server writes them, so that settings which this code does not know survive.
"""

from __future__ import annotations

from typing import Any

from relight.errors import ConfigError

REPLICAS = 3


def new_stream(name: str) -> dict[str, Any]:
    """What a stream is made of before it is brought to what is promised."""
    return {"name": name, "subjects": [], "num_replicas": 1}


def stream_as_promised(
    config: dict[str, Any], *, subject: str, max_age: int, window: int, in_batches: bool = False
) -> dict[str, Any]:
    """The stream of tasks: a work queue on disk that takes `subject`, forgets after `max_age` nanoseconds, knows
    duplicates for `window` at least, and refuses what is too much instead of dropping what it holds; `in_batches` where
    the server can take many at once.

    All tasks share a subject, so a limit for each subject is none that an operator could mean, and the server keeps it
    by dropping the old ones, whatever `discard` says."""
    wanted = _stream(config, subject=subject, retention="workqueue")
    wanted["max_age"] = max_age
    wanted["duplicate_window"] = max(wanted.get("duplicate_window", 0), window)
    wanted["discard"] = "new"
    wanted["max_msgs_per_subject"] = -1
    if in_batches:
        wanted["allow_atomic"] = True
    return wanted


def dead_as_promised(config: dict[str, Any], *, subject: str) -> dict[str, Any]:
    """The stream of dead letters: the newest of each task, until somebody discards it."""
    wanted = _stream(config, subject=subject, retention="limits")
    wanted["max_age"] = 0
    wanted["max_msgs_per_subject"] = 1
    return wanted


def consumer_as_promised(config: dict[str, Any], *, name: str, subject: str, ack_wait: int) -> dict[str, Any]:
    """The workers' consumer: durable, pulled from, acknowledged one by one.

    It hands out without limit: the limit is kept by whoever fetches, because the server would leave what is beyond it
    in the stream, and never hand it out again.
    """
    for key, value, rule in (
        ("ack_policy", "explicit", "acknowledges each message"),
        ("deliver_policy", "all", "hands out all messages"),
        ("replay_policy", "instant", "hands out at once"),
        ("deliver_subject", "", "is pulled from"),
    ):
        got = config.get(key, value)
        if got != value:
            raise ConfigError(
                f"the consumer {name!r} has {key} {got!r}, and the one of a task queue {rule}",
                hint="delete the consumer: it is made again, and no message is lost",
            )
    wanted = {
        "name": name,
        "max_ack_pending": 10_000,
        **config,
        "durable_name": name,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "filter_subject": subject,
        "ack_wait": ack_wait,
        "max_deliver": -1,
    }
    # Each would take something away: a delivery's time, its text, the consumer itself, messages of this subject, all
    # that workers get who name no group.
    for key in (
        *("backoff", "headers_only", "inactive_threshold", "filter_subjects"),
        *("priority_groups", "priority_policy", "priority_timeout"),
    ):
        wanted.pop(key, None)
    return wanted


def _stream(config: dict[str, Any], *, subject: str, retention: str) -> dict[str, Any]:
    for key, value, rule in (
        ("retention", retention, f"a stream with {retention} retention"),
        ("storage", "file", "a stream on disk"),
        ("mirror", None, "a stream that is published to"),
        ("sealed", False, "a stream that is not sealed"),
        ("persist_mode", "default", "a stream that is written before it acknowledges"),
    ):
        got = config.get(key, value)
        if got != value:
            raise ConfigError(
                f"the stream {config['name']!r} has {key} {got!r}, and Relight needs {rule}; it cannot be changed",
                hint="delete the stream: it is made again, and filled from the ledger",
            )
    subjects = list(config.get("subjects") or [])
    if not any(_covers(pattern, subject) for pattern in subjects):
        subjects.append(subject)
    wanted = {**config, "subjects": subjects, "retention": retention, "storage": "file", "no_ack": False}
    # The first would store messages where nobody looks for them, the second refuse a dead letter that replaces one.
    for key in ("subject_transform", "discard_new_per_subject"):
        wanted.pop(key, None)
    return wanted


def _covers(pattern: str, subject: str) -> bool:
    """Whether every message on `subject` is one on `pattern`."""
    patterns, tokens = pattern.split("."), subject.split(".")
    if patterns[-1] == ">":
        patterns.pop()
        if len(tokens) <= len(patterns):
            return False
        tokens = tokens[: len(patterns)]
    return len(patterns) == len(tokens) and all(
        one in ("*", other) for one, other in zip(patterns, tokens, strict=True)
    )

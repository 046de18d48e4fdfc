"""A recovery run's timeline: what happened when, in the standby's vault."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from relight.errors import AgainLaterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.clock import Clock
    from relight.vault.store import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry: a state's start, its end, its failure, or that it waits for something and ended for now."""

    at: datetime
    state: str
    status: str
    detail: dict[str, Any]


class Timeline:
    """Appends events under `runs/<run id>/`, one object each, so that two writers never overwrite one another."""

    def __init__(self, vault: Vault, run_id: str, *, clock: Clock) -> None:
        self._vault = vault
        self.run_id = run_id
        self._clock = clock

    @contextmanager
    def state(self, name: str) -> Iterator[dict[str, Any]]:
        """Record that the state started, and then that it is done, with what the body put into the dict, or failed; or
        that it waits, and is to be called again."""
        detail: dict[str, Any] = {}
        self.record(name, "started")
        try:
            yield detail
        except BaseException as exc:
            status = "waiting" if isinstance(exc, AgainLaterError) else "failed"
            self.record(name, status, {"error": f"{type(exc).__name__}: {exc}", **detail})
            raise
        self.record(name, "done", detail)

    def record(self, state: str, status: str, detail: dict[str, Any] | None = None) -> None:
        """Append one event."""
        at = self._clock.now()
        body = {"at": at.isoformat(), "state": state, "status": status, "detail": detail or {}}
        self._vault.put_json(f"runs/{self.run_id}/{at.strftime('%Y%m%dT%H%M%S.%fZ')}-{state}-{status}.json", body)

    def events(self) -> list[Event]:
        """Every event, oldest first."""
        found = []
        prefix = f"runs/{self.run_id}/"
        for key in self._vault.list_keys(prefix):
            if "/" in key.removeprefix(prefix):  # what else the run keeps has a folder of its own
                continue
            value = self._vault.get_json(key)
            found.append(Event(**{**value, "at": datetime.fromisoformat(value["at"])}))
        return sorted(found, key=lambda event: event.at)

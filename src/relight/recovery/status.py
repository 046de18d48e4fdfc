"""How both regions of an environment stand, on one page that changes nothing."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relight.clock import lasting
from relight.config import ConfirmBy, Role
from relight.errors import ConfigError, RelightError, UnavailableError
from relight.memory.apply import lag_of
from relight.objectives import Pattern
from relight.providers.breaker import Phase
from relight.providers.episodes import FALLBACK_KEY, Kind, Stage
from relight.providers.shared import PostgresBreakers, PostgresEpisodes
from relight.recovery.evidence import probe
from relight.recovery.exposure import vector_exposure
from relight.recovery.smoke import CHECKS, promise_told
from relight.tasks.read_only import read_only
from relight.tasks.sql import statements
from relight.vault.points import NoPointError, newest_eligible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from relight.config import Settings
    from relight.providers.breaker import BreakerState
    from relight.providers.episodes import Episode
    from relight.wiring import Region

SQL = statements("relight.tasks.sql", "status.sql")


class State(StrEnum):
    """What a line asks of its reader."""

    OK = "ok"
    LOOK = "look"
    """A person has to do something, or to decide."""
    UNKNOWN = "unknown"
    """It could not be found out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the page: what was found, in words, and the same for programs in `data`."""

    name: str
    state: State
    found: str
    data: Mapping[str, Any] = field(default_factory=dict)


_Found = tuple[bool, str, dict[str, Any]]


def peer_of(settings: Settings) -> Settings:
    """The settings of the other region, as far as those of one region tell them."""
    return replace(
        settings,
        role=settings.role.other,
        region=settings.peer_region,
        vault_bucket=settings.peer_vault_bucket,
        peer_vault_bucket=settings.vault_bucket,
        vault_endpoint=settings.peer_vault_endpoint,
        peer_vault_endpoint=settings.vault_endpoint,
        # Only the one that prunes has to know, and it is not told of the other.
        vault_holds_days=0,
        vault_signs_for=settings.peer_vault_signs_for,
        peer_vault_signs_for=settings.vault_signs_for,
        # Not known, and not the same: nobody reads it from here.
        confirm_replicas=-1,
    )


def look(primary: Region, standby: Region, *, ask_standby: Callable[[], Mapping[str, Any]]) -> Iterator[Line]:
    """Look at one thing after another; what cannot be looked at is a line that says why, and never an exception.

    `ask_standby` has the standby try its LLM providers, and returns what `check_region` found there; RelightError when
    it cannot be asked.
    """
    pair = {region.settings.region: region for region in (primary, standby)}
    yield (lease := _line("lease", lambda: _lease(primary)))
    # Before the first epoch, and where it cannot be read, the primary is the one to look at.
    acting = pair.get(lease.data.get("region", ""), primary)
    other = standby if acting is primary else primary
    yield _line("epoch", lambda: _epoch(acting, lease))
    yield _line("service", lambda: _service(primary))
    for role, region in ((Role.PRIMARY, primary), (Role.STANDBY, standby)):
        yield _line(f"{role} endpoint", partial(_endpoint, region, acts=region is acting))
    yield _line("writes", lambda: _writes(acting))
    yield _line("promise", lambda: _promise(acting))
    yield _line("replica", lambda: _replica(other))
    yield _line("recovery point", lambda: _point(other))
    yield from _exposure(acting, other)
    yield _line("tasks", lambda: _tasks(acting))
    yield _line("queue", lambda: (*CHECKS["queue"](acting), {}))
    yield from _memory(acting)
    yield _line("providers", lambda: _providers(acting))
    yield _line("standby providers", lambda: _standby_providers(standby, ask_standby))


def _line(name: str, find: Callable[[], _Found]) -> Line:
    try:
        ok, found, data = find()
    except Exception as exc:  # noqa: BLE001 - a page that breaks off says nothing of all that comes behind
        return _unknown(name, exc)
    return Line(name=name, state=State.OK if ok else State.LOOK, found=found, data=data)


def _unknown(name: str, exc: Exception) -> Line:
    if isinstance(exc, RelightError):
        return Line(name=name, state=State.UNKNOWN, found=str(exc))
    # Without its text, which may hold anything.
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    where = f"{type(exc).__name__} in {Path(frame.filename).name}:{frame.lineno}"
    return Line(name=name, state=State.UNKNOWN, found=f"looking failed, which is a fault of relight's: {where}")


def _lease(region: Region) -> _Found:
    found = region.leases.read()
    if found is None:
        return False, "no region has taken the first epoch: run `relight init`", {}
    lease = found[0]
    left_s = (lease.expires_at - region.clock.now()).total_seconds()
    how = f"live for {lasting(left_s)} more" if left_s > 0 else f"run out {lasting(-left_s)} ago: nobody acts"
    data = {"region": lease.region, "epoch": lease.epoch, "expires_at": lease.expires_at.isoformat()}
    return left_s > 0, f"{lease.region} holds epoch {lease.epoch}, {how}", data


def _epoch(acting: Region, lease: Line) -> _Found:
    newest, now = acting.epochs.newest(), acting.clock.now()
    if newest is None:
        return False, f"the database of {acting.settings.region} knows no epoch yet", {}
    data = {"epoch": newest.number, "region": newest.region, "opened_at": newest.opened_at}
    held = lease.data.get("epoch", newest.number)
    name = f"epoch {newest.number} of {newest.region}"
    if newest.number != held:
        return False, f"the database of {acting.settings.region} is at {name}, the lease at {held}", data
    if newest.opened_at is None:
        return False, f"{name} has not opened its gate: a recovery is under way, or stopped", data
    return True, f"{name} has served for {lasting((now - newest.opened_at).total_seconds())}", data


def _service(region: Region) -> _Found:
    url = region.settings.service_url
    error = probe(f"{url}/ready", timeout_s=region.settings.probe_timeout_s)
    return not error, f"{url} {error or 'is ready'}", {"url": url, "error": error}


def _endpoint(region: Region, *, acts: bool) -> _Found:
    """That the region which acts is ready, and the other alive and not ready: its gate is closed. In active-active it
    is ready, too, to serve reads."""
    settings = region.settings
    url, both = settings.url_of(settings.region), settings.pattern is Pattern.ACTIVE_ACTIVE
    error = probe(f"{url}/ready", timeout_s=settings.probe_timeout_s, must_work=acts and both)
    data = {"url": url, "error": error, "acts": acts}
    if acts:
        return not error, f"{url} {error or 'is ready'}", data
    if both:
        return not error, f"{url} {error or 'serves reads'}: {settings.region} does not act", data
    if not error:
        return False, f"{url} is ready, and {settings.region} does not act", data
    if error == "answered 503":
        return True, f"{url} answers, and is not ready: {settings.region} does not act", data
    return False, f"{url} {error}", data


def _promise(acting: Region) -> _Found:
    settings = acting.settings
    if settings.confirm_replicas < 0 and settings.confirm_by is ConfirmBy.POSITION:
        raise ConfigError("the number of replicas is not in RELIGHT_* of the other region", hint="use --environment")
    return *promise_told(acting), {}


def _writes(acting: Region) -> _Found:
    """Whether anything new is begun."""
    found = read_only(acting.database)
    if found is not None:
        since = lasting((acting.clock.now() - found.since).total_seconds())
        data = {"read_only": True, "since": found.since, "reason": found.reason}
        return False, f"nothing has been begun for {since}: {found.reason}; `relight read-only off` ends that", data
    if acting.settings.read_only:
        return False, "nothing is begun: the environment says read_only = true", {"read_only": True}
    return True, "tasks, side effects and memories are taken", {"read_only": False}


def _replica(other: Region) -> _Found:
    name = other.settings.region
    if other.replica.position().promoted:
        return False, f"the database of {name} takes writes, and is no replica: build one from the other region's", {}
    ok, found = CHECKS["state"](other)
    return ok, f"{name} is {found}", {}


def _point(other: Region) -> _Found:
    ok, found = CHECKS["vault"](other)
    return ok, f"in {other.settings.region} {found}", {}


def _exposure(acting: Region, other: Region) -> Iterator[Line]:
    try:
        try:
            points = [newest_eligible(other.vault)]
        except NoPointError:
            points = []
        exposed = vector_exposure(acting, points)
    except Exception as exc:  # noqa: BLE001 - as above
        yield _unknown("exposure", exc)
        return
    for item in exposed:
        lost = "everything" if item.seconds is None else f"{item.seconds:.0f} s"
        within = item.seconds is not None and item.seconds <= acting.settings.objectives.rpo_s
        yield Line(
            name="exposure",
            state=State.OK if within else State.LOOK,
            found=f"{item.collection}: {lost}, {item.why}",
            data={"collection": item.collection, "seconds": item.seconds},
        )


def _tasks(acting: Region) -> _Found:
    database, now = acting.database, acting.clock.now()
    unfinished = {row[0]: row[1:] for row in database.execute(SQL["unfinished"]).rows}
    review = {row[0]: row[1] for row in database.execute(SQL["for_review"]).rows}
    effects = database.execute(SQL["unknown_effects"]).rows[0][0]
    pending, waiting, due_at = unfinished.get("pending", (0, 0, None))
    counts = {
        "pending": pending,
        "waiting": waiting,
        "running": unfinished.get("running", (0,))[0],
        "parked": review.get("parked", 0),
        "held": review.get("held", 0),
        "unknown_effects": effects,
    }
    said = [f"{counts['pending']:,} pending", f"{counts['running']:,} running"]
    if waiting:
        said[0] += f" ({waiting:,} wait for something)"
    if due_at is not None and due_at < now:
        said[0] += f", the oldest due {lasting((now - due_at).total_seconds())} ago"
    said += [f"{counts[name]:,} {name}" for name in ("parked", "held")]
    said.append(f"{effects:,} effects of which nobody knows whether they happened")
    waits = counts["parked"] + counts["held"] + effects
    return not waits, "; ".join(said), {**counts, "oldest_due_at": due_at}


def _memory(acting: Region) -> Iterator[Line]:
    """How far each collection is behind the journal."""
    try:
        specs = tuple(acting.specs)
    except Exception as exc:  # noqa: BLE001 - as above
        yield _unknown("memory", exc)
        return
    for spec in specs:

        def behind(spec: Any = spec) -> _Found:
            with acting.state() as state:
                lag = lag_of(acting.store, state, spec)
            data = {"collection": spec.name, "lag_seconds": lag.seconds, "behind": lag.entries}
            if lag.seconds is None:
                return False, f"{spec.name} is not there: it is hydrated on boot, or by `relight restore`", data
            within = lag.seconds <= acting.settings.objectives.rpo_s
            return within, f"{spec.name} is {lag.entries} entries and {lag.seconds:.1f} s behind its journal", data

        yield _line("memory", behind)


def _providers(acting: Region) -> _Found:
    """What the workers know together: each breaker, and since when answers come from a fallback."""
    specs = acting.settings.providers
    if not specs:
        return True, "none is configured", {}
    breakers = PostgresBreakers(acting.database).read()
    episodes = PostgresEpisodes(acting.database).read()
    said, rows = [], []
    for spec in specs:
        state = breakers.states.get(spec.name)
        told, phase = _breaker(state, breakers.now)
        rows.append({"provider": spec.name, "phase": phase})
        said.append(f"{spec.name} {told}")
    bad = all(row["phase"] != Phase.CLOSED for row in rows)
    fallback = episodes.states.get(FALLBACK_KEY)
    after_s = acting.settings.provider_limits.incident_after_s
    for episode in episodes.states.values():
        said.append(_episode(episode, episodes.now, after_s=after_s))
        bad = bad or (not episode.back and (episode.kind is Kind.DENIED or episode.stage is not Stage.BEGUN))
    lasts = fallback is not None and not fallback.back and not _is_old(fallback, episodes.now, after_s=after_s)
    degraded_s = round(episodes.now - fallback.since, 1) if fallback is not None and lasts else None
    return not bad, "; ".join(said), {"breakers": rows, "degraded_seconds": degraded_s}


def _breaker(state: BreakerState | None, now: float) -> tuple[str, str]:
    if state is None:
        return "is asked", Phase.CLOSED.value
    if state.is_cooling(now):
        return f"is left alone for {lasting(state.cool_until - now)} more ({state.cool_reason})", "cooling"
    if state.phase is Phase.CLOSED:
        return "is asked", state.phase.value
    return f"has been left alone for {lasting(max(0.0, now - state.since))}, its breaker open", state.phase.value


def _is_old(episode: Episode, now: float, *, after_s: float) -> bool:
    """Whether nobody knows if it still goes on: the next answer from a fallback begins it anew."""
    return episode.stage is Stage.BEGUN and now - episode.last > after_s


def _episode(episode: Episode, now: float, *, after_s: float) -> str:
    since = f"for {lasting(max(0.0, now - episode.since))}"
    if episode.back:
        return f"{episode.back} answers again"
    if episode.kind is Kind.DENIED:
        return f"{episode.provider} has refused its key {since}: {episode.detail}"
    if _is_old(episode, now, after_s=after_s):
        return f"the last answer of the fallback {episode.provider} is {lasting(now - episode.last)} old"
    return f"answers have come from the fallback {episode.provider} {since}"


def _standby_providers(standby: Region, ask: Callable[[], Mapping[str, Any]]) -> _Found:
    """Which providers could be asked from the standby, tried there and now."""
    if not standby.settings.providers:
        return True, "none is configured", {}
    result = ask()
    try:
        found, not_tried = result["providers"], result.get("not_tried", [])
        said = [
            f"{item['provider']} is ready"
            if item["ready"]
            else f"{item['provider']}: {item['fault']}, {item['detail']}"
            for item in found
        ]
        ready = all(item["ready"] for item in found)
        said += [f"{name} was not tried, as its ca_file is in the agent's image alone" for name in not_tried]
    except (KeyError, TypeError, AttributeError) as exc:
        raise UnavailableError(
            "the standby's function answered in another form than this version reads",
            hint="deploy the environment from this version, and look again",
        ) from exc
    return ready, "; ".join(said), {"providers": found, "not_tried": not_tried}

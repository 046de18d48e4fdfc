"""Episodes that become incidents: a fallback that answers for long, a provider that refuses its key. Pure.

An episode is known by its key, under which there is one at a time. It begins, is due, is raised, and when a provider
answers again that is told too; only then is it over. So nothing that was due is lost when it cannot be told at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

FALLBACK_KEY = "fallback"


class Kind(StrEnum):
    """What an incident says."""

    FALLBACK = "fallback"
    DENIED = "denied"
    RECOVERED = "recovered"


class Stage(StrEnum):
    """How far an episode has come."""

    BEGUN = "begun"
    DUE = "due"
    RAISED = "raised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What has been going on since `since`, and was last seen at `last`.

    `provider` is the fallback that answers, or the provider that refuses; `back` is the provider whose answer ended it.
    `claim` is who is telling of it, until `claim_until`.
    """

    kind: Kind
    provider: str
    detail: str = ""
    since: float
    last: float
    stage: Stage
    back: str = ""
    claim: str = ""
    claim_until: float = -math.inf


def denied_key(provider: str) -> str:
    """The key of the episode of a provider that refuses."""
    return f"denied:{provider}"


def degraded(before: Episode | None, *, provider: str, began: float, at: float, after_s: float) -> Episode:
    """A fallback has answered, from `began` to `at`.

    After a time without any answer that is longer than `after_s` the episode begins anew: nobody knows how the first
    provider did meanwhile.
    """
    if before is None:
        before = Episode(kind=Kind.FALLBACK, provider=provider, since=began, last=began, stage=Stage.BEGUN)
    since = began if before.stage is Stage.BEGUN and began - before.last > after_s else min(before.since, began)
    due = before.stage is Stage.BEGUN and at - since >= after_s
    stage = Stage.DUE if due else before.stage
    return replace(before, provider=provider, since=since, last=max(before.last, at), stage=stage, back="")


def denied(before: Episode | None, *, provider: str, detail: str, at: float) -> Episode:
    """A provider does not take its key, or the account has no right to it."""
    if before is None:
        return Episode(kind=Kind.DENIED, provider=provider, detail=detail, since=at, last=at, stage=Stage.DUE)
    return replace(before, detail=detail, last=max(before.last, at), back="")


def well(before: Episode | None, *, provider: str) -> Episode | None:
    """The provider answers again. What nobody was to be told of is over."""
    if before is None or before.stage is Stage.BEGUN:
        return None
    return replace(before, back=provider)


def to_tell(episode: Episode) -> Kind | None:
    """What of it is to be told: what is due, even if it has ended since, and then that it has ended."""
    if episode.stage is Stage.DUE:
        return episode.kind
    return Kind.RECOVERED if episode.stage is Stage.RAISED and episode.back else None


def is_free(episode: Episode, *, token: str, now: float) -> bool:
    """Whether nobody else is telling of it."""
    return episode.claim in ("", token) or now >= episode.claim_until


def told(before: Episode | None, *, kind: Kind) -> Episode | None:
    """It has been told. What was told to be over, and has come back meanwhile, begins anew."""
    if before is None:
        return None
    before = replace(before, claim="", claim_until=-math.inf)
    if kind is not Kind.RECOVERED:
        return replace(before, stage=Stage.RAISED) if before.stage is Stage.DUE else before
    if before.stage is not Stage.RAISED:
        return before
    if before.back:
        return None
    stage = Stage.BEGUN if before.kind is Kind.FALLBACK else Stage.DUE
    return replace(before, stage=stage, since=before.last)


def shifted(episode: Episode, by: float) -> Episode:
    """The same episode by a clock that is `by` seconds ahead."""
    return replace(episode, since=episode.since + by, last=episode.last + by, claim_until=episode.claim_until + by)


def together(theirs: Episode | None, ours: Episode | None) -> Episode | None:
    """What is known of an episode when a process comes back that had gone on alone."""
    if theirs is None or ours is None:
        return ours or theirs
    order = list(Stage)
    further = max(theirs, ours, key=lambda episode: order.index(episode.stage))
    return replace(
        theirs,
        since=min(theirs.since, ours.since),
        last=max(theirs.last, ours.last),
        stage=further.stage,
        back=ours.back,
    )

"""The stack of the place in which restores are rehearsed: in the standby's region, and of nothing that is live."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relight.config import Role, StateKind
from relight_constructs.network import HTTPS
from relight_constructs.props import LargeRehearsalProps, RehearsalProps, ScratchStoreProps
from relight_constructs.rehearsal import Rehearsal
from relight_stacks.functions import code_of
from relight_stacks.naming import in_region
from relight_stacks.refs import signing_of, standbys_topic, vault_of
from relight_stacks.services import VECTOR_SERVERS
from relight_stacks.settings import settings_for
from relight_stacks.stack import HomeStack
from relight_stacks.work import GIB

if TYPE_CHECKING:
    from relight_constructs.bindings import Construct
    from relight_stacks.bundles import Bundles
    from relight_stacks.environment import Environment

_DAY_S = 24 * 3600
# One that is rehearsed again the next day, because the first failed, is not late.
GRACE_S = 2 * _DAY_S
_UNITS_S = {"minute": 60, "hour": 3600, "day": _DAY_S}


class RehearsalStack(HomeStack):
    """Define the place, in a network of its own. It knows the vault, the signing key and the topic by their names."""

    def __init__(self, scope: Construct, environment: Environment, *, bundles: Bundles) -> None:
        names = environment.names
        super().__init__(scope, environment, "rehearsal", names.standby_region)
        code = code_of(self, "bundle", bundles.region)
        server = VECTOR_SERVERS[environment.memory.store]
        image, work = (in_region(text, self.home.region) for text in (environment.vector.image, environment.work_image))
        # Nothing here asks a provider or promotes a database, and what names the primary's is not to be here.
        settings = replace(
            settings_for(environment, Role.STANDBY),
            providers=(),
            provider_keys_secret="",
            state_kind=StateKind.EXISTING,
            state_id="",
            state_source="",
        )
        Rehearsal(
            self,
            "rehearsal",
            RehearsalProps(
                place=self.home,
                name=names.rehearsal,
                environment=settings.to_env(),
                code=code,
                vault=vault_of(environment, Role.STANDBY),
                signing=signing_of(environment, Role.STANDBY),
                topic=standbys_topic(environment),
                store=ScratchStoreProps(
                    image=image,
                    cpu=environment.vector.cpu,
                    memory=environment.vector.memory,
                    storage_gib=environment.vector.storage_gib,
                    port=server.port,
                    data=server.data,
                    writable=server.folders,
                    environment=server.environment,
                    password_variable=server.secret,
                    health_command=server.health_command,
                    form=server.dsn,
                ),
                key_alias=names.rehearsal_key_alias,
                password_secret=names.rehearsal_password_secret,
                password_version=environment.database.password_version,
                rate=environment.shape.rehearse,
                late_after_s=longest_gap_s(environment.shape.rehearse) + GRACE_S,
                large=LargeRehearsalProps(
                    image=work,
                    above_bytes=environment.large_work.above_gib * GIB,
                    cpu=environment.large_work.cpu,
                    memory=environment.large_work.memory,
                ),
                zone=environment.network(Role.STANDBY).zones[0],
                internet=environment.rehearsed_over_internet,
                ports_out=vault_ports(environment),
            ),
        )


def vault_ports(environment: Environment) -> tuple[int, ...]:
    """The port of the standby's vault, where that is outside AWS and on another than HTTPS's."""
    other = environment.vaults.other.get(Role.STANDBY)
    port = None if other is None else urlsplit(other.endpoint).port
    return () if port in (None, HTTPS) else (port,)


def longest_gap_s(rate: str) -> int:
    """How long it is at most from one call of a schedule to the next, for those that EventBridge Scheduler knows."""
    if match := re.fullmatch(r"rate\(([0-9]+) (minute|hour|day)s?\)", rate):
        return int(match[1]) * _UNITS_S[match[2]]
    _, _, month_day, month, week_day, year = rate.removeprefix("cron(").removesuffix(")").split()
    if month != "*" or year != "*":
        days = 366
    elif week_day not in ("?", "*"):
        # The first, or the last, of its kind in a month, or each.
        days = 35 if "#" in week_day or week_day.endswith("L") else 7
    else:
        days = 31 if month_day not in ("?", "*") else 1
    return days * _DAY_S

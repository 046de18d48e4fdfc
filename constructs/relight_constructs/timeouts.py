"""How long each function of a recovery may take, from the tier's objectives. Pure: nothing here starts node.

A state that changes something small is cut when it hangs, early enough that another try still fits into the RTO. One
whose work grows with the data is given all that Lambda has: cut short it would only begin again, and a late recovery is
better than none. What the objectives say about lateness, the alarms say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Lambda's own limit.
LONGEST_S = 900

# The first half of the RTO is for noticing and for DNS; the sentinel pages when a recovery has used up the other.
RECOVERY_SHARE = 0.5

# A cold start in a network, and a service of AWS that does not answer: given up after 3 attempts of 3 + 10 s.
SHORTEST_S = 45

# A state outlives its function's own timeout, so that the function's error arrives rather than the state's.
STATE_MARGIN_S = 10

# A function that Lambda has put to sleep: waking took others 40 to 106 s, and 90 s is usual in a network.
WAKING_S = 180

# A large memory as an ECS task: 1 TB at the 110 MB/s of `relight.memory.estimate` takes 2.6 hours.
TASK_S = 4 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What no objective shortens, in seconds.

    `lease_s` is how long a lease lives, with its margin. `promotion_s` and `capacity_s` are how long a database may
    take to be promoted (or restored), and agents to start; the states that ask for them are called again until then.
    `approval_s` is how long people have for their answer, 0 where nobody is asked.
    """

    lease_s: float = 17.0
    promotion_s: float = 900.0
    capacity_s: float = 600.0
    approval_s: float = 0.0


USUAL_WAITS = Waits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a state's function needs: its `share` of the recovery's part of the RTO, `leases` to wait out beyond it.
    With `grows` it takes as long as there is data."""

    share: float = 0.1
    leases: int = 0
    grows: bool = False


QUICK = Effort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: of each state's function by its verb, and of a whole execution."""

    functions: Mapping[str, int] = field(default_factory=dict)
    whole_s: int = 0


def function_timeout_s(effort: Effort, *, rto_s: float, waits: Waits) -> int:
    """How long a state's function may take; never beyond what Lambda offers."""
    if effort.grows:
        return LONGEST_S
    own_s = max(SHORTEST_S, effort.share * RECOVERY_SHARE * rto_s)
    return min(LONGEST_S, math.ceil(own_s + effort.leases * waits.lease_s))

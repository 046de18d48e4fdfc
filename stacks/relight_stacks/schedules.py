"""Which schedules EventBridge Scheduler takes. Pure: nothing here starts node.

Source: EventBridge Scheduler user guide, "Schedule types": the fields of a cron expression, their values and wildcards.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_RATE = re.compile(r"rate\([1-9][0-9]{0,3} (minutes?|hours?|days?)\)")
_CRON = re.compile(r"cron\(([^()\s]+(?: [^()\s]+){5})\)")
_MINUTES = {"minute": 1, "hour": 60, "day": 24 * 60}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def is_schedule(said: str) -> bool:
    """Whether it is a rate, or a cron expression each of whose fields has what it may have.

    Of the day of the month and the day of the week one is `?`: together they are no days that anybody could name.
    """
    if _RATE.fullmatch(said):
        return True
    found = _CRON.fullmatch(said)
    if found is None:
        return False
    fields = found[1].split(" ")
    if (fields[2] == "?") is (fields[4] == "?"):
        return False
    return all(takes(field) for takes, field in zip(_FIELDS, fields, strict=True))


def once_a_day(said: str) -> bool:
    """Whether a schedule comes once a day at most: a rate of a day or longer, or one hour and one minute."""
    rate = _RATE.fullmatch(said)
    if rate is not None:
        number, unit = said.removeprefix("rate(").split(" ")
        return int(number) * _MINUTES[unit.rstrip("s)")] >= _MINUTES["day"]
    minute, hour = said.removeprefix("cron(").split(" ")[:2]
    return minute.isdecimal() and hour.isdecimal()


def _field(least: int, most: int, *, names: tuple[str, ...] = (), special: str = "") -> Callable[[str], bool]:
    """Takes lists of values, ranges and steps from `least` to `most`, and alone what `special` is a pattern of.
    `names` are those of the values from `least` on."""
    numbers = {name: least + index for index, name in enumerate(names)}

    def number(word: str) -> int | None:
        value = numbers.get(word, int(word) if re.fullmatch(r"[0-9]{1,4}", word) else None)
        return value if value is not None and least <= value <= most else None

    def takes_one(item: str) -> bool:
        whole, slash, step = item.partition("/")
        if slash and not (re.fullmatch(r"[0-9]{1,4}", step) and 1 <= int(step) <= most):
            return False
        if whole == "*":
            return True
        first, dash, last = whole.partition("-")
        begin, end = number(first), number(last) if dash else most
        return begin is not None and end is not None and (begin <= end or bool(names))

    def takes(said: str) -> bool:
        return bool(special and re.fullmatch(special, said)) or all(takes_one(item) for item in said.split(","))

    return takes


_DAY_OF_MONTH = r"(0?[1-9]|[12][0-9]|3[01])"
_DAY_OF_WEEK = rf"([1-7]|{'|'.join(_DAYS)})"
_FIELDS = (
    _field(0, 59),
    _field(0, 23),
    _field(1, 31, special=rf"\?|L|LW|{_DAY_OF_MONTH}W"),
    _field(1, 12, names=_MONTHS),
    _field(1, 7, names=_DAYS, special=rf"\?|L|{_DAY_OF_WEEK}L|{_DAY_OF_WEEK}#[1-5]"),
    _field(1970, 2199),
)

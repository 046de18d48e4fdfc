"""Pages that people write, with parts that are written from the sources. Pure: nothing here starts node."""

from __future__ import annotations


def with_part(text: str, part: str, *, begin: str, end: str) -> str:
    """The page with `part` between the lines `begin` and `end`; ValueError where one of them is missing."""
    before, begins, rest = text.partition(f"{begin}\n")
    _, ends, after = rest.partition(f"{end}\n")
    if not (begins and ends):
        raise ValueError(f"the page lacks the lines {begin} and {end}; put both where what is generated belongs")
    return f"{before}{begins}\n{part}\n{ends}{after}"

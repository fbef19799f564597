"""Whether the classes of weights are those of the data: their names, and not their number."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

SHOWN = 5  # names in a message


def match(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """For each of our classes its place among theirs; None unless they are the same names."""
    places = {unicodedata.normalize('NFC', name): place for place, name in enumerate(theirs)}
    order = [places.get(unicodedata.normalize('NFC', name), -1) for name in ours]
    return order if sorted(order) == list(range(len(theirs))) else None


def require_same(
    theirs: Sequence[str], ours: Sequence[str], who: str, data: str = 'the data'
) -> list[int]:
    """As `match`, but a ValueError with both lists if they are not the same names."""
    order = match(theirs, ours)
    if order is None:
        raise ValueError(
            f'{who} knows {len(theirs)} classes ({_first(theirs)}), {data} have {len(ours)} '
            f'({_first(ours)}): they must be the same names'
        )
    return order


def twins(names: Sequence[str]) -> list[str]:
    """The names that several classes have, as ImageNet's lists of words have 'crane' twice."""
    return [name for name, count in Counter(names).items() if count > 1]


def _first(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')

"""Names of tensors that the user changes, and tensors that he leaves out, before all else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Sets = dict[str, dict[str, np.ndarray]]  # state dicts by the keys around them


class Edits(NamedTuple):
    """What to do to the tensors of a file; patterns are regular expressions, found in names.

    Attributes:
      rename: what each pattern is replaced by, as `re.sub` does, in this order.
      drop: patterns of the tensors to leave out; they are left out first.
    """

    rename: Mapping[str, str]
    drop: Sequence[str]

    def check(self) -> None:
        """Raise ValueError for what is no regular expression."""
        for what, patterns in (('rename', self.rename), ('drop', self.drop)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(
                        f'{what}={pattern!r} is no regular expression: {error}'
                    ) from None

    def apply(self, sets: Sets, path: Path) -> Sets:
        """The state dicts without what is dropped and with the new names.

        Raises:
          ValueError: for a pattern that is in no name, or two tensors that get one name.
        """
        self.check()
        for pattern in self.drop:
            _require_found('drop', pattern, sets, path)
            sets = {
                place: {name: v for name, v in tensors.items() if not re.search(pattern, name)}
                for place, tensors in sets.items()
            }
        for pattern, new in self.rename.items():
            _require_found('rename', pattern, sets, path)
            sets = {place: _renamed(tensors, pattern, new, path) for place, tensors in sets.items()}
        return sets

    def json(self) -> dict[str, Any]:
        """What was asked, as plain objects; {} for nothing."""
        asked = {'rename': dict(self.rename), 'drop': list(self.drop)}
        return {key: value for key, value in asked.items() if value}


def _renamed(
    tensors: dict[str, np.ndarray], pattern: str, new: str, path: Path
) -> dict[str, np.ndarray]:
    renamed: dict[str, np.ndarray] = {}
    before: dict[str, str] = {}
    for name, value in tensors.items():
        try:
            changed = re.sub(pattern, new, name)
        except (re.error, IndexError) as error:
            raise ValueError(f'rename={pattern!r}: {new!r} cannot replace it: {error}') from None
        if changed in renamed:
            raise ValueError(
                f'rename={pattern!r}: {before[changed]} and {name} of {path} would both be '
                f'{changed!r}'
            )
        renamed[changed], before[changed] = value, name
    return renamed


def _require_found(what: str, pattern: str, sets: Sets, path: Path) -> None:
    names = [name for tensors in sets.values() for name in tensors]
    if not any(re.search(pattern, name) for name in names):
        some = [name for name in names if name.endswith('weight')] or names
        raise ValueError(
            f'{what}={pattern!r} is in the name of no tensor of {path}; among its {len(names)} '
            f'names are {", ".join([*some[:3], *some[3:][-1:]]) or "none"}'
        )

"""What of a model never changes: said before a run, and verified after it."""

from __future__ import annotations

import re
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from jcls.optim.groups import flat
from jcls.optim.optimizer import Groups


class Frozen(NamedTuple):
    """Parameters (paths) that are not trained, and layers whose running statistics stay."""

    params: frozenset[str] = frozenset()
    still: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.params or self.still)


def paths(trained: Any) -> frozenset[str]:
    """The paths of the leaves that are False."""
    return frozenset(path for path, value in flat(trained).items() if not value)


def report(variables: Any, groups: Groups, frozen: Frozen) -> Table:
    """Part by part: how many numbers are trained and decayed, how many statistics move.

    `variables` may be shapes; a part is the stem, a stage or the head.
    """
    table = Table(title='freezing report', title_justify='left')
    for column in ('part', 'parameters', 'trained', 'decayed', 'statistics that move'):
        table.add_column(column, justify='left' if column == 'part' else 'right')
    decay = flat(groups.decay)
    rows: dict[str, list[int]] = {}
    for path, leaf in flat(variables['params']).items():
        row = rows.setdefault(_part(path), [0] * 5)
        trained = path not in frozen.params
        row[0] += leaf.size
        row[1] += leaf.size * trained
        row[2] += leaf.size * (trained and decay[path] > 0)
    for path, leaf in flat(variables['batch_stats']).items():
        row = rows[_part(path)]
        row[3] += leaf.size * (path.rpartition('/')[0] not in frozen.still)
        row[4] += leaf.size
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    for part, (count, trained, decayed, moving, statistics) in [*rows.items(), ('all', total)]:
        table.add_row(
            part,
            f'{count:,}',
            f'{trained:,}' if trained else 'frozen',
            f'{decayed:,}' if decayed else '-',
            f'{moving:,} of {statistics:,}' if statistics else '-',
        )
    return table


def fingerprint(variables: Any, frozen: Frozen) -> int:
    """A CRC-32 of every bit of what must not change."""
    crc = 0
    for path, leaf in flat(variables['params']).items():
        if path in frozen.params:
            crc = zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes(), crc)
    for path, leaf in flat(variables['batch_stats']).items():
        if path.rpartition('/')[0] in frozen.still:
            crc = zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes(), crc)
    return crc


def parts(frozen: Frozen) -> list[str]:
    """Where the frozen parameters are, such as ['stage1', 'stem']."""
    return sorted({_part(path) for path in frozen.params})


def _part(path: str) -> str:
    """'stage2_block3/conv1/kernel' -> 'stage2'."""
    found = re.match(r'stage\d+', path)
    return found[0] if found else path.split('/')[0]

"""The part of a model that never changes: reported before a run and verified after it."""

from __future__ import annotations

import re
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from rich.table import Table

from jcls.optim.optimizer import Groups


class Frozen(NamedTuple):
    """Paths of the parameters that are not trained, and of the layers whose statistics stay."""

    params: frozenset[str] = frozenset()
    stats: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.params or self.stats)


def trained(params: Any, freeze: int | tuple[str, ...]) -> Any:
    """The tree of `params` with True where a parameter is trained.

    Raises:
      ValueError: for a stage that the model does not have, or a pattern that matches nothing.
    """
    paths = [*flatten_dict(params, sep='/')]
    where = f'config.init.freeze={freeze!r}'
    if isinstance(freeze, int):
        numbers = [int(match[1]) for path in paths if (match := re.match(r'stage(\d+)', path))]
        stages = max(numbers, default=0)
        if freeze > stages:
            raise ValueError(f'{where}: the model has stages 1 to {stages}')
        patterns = ['stem/.*'] if freeze >= 0 else []
        patterns += [f'stage{stage}_.*' for stage in range(1, freeze + 1)]
    else:
        patterns = list(freeze)
    frozen: set[str] = set()
    for pattern in patterns:
        try:
            matching = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise ValueError(f'{where}: {pattern!r} is not a regular expression: {error}') from None
        if not matching:
            raise ValueError(
                f'{where}: {pattern!r} matches no parameter; it must match a whole path, such as '
                f'{paths[0]!r}'
            )
        frozen |= matching
    if len(frozen) == len(paths):
        raise ValueError(f'{where} freezes every parameter: there is nothing to train')
    return unflatten_dict({path: path not in frozen for path in paths}, sep='/')


def norms_with_frozen_stats(
    params: Any, batch_stats: Any, freeze: int | tuple[str, ...], norm_eval: bool
) -> frozenset[str]:
    """The normalisation layers (paths) that use their running statistics and leave them alone."""
    layers = {path.rpartition('/')[0] for path in flatten_dict(batch_stats, sep='/')}
    if norm_eval:
        return frozenset(layers)
    moving = flatten_dict(trained(params, freeze), sep='/')
    free = {path.rpartition('/')[0] for path, is_trained in moving.items() if is_trained}
    return frozenset(layers - free)


def paths(trained: Any) -> frozenset[str]:
    """The paths of the leaves that are False."""
    return frozenset(path for path, value in flatten_dict(trained, sep='/').items() if not value)


def report(variables: Any, groups: Groups, frozen: Frozen) -> Table:
    """A table by part: how many numbers are trained and decayed, and how many statistics move.

    `variables` may be shapes; a part is the stem, a stage or the head.
    """
    table = Table(title='freezing report', title_justify='left')
    for column in ('part', 'parameters', 'trained', 'decayed', 'statistics that move'):
        table.add_column(column, justify='left' if column == 'part' else 'right')
    decay = flatten_dict(groups.decay, sep='/')
    rows: dict[str, list[int]] = {}
    for path, leaf in flatten_dict(variables['params'], sep='/').items():
        row = rows.setdefault(_part(path), [0] * 5)
        trained = path not in frozen.params
        row[0] += leaf.size
        row[1] += leaf.size * trained
        row[2] += leaf.size * (trained and decay[path] > 0)
    for path, leaf in flatten_dict(variables['batch_stats'], sep='/').items():
        row = rows[_part(path)]
        row[3] += leaf.size * (path.rpartition('/')[0] not in frozen.stats)
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
    """The CRC-32 of all bits that must not change."""
    crc = 0
    for path, leaf in sorted(flatten_dict(variables['params'], sep='/').items()):
        if path in frozen.params:
            crc = zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes(), crc)
    for path, leaf in sorted(flatten_dict(variables['batch_stats'], sep='/').items()):
        if path.rpartition('/')[0] in frozen.stats:
            crc = zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes(), crc)
    return crc


def parts(frozen: Frozen) -> list[str]:
    """The parts that the frozen parameters are in, such as ['stage1', 'stem']."""
    return sorted({_part(path) for path in frozen.params})


def _part(path: str) -> str:
    """'stage2_block3/conv1/kernel' -> 'stage2'."""
    stage = re.match(r'stage\d+', path)
    return stage[0] if stage else path.split('/')[0]

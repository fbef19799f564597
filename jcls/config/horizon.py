"""Lengths of time: strings with a unit, which are converted to steps in this one place.

An epoch is floor(examples / batch_size) steps.
"""

from __future__ import annotations

import re
from typing import NamedTuple

UNITS = ('steps', 'epochs', 'run')
LENGTH = r'\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s+([a-z]+)\s*'  # number, unit
NEVER = 'never'


class Horizon(NamedTuple):
    """The length of a run: `total` steps of `batch_size`, with `steps_per_epoch` in an epoch."""

    total: int
    steps_per_epoch: int
    batch_size: int

    def steps(self, length: str) -> int:
        """Convert '5 epochs', '1000 steps' or '0.02 run' to steps, rounded to the nearest."""
        return _steps(length, self.steps_per_epoch, self.total)

    def every(self, interval: str, where: str) -> int:
        """Convert an interval to steps, at least 1; 'never' is 0."""
        if interval == NEVER:
            return 0
        try:
            steps = self.steps(interval)
        except ValueError as error:
            raise ValueError(f'config.{where}: {error}') from None
        if steps < 1:
            raise ValueError(
                f"config.{where}={interval!r} is {steps} steps; at least 1, or 'never'"
            )
        return steps

    def epoch(self, step: int) -> float:
        """The epochs that `step` steps complete."""
        return step / self.steps_per_epoch


def is_length(value: object) -> bool:
    """Whether a value of a config is a length of time, such as '5 epochs'."""
    match = re.fullmatch(LENGTH, value) if isinstance(value, str) else None
    return match is not None and match[2].rstrip('s') in ('step', 'epoch', 'run')


def create_horizon(duration: str, batch_size: int, examples: int) -> Horizon:
    """The horizon of a run over `examples` training examples for `duration`."""
    if batch_size < 1:
        raise ValueError(f'config.batch_size={batch_size}: at least 1')
    if examples < batch_size:
        raise ValueError(
            f'config.batch_size={batch_size}, but there are only {examples} training examples: '
            'an epoch would have no step; lower it'
        )
    steps_per_epoch = examples // batch_size
    try:
        total = _steps(duration, steps_per_epoch, None)
    except ValueError as error:
        raise ValueError(f'config.duration: {error}') from None
    if total < 1:
        raise ValueError(f'config.duration={duration!r} is {total} steps; at least 1')
    if total >= 2**31:
        raise ValueError(f'config.duration={duration!r} is too long: over {2**31 - 1} steps')
    return Horizon(total, steps_per_epoch, batch_size)


def _steps(length: str, steps_per_epoch: int, total: int | None) -> int:
    match = re.fullmatch(LENGTH, length)
    unit = match[2] if match else ''
    unit = unit if unit in UNITS else f'{unit}s'
    known = [u for u in UNITS if total is not None or u != 'run']
    if match is None or unit not in known:
        examples = ', '.join(repr(f'5 {unit}') for unit in known).replace('5 run', '0.02 run')
        raise ValueError(f'{length!r} is not a length of time; write e.g. {examples}')
    number = float(match[1])
    if number >= 2**31:
        raise ValueError(f'{length!r} is too long')
    if unit == 'steps' and number != int(number):
        raise ValueError(f'{length!r}: steps are whole')
    return round(number * {'steps': 1, 'epochs': steps_per_epoch, 'run': total or 0}[unit])

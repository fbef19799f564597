"""The learning rate as a function of the step: a linear warm-up, then a shape from a table.

Not here: the peak itself, which `jcls.optim.optimizer` scales to the batch size.
Papers: Goyal et al. 2017 (1706.02677, warm-up); Loshchilov & Hutter 2016 (1608.03983, cosine).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jcls.schema import choose

Schedule = Callable[[Any], jax.Array]  # step (int) -> a scalar
ToSteps = Callable[[str], int]  # '5 epochs' -> steps


def create(
    peak: float,
    total: int,
    to_steps: ToSteps,
    *,
    name: str = 'cosine',
    warmup: str = '0 epochs',
    warmup_start: float = 0.0,
    **shape: Any,
) -> Schedule:
    """The ``schedule`` section: step -> learning rate, for steps 0..total-1.

    In the warm-up of W steps, lr(s) = peak * (start + (1 - start) * s / W); from step W on, the
    shape `name` of `SCHEDULES` runs over the remaining total - W steps.

    Args:
      peak: the highest learning rate.
      total: steps of the run.
      to_steps: converts lengths of time to steps.
      warmup: length of the warm-up, e.g. '5 epochs', '500 steps', '0.02 run'.
      warmup_start: the first step's rate as a fraction of the peak.
      **shape: the fields of the chosen shape.
    """
    shape_of = choose(SCHEDULES, name, 'schedule')
    try:
        warmup_steps = to_steps(warmup)
    except ValueError as error:
        raise ValueError(f'config.schedule.warmup: {error}') from None
    if warmup_steps >= total:
        raise ValueError(
            f'config.schedule.warmup={warmup!r} is {warmup_steps} steps, but the run has {total}: '
            'shorten the warm-up or lengthen config.duration'
        )
    if not 0 <= warmup_start <= 1:
        raise ValueError(f'config.schedule.warmup_start={warmup_start}: a fraction in [0, 1]')
    after = shape_of(warmup_steps, total, **shape)

    def schedule(step: Any) -> jax.Array:
        ramp = warmup_start + (1 - warmup_start) * (step / max(warmup_steps, 1))
        return peak * jnp.where(step < warmup_steps, ramp, after(step))

    return schedule


def constant(first: int, last: int) -> Schedule:
    """1 throughout."""
    del first, last
    return lambda step: jnp.ones_like(step / 1)


def cosine(first: int, last: int, *, end: float = 0.0) -> Schedule:
    """end + (1 - end) * (1 + cos(pi * t)) / 2 with t from 0 at step `first` to 1 at step `last`.

    Computed as sin^2(pi / 2 * (1 - t)), the same function without the cancellation that costs the
    usual form three digits near its end in float32.
    """
    if not 0 <= end <= 1:
        raise ValueError(f'config.schedule.end={end}: a fraction of the peak, in [0, 1]')

    def factor(step: Any) -> jax.Array:
        left = (last - step) / (last - first)
        return end + (1 - end) * jnp.square(jnp.sin(jnp.pi / 2 * left))

    return factor


SCHEDULES: dict[str, Callable[..., Schedule]] = {'cosine': cosine, 'constant': constant}

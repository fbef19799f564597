"""The learning rate as a function of the step: a warm-up, then a shape from a table.

A shape is a factor of the peak that is 1 at time 0. It is given its time and its whole length in
steps, so it knows neither the warm-up nor units of time. `jcls.optim.optimizer` scales the peak
itself to the batch size.

Papers: Goyal et al. 2017 (1706.02677, warm-up); Loshchilov & Hutter 2016 (1608.03983, cosine and
restarts).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jcls.config.parts import choose, part

Schedule = Callable[[Any], jax.Array]  # step (int) -> a scalar
ToSteps = Callable[[str], int]  # '5 epochs' -> steps


def create(
    peak: float,
    total: int,
    to_steps: ToSteps,
    *,
    name: str = 'cosine',
    warmup: str = '0 epochs',
    warmup_shape: str = 'linear',
    warmup_start: float = 0.0,
    after_warmup: bool = True,
    every: str = '1 step',
    **shape: Any,
) -> Schedule:
    """The ``schedule`` section: step -> learning rate, for steps 0..total-1.

    In the warm-up of W steps, lr(s) = peak * (start + (1 - start) * s / W); afterwards
    lr(s) = peak * shape(s - W), the shape `name` of `SCHEDULES`, stretched over total - W steps.

    Args:
      peak: the highest learning rate.
      total: number of steps of the run.
      to_steps: function from lengths of time to steps.
      warmup: length of the warm-up, such as '5 epochs', '500 steps', '0.02 run'.
      warmup_shape: 'linear' as above, or 'constant': peak * start throughout the warm-up.
      warmup_start: the first step's rate as a fraction of the peak.
      after_warmup: start the shape's time when the warm-up ends, as torchvision does. With False it
        starts with the run, and the warm-up hides its beginning, as in timm (unless
        ``--warmup-prefix``).
      every: how often the rate changes. '1 epoch' keeps each epoch's first rate throughout the
        epoch, as torchvision and timm do.
      **shape: the fields of the chosen shape.
    """
    shape_of = part(SCHEDULES, name, 'schedule')
    constant_warmup = choose(
        {'linear': False, 'constant': True}, warmup_shape, 'config.schedule.warmup_shape'
    )
    warmup_steps, hold = _steps(to_steps, warmup, 'warmup'), _steps(to_steps, every, 'every', 1)
    if warmup_steps and warmup_steps >= total:
        raise ValueError(
            f'config.schedule.warmup={warmup!r} is {warmup_steps} steps, but the run has {total}: '
            'shorten the warm-up or lengthen config.duration'
        )
    if not 0 <= warmup_start <= 1:
        raise ValueError(f'config.schedule.warmup_start={warmup_start}: a fraction in [0, 1]')
    first = warmup_steps if after_warmup else 0
    after = shape_of(total - first, to_steps, **shape)

    def schedule(step: Any) -> jax.Array:
        # The widest integer, because a quotient of int32 is float32 even where float64 is on.
        step = jnp.asarray(step, int) // hold * hold
        progress = 0 * step if constant_warmup else step / max(warmup_steps, 1)
        ramp = warmup_start + (1 - warmup_start) * progress
        # Before the shape's time the warm-up counts, and the shape's value is not used.
        return peak * jnp.where(step < warmup_steps, ramp, after(jnp.maximum(step - first, 0)))

    return schedule


def constant(length: int, to_steps: ToSteps) -> Schedule:
    """The peak throughout: 1."""
    del length, to_steps
    return lambda t: jnp.ones_like(t / 1)


def linear(length: int, to_steps: ToSteps, *, end: float = 0.0) -> Schedule:
    """A line down to `end`: 1 - (1 - end) * t / length."""
    return polynomial(length, to_steps, power=1.0, end=end)


def polynomial(length: int, to_steps: ToSteps, *, power: float = 2.0, end: float = 0.0) -> Schedule:
    """A polynomial down to `end`: end + (1 - end) * (1 - t / length) ** power."""
    del to_steps
    _check_end(end)
    if not 0 < power < math.inf:
        raise ValueError(f'config.schedule.power={power}: must be positive')
    return lambda t: end + (1 - end) * ((length - t) / length) ** power


def cosine(length: int, to_steps: ToSteps, *, end: float = 0.0) -> Schedule:
    """Half a cosine down to `end`: end + (1 - end) * (1 + cos(pi * t / length)) / 2."""
    del to_steps
    _check_end(end)
    return lambda t: end + (1 - end) * _half_cosine((length - t) / length)


def cosine_restarts(
    length: int,
    to_steps: ToSteps,
    *,
    cycle: str = '30 epochs',
    stretch: float = 1.0,
    restart_decay: float = 1.0,
    end: float = 0.0,
) -> Schedule:
    """Cosines of growing length and falling height, one after the other.

    Cycle i = 0, 1, ... is cycle * stretch ** i long and falls from restart_decay ** i to `end`. A
    cycle that would begin below `end` stays there.

    Args:
      length: length of all cycles, in steps; the last one may be cut off.
      to_steps: function from lengths of time to steps.
      cycle: length of the first cycle.
      stretch: factor of the length from cycle to cycle.
      restart_decay: factor of the height from cycle to cycle.
      end: end of each cycle, as a fraction of the peak.
    """
    _check_end(end)
    first = _steps(to_steps, cycle, 'cycle', 1)
    if not 1 <= stretch < math.inf:
        raise ValueError(f'config.schedule.stretch={stretch}: at least 1')
    if not 0 < restart_decay <= 1 or restart_decay < end:
        raise ValueError(
            f'config.schedule.restart_decay={restart_decay}: in (0, 1], and not below end={end}'
        )
    lengths = itertools.takewhile(
        lambda size: size < math.inf, (first * stretch**i for i in itertools.count())
    )
    starts = [0]
    while starts[-1] < length:
        starts.append(starts[-1] + max(round(next(lengths)), 1))
    bounds, sizes = jnp.asarray(starts), jnp.diff(jnp.asarray(starts))
    tops = jnp.asarray([max(restart_decay**i, end) for i in range(len(starts) - 1)])

    def factor(t: Any) -> jax.Array:
        i = jnp.searchsorted(bounds, t, side='right') - 1
        left = (bounds[i + 1] - t) / sizes[i]
        return end + (tops[i] - end) * _half_cosine(left)

    return factor


def exponential(
    length: int, to_steps: ToSteps, *, gamma: float = 0.97, interval: str = '1 epoch'
) -> Schedule:
    """Smooth decay, gamma ** (t / interval); `step` decays in stairs."""
    del length
    _check_gamma(gamma)
    steps = _steps(to_steps, interval, 'interval', 1)
    # Not gamma ** ...: a high power of a float32 gamma loses its last digits.
    return lambda t: jnp.exp(math.log(gamma) * (t / steps))


def step(
    length: int, to_steps: ToSteps, *, gamma: float = 0.1, interval: str = '30 epochs'
) -> Schedule:
    """Decay in stairs: gamma ** floor(t / interval)."""
    del length
    _check_gamma(gamma)
    steps = _steps(to_steps, interval, 'interval', 1)
    return lambda t: jnp.exp(math.log(gamma) * (t // steps / 1))


def multi_step(
    length: int,
    to_steps: ToSteps,
    *,
    milestones: tuple[str, ...] = ('30 epochs', '60 epochs'),
    gamma: float = 0.1,
) -> Schedule:
    """gamma ** (number of milestones reached); see `create`'s `after_warmup` for their time 0."""
    _check_gamma(gamma)
    factors = tuple(gamma**i for i in range(1, len(milestones) + 1))
    return piecewise(length, to_steps, milestones=milestones, factors=factors)


def piecewise(
    length: int,
    to_steps: ToSteps,
    *,
    milestones: tuple[str, ...] = ('30 epochs', '60 epochs'),
    factors: tuple[float, ...] = (0.1, 0.01),
) -> Schedule:
    """1 before the first milestone, then factors[i] from milestones[i] on.

    See `create`'s `after_warmup` for the milestones' time 0.
    """
    bounds = [_steps(to_steps, text, f'milestones[{i}]', 1) for i, text in enumerate(milestones)]
    if sorted(set(bounds)) != bounds or (bounds and bounds[-1] >= length):
        raise ValueError(
            f'config.schedule.milestones={milestones} are the steps {bounds}: they must increase, '
            f'and lie before the end, {length} steps from where the schedule begins after its '
            'warm-up'
        )
    if len(factors) != len(bounds) or not all(0 < f < math.inf for f in factors):
        raise ValueError(
            f'config.schedule.factors={factors}: one positive factor for each of the '
            f'{len(bounds)} milestones'
        )
    reached, values = jnp.asarray(bounds, jnp.int32), (1.0, *factors)
    return lambda t: jnp.asarray(values)[jnp.searchsorted(reached, t, side='right')]


def _half_cosine(left: Any) -> jax.Array:
    """(1 - cos(pi * left)) / 2, which is 1 at left = 1, where a cosine begins, and 0 at its end.

    It is computed as sin^2(pi / 2 * left). The usual form cancels near its end, where float32 loses
    three digits.
    """
    return jnp.square(jnp.sin(jnp.pi / 2 * left))


def _steps(to_steps: ToSteps, length: str, field: str, least: int = 0) -> int:
    try:
        steps = to_steps(length)
    except ValueError as error:
        raise ValueError(f'config.schedule.{field}: {error}') from None
    if steps < least:
        raise ValueError(f'config.schedule.{field}={length!r} is {steps} steps; at least {least}')
    return steps


def _check_end(end: float) -> None:
    if not 0 <= end <= 1:
        raise ValueError(f'config.schedule.end={end}: a fraction of the peak, in [0, 1]')


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f'config.schedule.gamma={gamma}: a factor in (0, 1]')


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    'constant': constant,
    'cosine': cosine,
    'cosine_restarts': cosine_restarts,
    'exponential': exponential,
    'linear': linear,
    'multi_step': multi_step,
    'piecewise': piecewise,
    'polynomial': polynomial,
    'step': step,
}

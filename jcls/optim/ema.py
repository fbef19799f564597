"""A running average of the weights, evaluated and saved beside them.

    ema <- ema + (1 - decay) * (weights - ema)

It averages parameters and BatchNorm statistics alike; otherwise the averaged weights would be
evaluated with the statistics of other weights. The forms differ in when they update the average and
when they copy the weights instead.

Paper: Polyak & Juditsky 1992; the forms are torchvision's `ExponentialMovingAverage` as its
references/classification uses it, and timm's `ModelEmaV3`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jcls.config.parts import part

NewShare = Callable[[Any], tuple[Any, Any]]


class Ema(NamedTuple):
    """`update(ema, new, step)` is the average after update `step` (0, 1, ...) made `new`."""

    update: Callable[[Any, Any, Any], Any]
    decay: float  # the decay of one update, once it averages
    every: int  # steps between two updates


class Run(NamedTuple):
    """The lengths that an average needs to know of a run."""

    batch_size: int
    steps_per_epoch: int
    total: int  # steps of the run
    warmup: int  # steps in which the learning rate warms up


def create(run: Run, *, name: str = 'none', **fields: Any) -> Ema | None:
    """The ``ema`` section: one of `EMAS`, or None with 'none'."""
    return part(EMAS, name, 'ema')(run, **fields)


def none(run: Run) -> None:
    """No average."""
    del run


def torchvision(run: Run, *, decay: float = 0.99998, every: int = 32) -> Ema:
    """torchvision's average, whose decay is adjusted so that any batch size has the same memory.

    Updates follow the steps 0, every, 2 * every, ... *of each epoch*. With the batch size B and E
    epochs, 1 - decay' = min(1, (1 - decay) * B * every / E). While the learning rate warms up, and
    at the first update after it, the average is a copy.

    Args:
      run: batch size and lengths of the run.
      decay: torchvision's ``--model-ema-decay``.
      every: steps between updates, torchvision's ``--model-ema-steps``.
    """
    _check_decay(decay)
    if every < 1:
        raise ValueError(f'config.ema.every={every}: a number of steps, at least 1')
    epochs = run.total / run.steps_per_epoch
    alpha = min(1.0, (1 - decay) * run.batch_size * every / epochs)
    # The epoch in which the warm-up ends counts as warming up: torchvision counts whole epochs.
    warm = -(-run.warmup // run.steps_per_epoch) * run.steps_per_epoch

    def share(step: Any) -> tuple[Any, Any]:
        due = step % run.steps_per_epoch % every == 0
        return due, jnp.where(step <= warm, 1.0, alpha)

    return Ema(_update(share), 1 - alpha, every)


def timm(run: Run, *, decay: float = 0.9998, warmup: bool = False) -> Ema:
    """timm's ModelEmaV3: an update after every step; the first one copies.

    Args:
      run: unused; the decay is that of a step, whatever the batch size.
      decay: the decay of an update.
      warmup: start lower: update s = 1, 2, ... after the first has at most the decay
        1 - (1 + s) ** (-2 / 3).
    """
    del run
    _check_decay(decay)

    def share(step: Any) -> tuple[Any, Any]:
        alpha = jnp.where(step == 0, 1.0, 1 - decay)
        return True, jnp.maximum(alpha, (1 + step / 1) ** (-2 / 3)) if warmup else alpha

    return Ema(_update(share), decay, 1)


def _update(share: NewShare) -> Callable[[Any, Any, Any], Any]:
    """The update of an average; `share(step)` is (whether one is due, the new weights' share)."""

    def update(ema: Any, new: Any, step: Any) -> Any:
        due, alpha = share(step)

        def average(old: jax.Array, weight: jax.Array) -> jax.Array:
            moved = old + (alpha * (weight - old)).astype(old.dtype)
            # A copy is exact; old + (weight - old) is not.
            return jnp.where(due, jnp.where(alpha == 1, weight, moved), old)

        return jax.tree.map(average, ema, new)

    return update


def _check_decay(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f'config.ema.decay={decay}: in [0, 1)')


EMAS: dict[str, Callable[..., Ema | None]] = {
    'none': none,
    'timm': timm,
    'torchvision': torchvision,
}

"""Optimizers: from gradients to the *direction* of the update, which the step scales by the rate.

    params <- params - lr(step) * direction

Keeping the rate out of the optimizer makes decoupled weight decay follow the whole scheduled rate,
and what is logged as the learning rate is what was applied.

Papers: Sutskever et al. 2013 (momentum, Nesterov's form as torch computes it); Loshchilov & Hutter
2017 (1711.05101, decoupled weight decay); Goyal et al. 2017 (1706.02677, linear scaling).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jcls.optim import groups
from jcls.schema import choose

NORM = r'.*norm\d*/(scale|bias)'  # every parameter of a normalisation layer


class Optimizer(NamedTuple):
    """`direction` turns gradients into the direction of the update; `peak` is the peak rate."""

    direction: optax.GradientTransformation
    peak: float


def create(
    batch_size: int,
    *,
    name: str = 'sgd',
    lr: float = 0.1,
    reference_batch: int | None = 256,
    weight_decay: float = 1e-4,
    decay: str = 'decoupled',
    decay_groups: tuple[tuple[str, float], ...] = ((NORM, 0.0), ('.*', 1.0)),
    **fields: Any,
) -> Optimizer:
    """The ``optimizer`` section.

    Args:
      batch_size: examples in a step.
      name: one of `OPTIMIZERS`.
      lr: peak learning rate for a batch of `reference_batch`; scaled linearly to `batch_size`.
      reference_batch: the batch that `lr` is stated for; None leaves `lr` as it is.
      weight_decay: w >= 0.
      decay: 'decoupled' adds w * p to the direction, so that p <- p - lr * (update + w * p);
        'coupled' adds w * p to the gradient before momentum (torch's SGD). With momentum m a
        coupled w acts about like a decoupled w / (1 - m).
      decay_groups: rules (pattern, multiplier of w) over parameter paths, see
        `jcls.optim.groups`. Norm parameters are exempt by default; add ('head/bias', 0.0) for a
        recipe that exempts biases.
      **fields: the fields of the chosen optimizer.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f'config.optimizer.lr={lr}: must be positive and finite')
    if reference_batch is not None and reference_batch < 1:
        raise ValueError(
            f'config.optimizer.reference_batch={reference_batch}: at least 1, or None not to scale'
        )
    if not 0 <= weight_decay < math.inf:
        raise ValueError(
            f'config.optimizer.weight_decay={weight_decay}: must be finite and not negative'
        )
    update = choose(OPTIMIZERS, name, 'optimizer')(**fields)
    added = _add_decay(weight_decay, decay_groups)
    orders = {'decoupled': (update, added), 'coupled': (added, update)}
    order = choose(orders, decay, 'config.optimizer.decay')
    peak = lr if reference_batch is None else lr * batch_size / reference_batch
    return Optimizer(optax.chain(*order), peak)


def sgd(*, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
    """m <- momentum * m + g; the direction is m, or g + momentum * m with `nesterov`.

    No dampening, and the buffer starts as the first gradient, as in torch.optim.SGD.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f'config.optimizer.momentum={momentum}: must be in [0, 1)')
    if not momentum:
        return optax.identity()
    return optax.trace(decay=momentum, nesterov=nesterov)


def _add_decay(weight_decay: float, rules: groups.Rules) -> optax.GradientTransformation:
    """u <- u + w * multiplier * p; wrong rules show when the state is made, before any step."""
    where = 'config.optimizer.decay_groups'

    def init(params: Any) -> optax.EmptyState:
        groups.assign(params, rules, where)
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any) -> tuple[Any, optax.EmptyState]:
        def add(u: jax.Array, p: jax.Array, multiplier: float) -> jax.Array:
            w = weight_decay * multiplier
            return u + w * p if w else u

        return jax.tree.map(add, updates, params, groups.assign(params, rules, where)), state

    return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {'sgd': sgd}

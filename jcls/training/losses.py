"""Losses: logits and soft targets -> one loss per example. Masks and means are the step's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jcls.schema import choose

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # logits, targets [N, K] -> [N]


def create(*, name: str = 'softmax', **fields: Any) -> Loss:
    """The ``loss`` section: a function of logits and targets, both [N, K], to losses [N]."""
    return choose(LOSSES, name, 'loss')(**fields)


def softmax(*, label_smoothing: float = 0.0) -> Loss:
    """Softmax cross-entropy, -sum_k t'_k log softmax(logits)_k with t' = (1 - e) t + e / K.

    `label_smoothing` e as Szegedy et al. 2015 (1512.00567, section 7) define it and torch,
    torchvision and timm compute it, for hard and soft targets alike.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f'config.loss.label_smoothing={label_smoothing}: must be in [0, 1)')

    def loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        targets = smooth(targets, label_smoothing)
        return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)

    return loss


def smooth(targets: jax.Array, amount: float) -> jax.Array:
    """(1 - amount) * targets + amount / K for targets [N, K]."""
    return targets * (1 - amount) + amount / targets.shape[-1] if amount else targets


LOSSES: dict[str, Callable[..., Loss]] = {'softmax': softmax}

"""Distillation: a trained model's logits as a second target beside the label.

The teacher sees the images of the batch, cropped and mixed, with the normalisation of its own
training. Its logits are in the batch as ``teacher`` [N, K].

Papers: Hinton et al. 2015 (1503.02531, soft); Touvron et al. 2020 (2012.12877, hard).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jcls.config.parts import part


class Distillation(NamedTuple):
    """The teacher and `combine(losses [N], logits [N, K], teacher [N, K])` -> losses [N]."""

    teacher: str
    step: int | str  # a run keeps the checkpoint that it began with
    combine: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def create(*, name: str = 'none', **fields: Any) -> Distillation | None:
    """The ``distill`` section: one of `DISTILLATIONS`, or None with 'none'."""
    return part(DISTILLATIONS, name, 'distill')(**fields)


def none() -> None:
    """No teacher."""


def soft(
    *, teacher: str, step: str = 'last', weight: float = 0.5, temperature: float = 1.0
) -> Distillation:
    """Soft targets: (1 - w) * loss + w * T^2 * KL(softmax(teacher / T) || softmax(logits / T)).

    Args:
      teacher: workdir of the teacher.
      step: checkpoint of the teacher: 'last', 'best' or a number.
      weight: weight w of the teacher.
      temperature: temperature T; the factor T^2 keeps the size of the gradient (Hinton et al.,
        section 2).
    """
    if not 0 < temperature < float('inf'):
        raise ValueError(f'config.distill.temperature={temperature}: must be positive')

    def divergence(logits: jax.Array, teacher: jax.Array) -> jax.Array:
        mine, other = (jax.nn.log_softmax(x / temperature) for x in (logits, teacher))
        return temperature**2 * jnp.sum(jnp.exp(other) * (other - mine), axis=-1)

    return _weighted(teacher, step, weight, divergence)


def hard(*, teacher: str, step: str = 'last', weight: float = 0.5) -> Distillation:
    """Hard targets: (1 - w) * loss + w * cross-entropy with the teacher's most likely class.

    Args:
      teacher: workdir of the teacher.
      step: checkpoint of the teacher: 'last', 'best' or a number.
      weight: weight w of the teacher.
    """

    def cross_entropy(logits: jax.Array, teacher: jax.Array) -> jax.Array:
        chosen = jax.nn.one_hot(teacher.argmax(-1), logits.shape[-1], dtype=logits.dtype)
        return -jnp.sum(chosen * jax.nn.log_softmax(logits), axis=-1)

    return _weighted(teacher, step, weight, cross_entropy)


def _weighted(
    teacher: str, step: str, weight: float, distance: Callable[[jax.Array, jax.Array], jax.Array]
) -> Distillation:
    if not 0 <= weight <= 1:
        raise ValueError(f'config.distill.weight={weight}: must be in [0, 1]')

    def combine(losses: jax.Array, logits: jax.Array, teacher: jax.Array) -> jax.Array:
        return (1 - weight) * losses + weight * distance(logits, teacher.astype(logits.dtype))

    return Distillation(teacher, step, combine)


DISTILLATIONS: dict[str, Callable[..., Distillation | None]] = {
    'none': none,
    'soft': soft,
    'hard': hard,
}

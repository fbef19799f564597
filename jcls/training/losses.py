"""Losses: functions from logits and soft targets to a loss per example.

The step applies masks and takes means.

Papers: Szegedy et al. 2015 (1512.00567, section 7, label smoothing); Wightman et al. 2021
(2110.00476, binary cross-entropy with a threshold); Lin et al. 2017 (1708.02002, focal loss).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jcls.config.parts import choose, part

Loss = Callable[[jax.Array, jax.Array], jax.Array]  # logits, targets [N, K] -> [N]
Terms = Callable[[jax.Array, jax.Array], jax.Array]  # the same -> each class's term, [N, K]
Weights = tuple[float, ...] | str | None


def create(
    class_counts: Callable[[], Any] | None = None,
    *,
    name: str = 'softmax',
    class_weights: Weights = None,
    **fields: Any,
) -> Loss:
    """The ``loss`` section: a function of logits and targets, both [N, K], to losses [N].

    Args:
      class_counts: function that gives the number of training examples of each class, [K]; only
        'balanced' needs it.
      name: one of `LOSSES`.
      class_weights: factors of the K classes' terms of the sum, as torch's ``weight`` with soft
        targets; 'balanced' is N / (K * n_k) for a class with n_k of the N examples. The mean is
        over examples, not over weights.
      **fields: the fields of the chosen loss.
    """
    terms = part(LOSSES, name, 'loss')(**fields)
    weights = _weights(class_weights, class_counts)

    def loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
        values = terms(logits, targets)
        if weights is None:
            return jnp.sum(values, axis=-1)
        if len(weights) != targets.shape[-1]:
            raise ValueError(
                f'config.loss.class_weights: {len(weights)} weights for {targets.shape[-1]} classes'
            )
        return jnp.sum(jnp.asarray(weights) * values, axis=-1)

    return loss


def softmax(*, label_smoothing: float = 0.0) -> Terms:
    """Softmax cross-entropy, -sum_k t'_k log softmax(logits)_k with t' = (1 - e) t + e / K.

    torch, torchvision and timm compute `label_smoothing` e in the same way, also for soft targets.
    """
    _check_smoothing(label_smoothing)
    return lambda logits, targets: -smooth(targets, label_smoothing) * jax.nn.log_softmax(logits)


def binary(
    *,
    label_smoothing: float = 0.0,
    threshold: float | None = None,
    reduction: str = 'mean',
) -> Terms:
    """Binary cross-entropy of every class with its own sigmoid, as timm's BinaryCrossEntropy.

    Args:
      label_smoothing: smoothing, as in `softmax`.
      threshold: targets above it (after mixing and smoothing) become 1, all others 0; None to leave
        them as they are.
      reduction: 'mean' over classes (timm) or 'sum' (timm with ``--bce-sum``), which has K times
        the loss and the gradients.
    """
    _check_smoothing(label_smoothing)
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f'config.loss.threshold={threshold}: in [0, 1), or None')
    mean = choose({'mean': True, 'sum': False}, reduction, 'config.loss.reduction')

    def terms(logits: jax.Array, targets: jax.Array) -> jax.Array:
        targets = smooth(targets, label_smoothing)
        if threshold is not None:
            targets = (targets > threshold).astype(logits.dtype)
        values = sigmoid_cross_entropy(logits, targets)
        return values / targets.shape[-1] if mean else values

    return terms


def focal(*, label_smoothing: float = 0.0, gamma: float = 2.0, alpha: float | None = 0.25) -> Terms:
    """Binary cross-entropy of every class, times (1 - p_t) ** gamma, summed over classes.

    p_t = p t + (1 - p) (1 - t) with p the sigmoid; as torchvision.ops.sigmoid_focal_loss.

    Args:
      label_smoothing: smoothing, as in `softmax`.
      gamma: exponent that reduces the loss of examples that are classified well.
      alpha: weight of the target class, with 1 - alpha for the others; None for no weights.
    """
    _check_smoothing(label_smoothing)
    if not 0 <= gamma < float('inf'):
        raise ValueError(f'config.loss.gamma={gamma}: must not be negative')
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f'config.loss.alpha={alpha}: in (0, 1), or None')

    def terms(logits: jax.Array, targets: jax.Array) -> jax.Array:
        targets = smooth(targets, label_smoothing)
        p = jax.nn.sigmoid(logits)
        missed = p * (1 - targets) + (1 - p) * targets  # 1 - p_t
        # For gamma below 1, a sigmoid of exactly 0 or 1 would give an infinite slope, and then a
        # NaN. (Not by jnp.maximum, whose gradient asks for equality, as in models/batch_norm.py.)
        tiny = jnp.finfo(missed.dtype).tiny
        missed = jnp.where(missed < tiny, tiny, missed)
        values = sigmoid_cross_entropy(logits, targets) * missed**gamma
        return values if alpha is None else values * (alpha * targets + (1 - alpha) * (1 - targets))

    return terms


def smooth(targets: jax.Array, amount: float) -> jax.Array:
    """Smoothed targets [N, K]: (1 - amount) * targets + amount / K."""
    return targets * (1 - amount) + amount / targets.shape[-1] if amount else targets


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The cross-entropy of each class, [N, K]: -(t log s(x) + (1 - t) log s(-x))."""
    return -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)


def _weights(given: Weights, class_counts: Callable[[], Any] | None) -> Any:
    where = f'config.loss.class_weights={given!r}'
    if given is None:
        return None
    if not isinstance(given, str):
        if not all(0 <= w < float('inf') for w in given):
            raise ValueError(f'{where}: weights must be finite and not negative')
        return given
    choose({'balanced': None}, given, 'config.loss.class_weights')
    if class_counts is None:
        raise ValueError(f'{where}: needs the class counts of the training data')
    counts = class_counts()
    if not counts.min():
        raise ValueError(f'{where}: class {counts.argmin()} has no training example')
    return counts.sum() / (len(counts) * counts)


def _check_smoothing(amount: float) -> None:
    if not 0 <= amount < 1:
        raise ValueError(f'config.loss.label_smoothing={amount}: must be in [0, 1)')


LOSSES: dict[str, Callable[..., Terms]] = {'softmax': softmax, 'binary': binary, 'focal': focal}

"""Metrics of single examples, from logits and label.

Steps sum them over the real examples of a batch, so that a mean over a set is exact however the set
is cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jcls.config.parts import part


class Metric(NamedTuple):
    """A metric: `function(logits [N, K], labels int32 [N])` -> [N], or [N, ...] for a vector.

    Attributes:
      function: gives the metric of each example.
      higher_is_better: whether the best checkpoint has the highest value, or else the lowest.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    higher_is_better: bool = True


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the label's class comes first, [N]."""
    return label_rank(logits, labels) < 1


def top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the label's class is among the first five, [N]."""
    return label_rank(logits, labels) < 5


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The number of classes before the label's, int32 [N]; 0 is a top-1 hit.

    Logits are [N, K], labels int32 [N]. Among equal logits the lower index comes first, as in
    argmax, so a network with constant output scores chance. A NaN ranks the label last.
    """
    classes, label = jnp.arange(logits.shape[-1]), labels[:, None]
    own = jnp.take_along_axis(logits, label, axis=-1)
    before = ~(logits <= own) | ((logits == own) & (classes < label))
    # The compiler may compute `own` and its logit with different roundings, so they do not meet.
    before = jnp.where(classes == label, jnp.isnan(own), before)
    return jnp.sum(before, axis=-1, dtype=jnp.int32)


def choose_metrics(names: tuple[str, ...], num_classes: int) -> dict[str, Metric]:
    """The metrics of ``config.evaluate.metrics`` by name; your own have the function's name.

    Raises:
      ValueError: for an unknown name, or a function that does not give one value for each example.
    """
    metrics: dict[str, Metric] = {}
    for name in names:
        where = f'config.evaluate.metrics: {name!r}'
        entry = part(METRICS, name, 'config.evaluate.metrics:')
        metric = entry if isinstance(entry, Metric) else Metric(entry)
        logits = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
        try:
            values = jax.eval_shape(metric.function, logits, jax.ShapeDtypeStruct((2,), jnp.int32))
            shape = values.shape
        except Exception as error:  # the user's function may raise anything
            raise ValueError(f'{where} fails on logits [N, K] and labels [N]: {error}') from error
        if shape[:1] != (2,):
            raise ValueError(f'{where} must give [N] or [N, ...]; for N = 2 it gives {shape}')
        metrics[name.rpartition(':')[2]] = metric
    return metrics


def masked_sums(values: Mapping[str, jax.Array], mask: jax.Array) -> dict[str, jax.Array]:
    """The sums of `values` [N, ...], by name, over examples with mask 1, and their number."""
    sums = {}
    for name, value in values.items():
        real = mask.reshape(-1, *[1] * (value.ndim - 1)) > 0
        sums[name] = jnp.sum(jnp.where(real, value.astype(mask.dtype), 0), axis=0)
    return sums | {'examples': jnp.sum(mask)}


METRICS: dict[str, Metric] = {
    'top1': Metric(top1),
    'top5': Metric(top5),
    # The plain cross-entropy, whatever the training loss, so that recipes can be compared.
    'loss': Metric(optax.softmax_cross_entropy_with_integer_labels, higher_is_better=False),
}

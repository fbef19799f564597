"""Metrics: of each example, from logits and label. Steps sum them over a batch's real examples, so
that a mean over a set is exact however the set is cut into batches.
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
      higher_is_better: what the best checkpoint has most of; False: least of.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    higher_is_better: bool = True


def top1(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether no class comes before the label's."""
    return label_rank(logits, labels) < 1


def top5(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether at most four classes come before the label's."""
    return label_rank(logits, labels) < 5


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the label's, [N] int32: 0 is a top-1 hit.

    Logits [N, K], labels [N] int32. Of equal logits the lower index comes first (as argmax has it),
    so a network with constant output scores chance; a NaN ranks the label last.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = ~(logits <= own) | ((logits == own) & earlier)
    return jnp.sum(before, axis=-1, dtype=jnp.int32)


def choose_metrics(names: tuple[str, ...], num_classes: int) -> dict[str, Metric]:
    """The metrics of ``config.evaluate.metrics`` by name; of your own, the function's name.

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
        except Exception as error:  # whatever the user's function raises
            raise ValueError(f'{where} fails on logits [N, K] and labels [N]: {error}') from error
        if shape[:1] != (2,):
            raise ValueError(f'{where} must give [N] or [N, ...]; for N = 2 it gives {shape}')
        metrics[name.rpartition(':')[2]] = metric
    return metrics


def masked_sums(values: Mapping[str, jax.Array], mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples with mask 1 of `values` [N, ...] by name, and their number."""
    sums = {}
    for name, value in values.items():
        real = mask.reshape(-1, *[1] * (value.ndim - 1)) > 0
        sums[name] = jnp.sum(jnp.where(real, value.astype(mask.dtype), 0), axis=0)
    return sums | {'examples': jnp.sum(mask)}


METRICS: dict[str, Metric] = {
    'top1': Metric(top1),
    'top5': Metric(top5),
    # The plain cross-entropy whatever the training loss is, so that recipes compare.
    'loss': Metric(optax.softmax_cross_entropy_with_integer_labels, higher_is_better=False),
}

"""Metrics of one batch, as sums over its real examples: exact however a set is cut into batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the label's, [N] int32: 0 is a top-1 hit.

    Logits [N, K], labels [N] int32. Of equal logits the lower index comes first (as argmax has it),
    so a network with constant output scores chance; a NaN ranks the label last.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = ~(logits <= own) | ((logits == own) & earlier)
    return jnp.sum(before, axis=-1, dtype=jnp.int32)


def batch_sums(
    logits: jax.Array, labels: jax.Array, losses: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """Sums over the examples with mask 1: loss, top1, top5 hits and their number, scalars."""
    rank = label_rank(logits, labels)
    mask = mask.astype(losses.dtype)
    return {
        'loss': jnp.sum(jnp.where(mask > 0, losses, 0)),
        'top1': jnp.sum(mask * (rank < 1)),
        'top5': jnp.sum(mask * (rank < 5)),
        'examples': jnp.sum(mask),
    }

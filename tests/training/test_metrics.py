"""Ranks and sums of examples are NumPy's, ties, NaN, masks and padding included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.logits import cross_entropy, examples
from jcls.training import losses, metrics

NAN, INF = float('nan'), float('inf')


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of the label in a stable descending sort, where NaN counts as the highest logit."""
    order = np.argsort(-np.where(np.isnan(logits), INF, logits), axis=-1, kind='stable')
    return np.argmax(order == labels[:, None], axis=-1)


def found_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = jax.jit(metrics.label_rank)(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    assert found.dtype == jnp.int32
    return np.asarray(found)


@pytest.mark.parametrize('k', [2, 3, 10, 1000])
@pytest.mark.parametrize('levels', [2, 5, None])
def test_the_rank_is_the_place_in_a_stable_sort(k, levels):
    """Also with many ties: of equal logits the lower index comes first, as argmax has it."""
    logits, labels, _ = examples(500, k)
    if levels:
        logits = np.random.default_rng(1).integers(0, levels, logits.shape).astype(float)
    logits = logits.astype(np.float32)
    found = found_ranks(logits, labels)
    np.testing.assert_array_equal(found, ranks(logits, labels))
    np.testing.assert_array_equal(found == 0, np.argmax(logits, -1) == labels)


@pytest.mark.parametrize('value', [0.0, -0.0, 3.5, -INF, INF])
def test_constant_logits_score_chance(value):
    """A network that says nothing is right for one class of K, and in the top 5 for five."""
    labels = np.arange(10)
    np.testing.assert_array_equal(found_ranks(np.full((10, 10), value), labels), labels)


def test_nan_is_never_a_hit():
    """A NaN at the label ranks it last; one elsewhere comes before the label, as argmax has it."""
    logits, labels, _ = examples(500, 10)
    elsewhere = logits.copy()
    elsewhere[np.arange(500), (labels + 1 + np.arange(500) % 9) % 10] = NAN
    np.testing.assert_array_equal(found_ranks(elsewhere, labels), ranks(elsewhere, labels))
    assert (found_ranks(elsewhere, labels) > 0).all()
    own = logits.copy()
    own[np.arange(500), labels] = NAN
    assert (found_ranks(own, labels) >= 9).all()
    assert (found_ranks(np.full((10, 10), NAN), np.arange(10)) >= 9).all()


def batch_sums(
    logits: jax.Array, labels: jax.Array, loss: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """The sums of a training batch."""
    values = {
        'loss': loss,
        'top1': metrics.top1(logits, labels),
        'top5': metrics.top5(logits, labels),
    }
    return metrics.masked_sums(values, mask.astype(loss.dtype))


@pytest.mark.parametrize('value', [NAN, INF])
def test_sums_count_the_examples_with_mask_1_and_no_others(value):
    """Logits and losses of masked rows may be anything; top 1 and top 5 are counts, not means."""
    logits, labels, targets = examples(40, 10)
    mask = (np.arange(40) % 3 > 0).astype(np.float32)
    logits[mask == 0] = value
    loss = losses.create()(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32))
    assert not np.isfinite(loss[0])
    sums = jax.jit(batch_sums)(
        jnp.asarray(logits, jnp.float32), jnp.asarray(labels), loss, jnp.asarray(mask)
    )
    real = mask == 1
    rank = ranks(logits[real].astype(np.float32), labels[real])
    assert {name: value.shape for name, value in sums.items()} == dict.fromkeys(sums, ())
    assert float(sums['examples']) == real.sum() == 26
    assert float(sums['top1']) == (rank < 1).sum()
    assert float(sums['top5']) == (rank < 5).sum()
    expected = cross_entropy(logits[real], targets[real]).sum()
    np.testing.assert_allclose(sums['loss'], expected, rtol=1e-5)


def test_sums_of_batches_are_the_sums_of_the_whole():
    """However a set is cut and padded, the sums add up to the same."""
    logits, labels, targets = examples(30, 10)
    loss = cross_entropy(logits, targets)
    with jax.enable_x64(True):
        whole = batch_sums(*map(jnp.asarray, (logits, labels, loss, np.ones(30))))
        parts = []
        for start in range(0, 30, 8):
            rows = slice(start, start + 8)
            missing = 8 - len(labels[rows])
            padded = [np.concatenate([x[rows], x[:missing]]) for x in (logits, labels, loss)]
            mask = np.arange(8) < 8 - missing
            parts.append(batch_sums(*map(jnp.asarray, (*padded, mask.astype(np.float32)))))
    for name, value in whole.items():
        np.testing.assert_allclose(sum(float(part[name]) for part in parts), value, rtol=1e-14)
    nothing = batch_sums(*map(jnp.asarray, (logits, labels, loss, np.zeros(30))))
    assert {name: float(value) for name, value in nothing.items()} == dict.fromkeys(whole, 0)

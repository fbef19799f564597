"""Losses against their formula and optax; ranks and sums against NumPy, ties and NaN included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jcls.training import losses, metrics

NAN, INF = float('nan'), float('inf')


def examples(n: int = 64, k: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [N, K], labels [N] and one-hot targets [N, K], float64."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, k, n)
    return draw.normal(scale=3, size=(n, k)), labels, np.eye(k)[labels]


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-sum t log softmax, in NumPy."""
    shifted = logits - logits.max(-1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


@pytest.mark.parametrize('amount', [0.0, 0.1, 0.5])
@pytest.mark.parametrize('soft', [False, True])
def test_smoothing_follows_its_formula(amount, soft):
    """t' = t (1 - e) + e / K, for hard and for mixed targets; optax.smooth_labels agrees."""
    logits, _, targets = examples()
    targets = 0.7 * targets + 0.3 * np.roll(targets, 1, axis=0) if soft else targets
    smoothed = targets * (1 - amount) + amount / 10
    with jax.enable_x64(True):
        given = jnp.asarray(targets)
        found = losses.smooth(given, amount)
        np.testing.assert_allclose(found, smoothed, rtol=1e-15)
        np.testing.assert_allclose(found, optax.smooth_labels(given, amount), rtol=1e-15)
        loss = losses.create(name='softmax', label_smoothing=amount)(jnp.asarray(logits), given)
        np.testing.assert_allclose(loss, cross_entropy(logits, smoothed), rtol=1e-13)
        other = optax.softmax_cross_entropy(jnp.asarray(logits), optax.smooth_labels(given, amount))
        np.testing.assert_allclose(loss, other, rtol=1e-13)
    assert loss.shape == (64,)


def test_the_smoothed_target_of_ten_classes():
    """On the label 1 - e + e / K, elsewhere e / K: 0.91 and 0.01 at e = 0.1; the sum stays 1."""
    found = np.asarray(losses.smooth(jnp.eye(10), 0.1))
    np.testing.assert_allclose(found, 0.01 + 0.9 * np.eye(10), rtol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def test_plain_cross_entropy_is_the_one_of_the_label():
    """Without smoothing (the default) the loss is -log softmax at the label, also at any scale."""
    logits, labels, targets = examples()
    loss = losses.create()
    for scale in (1, 1e3, 1e30):
        scaled = jnp.asarray(scale * logits, jnp.float32)
        found = loss(scaled, jnp.asarray(targets, jnp.float32))
        other = optax.softmax_cross_entropy_with_integer_labels(scaled, jnp.asarray(labels))
        assert found.dtype == jnp.float32
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_loss_is_softmax_minus_target():
    """d loss / d logits = softmax - t', for smoothed targets, too."""
    logits, _, targets = examples()
    with jax.enable_x64(True):
        loss, given = losses.create(label_smoothing=0.1), jnp.asarray(targets)
        found = jax.grad(lambda x: loss(x, given).sum())(jnp.asarray(logits))
        expected = jax.nn.softmax(jnp.asarray(logits)) - losses.smooth(given, 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize('amount', [-0.1, 1.0, 1.5, NAN])
def test_smoothing_out_of_range_is_refused(amount):
    """Smoothing is in [0, 1); an unknown loss is named with what there is."""
    with pytest.raises(ValueError, match=f'^config.loss.label_smoothing={amount}: '):
        losses.create(label_smoothing=amount)
    with pytest.raises(ValueError, match=r"unknown loss 'sofmax'; did you mean 'softmax'\?"):
        losses.create(name='sofmax')


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

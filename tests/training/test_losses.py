"""Losses and their gradients are those of their formula, of optax and of the peers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from helpers import Golden, assert_within
from helpers.logits import COUNTS, SMOOTH, assert_loss_is_peer_s, cross_entropy, examples
from jcls.training import losses

NAN = float('nan')

WEIGHTS = {'class_weights': (0.5, 2.0, 1.0, 0.0, 3.0)}
SOFTMAX, FOCAL = {'name': 'softmax'}, {'name': 'focal'}
BINARY, SUM = {'name': 'binary'}, {'name': 'binary', 'reduction': 'sum'}
THRESHOLD = {'threshold': 0.2}

# The peer's case: the section.
LOSSES: dict[str, dict[str, Any]] = {
    'softmax_hard': SOFTMAX,
    'softmax_hard_smooth': SOFTMAX | SMOOTH,
    'softmax_soft': SOFTMAX,
    'softmax_soft_smooth': SOFTMAX | SMOOTH,
    'softmax_hard_weighted': SOFTMAX | WEIGHTS,
    'softmax_soft_weighted': SOFTMAX | WEIGHTS,
    'softmax_soft_smooth_weighted': SOFTMAX | SMOOTH | WEIGHTS,
    'binary_hard': BINARY,
    'binary_hard_smooth': BINARY | SMOOTH,
    'binary_hard_threshold': BINARY | SMOOTH | THRESHOLD,
    'binary_soft': BINARY,
    'binary_soft_smooth': BINARY | SMOOTH,
    'binary_soft_threshold': BINARY | THRESHOLD,
    'binary_soft_smooth_threshold': BINARY | SMOOTH | THRESHOLD,
    'binary_tie_threshold': BINARY | THRESHOLD,
    'binary_sum': SUM | SMOOTH | {'target': 'soft'},
    'binary_sum_threshold': SUM | SMOOTH | THRESHOLD | {'target': 'soft'},
    'binary_weighted': BINARY | SMOOTH | WEIGHTS | {'target': 'soft'},
    'binary_sum_weighted': SUM | SMOOTH | WEIGHTS | {'target': 'soft'},
    'focal_hard': FOCAL,
    'focal_soft': FOCAL,
    'focal_unweighted': FOCAL | {'alpha': None, 'target': 'soft'},
    'focal_gamma': FOCAL | {'gamma': 1.5, 'target': 'soft'},
    'focal_gamma_zero': FOCAL | {'gamma': 0.0, 'target': 'hard'},
    'focal_gamma_unweighted': FOCAL | {'gamma': 1.5, 'alpha': None, 'target': 'hard'},
}


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


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


@pytest.mark.parametrize('case', LOSSES)
def test_losses_are_the_peer_s(case: str, data: dict[str, np.ndarray]) -> None:
    """Of every example and in the mean, with their gradients: torch's cross-entropy, timm's
    BinaryCrossEntropy (of targets that its Mixup smoothed; a target at the threshold is none) and
    torchvision's focal loss, for labels and mixed targets, smoothed, weighted, with a threshold."""
    section = dict(LOSSES[case])
    kind = section.pop('target', case.split('_')[1])
    loss = losses.create(lambda: COUNTS, **section)
    assert_loss_is_peer_s(loss, (f'targets_{kind}',), case, data)


def test_balanced_weights_are_scikit_learn_s(data: dict[str, np.ndarray]) -> None:
    """'balanced' is what compute_class_weight makes of the labels of the training examples."""
    labels = np.repeat(np.arange(5), COUNTS)
    weights = compute_class_weight('balanced', classes=np.arange(5), y=labels)
    with jax.enable_x64(True):
        logits, targets = jnp.asarray(data['logits']), jnp.asarray(data['targets_soft'])
        found, expected = (
            losses.create(lambda: COUNTS, class_weights=given)(logits, targets)
            for given in ('balanced', tuple(weights.tolist()))
        )
    assert_within(found, np.asarray(expected), 1e-14, 'balanced')


@pytest.mark.parametrize('amount', [-0.1, 1.0, 1.5, NAN])
def test_smoothing_out_of_range_is_refused(amount):
    """Smoothing is in [0, 1); an unknown loss is named with what there is."""
    with pytest.raises(ValueError, match=f'^config.loss.label_smoothing={amount}: '):
        losses.create(label_smoothing=amount)
    with pytest.raises(ValueError, match=r"unknown loss 'sofmax'; did you mean 'softmax'\?"):
        losses.create(name='sofmax')


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'binary', 'threshold': 1.5}, r'config.loss.threshold=1.5: in \[0, 1\), or None'),
        ({'name': 'binary', 'threshold': -0.1}, r'config.loss.threshold=-0.1: '),
        ({'name': 'binary', 'reduction': 'max'}, r"config.loss.reduction 'max'.*known: mean, sum"),
        ({'name': 'binary', 'label_smoothing': 1.0}, r'config.loss.label_smoothing=1.0: '),
        ({'name': 'focal', 'gamma': -1.0}, r'config.loss.gamma=-1.0: '),
        ({'name': 'focal', 'alpha': 1.0}, r'config.loss.alpha=1.0: in \(0, 1\), or None'),
        ({'class_weights': (1.0, 2.0)}, r'config.loss.class_weights: 2 weights for 5 classes'),
        ({'class_weights': (1.0, 2.0, 1.0, 1.0, -1.0)}, r'weights must be finite and not neg'),
        ({'class_weights': 'balance'}, r"class_weights 'balance'; did you mean 'balanced'\?"),
    ],
)
def test_a_loss_that_cannot_be_is_an_error(section: dict[str, Any], message: str) -> None:
    """Thresholds, factors and weights that make no sense are refused at their place."""
    with pytest.raises(ValueError, match=message):
        losses.create(lambda: COUNTS, **section)(jnp.zeros((2, 5)), jnp.ones((2, 5)) / 5)


def test_a_class_without_examples_cannot_be_balanced() -> None:
    """Its weight would be infinite: the error says which class it is."""
    with pytest.raises(ValueError, match=r"class_weights='balanced': class 2 has no training"):
        losses.create(lambda: np.array([3, 1, 0, 5]), class_weights='balanced')

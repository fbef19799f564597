"""Losses and distillation against torch, torchvision, timm and scikit-learn, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from jcls.training import distill, losses

Golden = Callable[[str], Any]
COUNTS = np.array([10, 3, 7, 1, 29])

WEIGHTS = {'class_weights': (0.5, 2.0, 1.0, 0.0, 3.0)}
SMOOTH = {'label_smoothing': 0.1}
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
DISTILLATIONS: dict[str, dict[str, Any]] = {
    'soft': {'name': 'soft'},
    'soft_cool': {'name': 'soft', 'temperature': 0.5},
    'soft_warm': {'name': 'soft', 'temperature': 4.0},
    'hard': {'name': 'hard'},
}


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


def assert_within(found: Any, expected: np.ndarray, tolerance: float, what: object) -> None:
    """Relative to the largest number."""
    error = np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f'{what}: {error:.2e}'


def assert_same(
    loss: Callable[..., jax.Array], names: tuple[str, ...], case: str, data: dict[str, np.ndarray]
) -> None:
    """Of the logits and the arrays of these names: values, their mean (the focal loss's sum) and
    the gradient, in float64 to 1e-12 and in float32 to 1e-6."""
    for wide, tolerance in ((True, 1e-12), (False, 1e-6)):
        with jax.enable_x64(wide):
            logits, *others = (jnp.asarray(data[name]) for name in ('logits', *names))
            found = jax.jit(loss)(logits, *others)
            assert (found.shape, found.dtype) == ((6,), logits.dtype)
            assert_within(found, data[f'loss_{case}'], tolerance, case)
            whole = found.sum() if case.startswith('focal') else found.mean()
            assert_within(whole, data[f'batch_{case}'], tolerance, (case, 'batch'))
            slope = jax.grad(lambda *given: loss(*given).sum())(logits, *others)
            assert_within(slope, data[f'gradient_{case}'], tolerance, (case, 'gradient'))


@pytest.mark.parametrize('case', LOSSES)
def test_losses_are_the_peer_s(case: str, data: dict[str, np.ndarray]) -> None:
    """Of every example and in the mean, with their gradients: torch's cross-entropy, timm's
    BinaryCrossEntropy (of targets that its Mixup smoothed; a target at the threshold is none) and
    torchvision's focal loss, for labels and mixed targets, smoothed, weighted, with a threshold."""
    section = dict(LOSSES[case])
    kind = section.pop('target', case.split('_')[1])
    loss = losses.create(lambda: COUNTS, **section)
    assert_same(loss, (f'targets_{kind}',), case, data)


@pytest.mark.parametrize('case', DISTILLATIONS)
def test_distillation_is_timm_s(case: str, data: dict[str, np.ndarray]) -> None:
    """0.7 of the smoothed cross-entropy and 0.3 of the teacher's part, soft at three temperatures
    and hard, are what timm's task gives."""
    loss = losses.create(lambda: COUNTS, **SMOOTH)
    made = distill.create(teacher='somewhere', weight=0.3, **DISTILLATIONS[case])
    assert made is not None

    def combined(logits: jax.Array, targets: jax.Array, teacher: jax.Array) -> jax.Array:
        return made.combine(loss(logits, targets), logits, teacher)

    assert_same(combined, ('targets_soft', 'teacher'), f'distill_{case}', data)


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


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'soft', 'temperature': 0.0}, r'config.distill.temperature=0.0: must be positive'),
        ({'name': 'hard', 'weight': 1.5}, r'config.distill.weight=1.5: must be in \[0, 1\]'),
        ({'name': 'sof'}, r"unknown distill 'sof'; did you mean 'soft'\?"),
    ],
)
def test_a_distillation_that_cannot_be_is_an_error(section: dict[str, Any], message: str) -> None:
    """Weights and temperatures out of range are refused."""
    with pytest.raises(ValueError, match=message):
        distill.create(teacher='somewhere', **section)

"""Optimizers move parameters as NumPy, optax and the peers do, at rates that suit the batch."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import Golden, assert_within
from helpers.optim import parameters
from jcls.optim import optimizer


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


# Update rules, applied as the training step applies them: p <- p - lr * direction.


def gradient(params: Any, step: int) -> Any:
    """Some gradient that depends on the parameters and on the step."""
    return jax.tree.map(
        lambda p: 0.3 * p + np.sin(np.arange(p.size) + step).reshape(p.shape), params
    )


def lr_of(step: int) -> float:
    return 0.1 + 0.05 * math.cos(step)


def by_jcls(direction: optax.GradientTransformation, steps: int = 20) -> Any:
    params = jax.tree.map(jnp.asarray, parameters())
    state = direction.init(params)
    for i in range(steps):
        found, state = direction.update(gradient(params, i), state, params)
        lr = lr_of(i)
        params = jax.tree.map(lambda p, d, lr=lr: p - lr * d, params, found)
    return params


def by_hand(*, m: float, nesterov: bool, w: float, decay: str, multiplier: Any) -> Any:
    """torch.optim.SGD's recursion, with coupled or decoupled decay, in NumPy."""
    params, buffers = parameters(), None
    for i in range(20):
        g = gradient(params, i)
        if decay == 'coupled':
            g = jax.tree.map(lambda g, p, k: g + w * k * p, g, params, multiplier)
        buffers = g if buffers is None else jax.tree.map(lambda b, g: m * b + g, buffers, g)
        d = jax.tree.map(lambda g, b: g + m * b, g, buffers) if nesterov else buffers
        if decay == 'decoupled':
            d = jax.tree.map(lambda d, p, k: d + w * k * p, d, params, multiplier)
        lr = lr_of(i)
        params = jax.tree.map(lambda p, d, lr=lr: p - lr * d, params, d)
    return params


def decayed(exempt: tuple[str, ...]) -> Any:
    """1 for the parameters that decay, 0 for those with one of `exempt` in their path."""

    def value(keys: Any, _: Any) -> float:
        return float(not any(part in jax.tree_util.keystr(keys) for part in exempt))

    return jax.tree_util.tree_map_with_path(value, parameters())


@pytest.mark.parametrize('decay', ['decoupled', 'coupled'])
@pytest.mark.parametrize(('m', 'nesterov'), [(0.0, False), (0.9, False), (0.9, True), (0.5, True)])
def test_sgd_follows_its_recursion(m, nesterov, decay):
    """Twenty steps of changing rates agree with NumPy to 1e-12 (float64) and 1e-5 (float32)."""
    fields = {'weight_decay': 0.2, 'decay': decay, 'momentum': m, 'nesterov': nesterov}
    expected = by_hand(m=m, nesterov=nesterov, w=0.2, decay=decay, multiplier=decayed(('norm',)))
    for wide, tolerance in ((True, 1e-12), (False, 1e-5)):
        with jax.enable_x64(wide):
            found = by_jcls(optimizer.create(256, **fields).direction)
        for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert leaf.dtype == ('float64' if wide else 'float32')
            np.testing.assert_allclose(leaf, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('decay', ['decoupled', 'coupled'])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_agrees_with_optax(decay, nesterov):
    """Coupled is add_decayed_weights before optax.sgd, decoupled the order of optax.adamw."""
    mask = jax.tree.map(bool, decayed(('norm', 'bias')))
    rules = ((optimizer.NORM, 0.0), ('head/bias', 0.0), ('.*', 1.0))
    weights = optax.add_decayed_weights(0.2, mask)
    trace = optax.trace(0.9, nesterov)
    with jax.enable_x64(True):
        fields = {'weight_decay': 0.2, 'decay': decay, 'nesterov': nesterov, 'decay_groups': rules}
        found = by_jcls(optimizer.create(256, **fields).direction)
        lrs = jnp.asarray([lr_of(i) for i in range(20)])
        scale = optax.scale_by_learning_rate(lambda count: lrs[count])
        coupled = optax.chain(weights, optax.sgd(lambda count: lrs[count], 0.9, nesterov))
        other = coupled if decay == 'coupled' else optax.chain(trace, weights, scale)
        params = jax.tree.map(jnp.asarray, parameters())
        state = other.init(params)
        for i in range(20):
            updates, state = other.update(gradient(params, i), state, params)
            params = optax.apply_updates(params, updates)
    for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-12, atol=1e-12)


def test_coupled_decay_acts_like_a_larger_decoupled_one():
    """Without gradients, coupled w and decoupled w / (1 - momentum) shrink about alike."""

    def size_after(steps: int, decay: str, w: float) -> float:
        direction = optimizer.create(256, weight_decay=w, decay=decay, decay_groups=(('.*', 1.0),))[
            0
        ]
        p, zero = jnp.float32(1.0), jnp.float32(0.0)
        state = direction.init(p)
        for _ in range(steps):
            d, state = direction.update(zero, state, p)
            p = p - 0.01 * d
        return float(p)

    coupled, decoupled = size_after(300, 'coupled', 0.02), size_after(300, 'decoupled', 0.2)
    assert coupled == pytest.approx(decoupled, rel=0.03)
    assert decoupled == pytest.approx((1 - 0.01 * 0.2) ** 300, rel=1e-4)


# The peers' updates

SHAPES = {
    'head/bias': (3,),
    'head/kernel': (4, 3),
    'stage1_block1/conv1/kernel': (3, 3, 2, 4),
    'stage1_block1/norm1/bias': (4,),
    'stage1_block1/norm1/scale': (4,),
}
RULES = (
    ('head/kernel', 2.0),
    ('stage1_block1/norm1/scale', 0.5),
    ('stage1_block1/conv.*', 0.1),
    ('.*', 1.0),
)
TV_RMSPROP = {'rho': 0.9, 'epsilon': 0.0316, 'momentum': 0.9}

# The peer's case: the peak rate and the section, besides a decay of 0.05 that is coupled.
OPTIMIZERS: dict[str, tuple[float, dict[str, Any]]] = {
    'sgd': (0.1, {'name': 'sgd', 'momentum': 0.0}),
    'sgd_momentum': (0.02, {'name': 'sgd'}),
    'sgd_nesterov': (0.02, {'name': 'sgd', 'nesterov': True}),
    'sgd_decoupled': (0.02, {'name': 'sgd', 'decay': 'decoupled'}),
    'rmsprop': (0.01, {'name': 'rmsprop'}),
    'rmsprop_momentum': (0.01, {'name': 'rmsprop', **TV_RMSPROP}),
    'rmsprop_tf': (0.01, {'name': 'rmsprop_tf'}),
    'rmsprop_tf_decoupled': (0.01, {'name': 'rmsprop_tf', 'decay': 'decoupled'}),
    'adam': (0.05, {'name': 'adam'}),
    'adamw': (0.05, {'name': 'adamw', 'decay': 'decoupled', 'b1': 0.8, 'b2': 0.99}),
    'adadelta': (1.0, {'name': 'adadelta'}),
    'lamb': (0.05, {'name': 'lamb', 'decay': 'decoupled'}),
    'lamb_unclipped': (0.05, {'name': 'lamb', 'decay': 'decoupled', 'max_norm': None}),
    'lars': (0.1, {'name': 'lars'}),
    'lars_nesterov': (0.1, {'name': 'lars', 'momentum': 0.8, 'nesterov': True, 'trust': 0.05}),
    'clip_norm': (0.1, {'name': 'sgd', 'clip_norm': 1.0}),
    'adaptive_clip': (0.1, {'name': 'sgd', 'adaptive_clip': 0.1}),
    'rates_sgd': (0.02, {'name': 'sgd', 'lr_groups': RULES}),
    'rates_rmsprop_tf': (0.01, {'name': 'rmsprop_tf', 'lr_groups': RULES}),
    'rates_lamb': (0.05, {'name': 'lamb', 'decay': 'decoupled', 'lr_groups': RULES}),
}
# torch divides by the norm plus 1e-6; where it clips, its gradients are so much smaller.
TOLERANCES = {'clip_norm': 1e-6}


def tree_of(values: np.ndarray) -> dict[str, Any]:
    """The parameters of all values [P], as a model has them."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    tree: dict[str, Any] = {}
    for (name, shape), part in zip(SHAPES.items(), np.split(values, ends[:-1]), strict=True):
        *parents, leaf = name.split('/')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = part.reshape(shape)
    return tree


def values_of(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def peer_gradient(values: np.ndarray, target: np.ndarray, step: int) -> np.ndarray:
    """As make_recipes.py has it."""
    away = values - target
    noise = (37 * np.arange(away.size) + 61 * step) % 97 / 97 - 0.5
    found = (0.03, 0.3, 2.0)[step % 3] * (away + away / (1 + away * away) + noise)
    return found * ((step != 4) | (np.arange(away.size) >= 3))


def peer_rate(step: int) -> float:
    return (step + 1) / 10 if step < 10 else 1 - 0.9 * (step - 9) / 40


@pytest.mark.parametrize('case', OPTIMIZERS)
def test_updates_are_the_peer_s(case: str, data: dict[str, np.ndarray]) -> None:
    """Fifty updates at changing rates move every parameter as torch's and timm's optimizers do, a
    head's bias that starts as zero, a gradient that is zero once, and exempt parameters too."""
    peak, section = OPTIMIZERS[case]
    section = {'decay': 'coupled', 'weight_decay': 0.05, 'reference_batch': None} | section
    with jax.enable_x64(True):
        made = optimizer.create(256, lr=peak, **section)

        @jax.jit
        def update(gradients: Any, state: Any, params: Any, lr: Any) -> tuple[Any, Any]:
            found, state = made.direction.update(gradients, state, params, lr=lr)
            return jax.tree.map(lambda p, d: p - lr * d, params, found), state

        params = jax.tree.map(jnp.asarray, tree_of(data['initial']))
        state = made.direction.init(params)
        for step in range(50):
            slope = tree_of(peer_gradient(values_of(params), data['target'], step))
            params, state = update(slope, state, params, made.peak * peer_rate(step))
            for expected in data[f'optimizer_{case}'][data['updates'] == step + 1]:
                for found, wanted in zip(
                    jax.tree.leaves(params), jax.tree.leaves(tree_of(expected)), strict=True
                ):
                    assert_within(found, wanted, TOLERANCES.get(case, 1e-12), (case, step))


# The section


def test_the_rate_is_scaled_linearly_from_its_reference_batch():
    """lr is stated for a batch of reference_batch; None leaves it as it is."""
    assert optimizer.create(256).peak == 0.1
    assert optimizer.create(1024, lr=0.1, reference_batch=256).peak == pytest.approx(0.4, rel=1e-15)
    assert optimizer.create(32, lr=0.5, reference_batch=1024).peak == 0.5 / 32
    assert optimizer.create(8192, lr=0.3, reference_batch=None).peak == 0.3


def test_the_rate_may_follow_the_root_of_the_batch():
    """'sqrt' is timm's for adaptive optimizers: half the batch, 0.707 of the rate."""
    made = optimizer.create(1024, lr=5e-3, reference_batch=2048, scaling='sqrt')
    assert made.peak == pytest.approx(5e-3 * 0.5**0.5, rel=1e-15)


@pytest.mark.parametrize(
    ('examples', 'rate'),
    [
        (1, 1e-3),
        (1_000, 1e-3),
        (10_000, 10**-2.5),
        (31_623, 10**-2.25),
        (10**5, 1e-2),
        (10**7, 1e-2),
    ],
)
def test_the_rate_by_dataset_size(examples, rate):
    """0.001 up to 1,000 images, 0.01 from 100,000 on, by the logarithm in between; for 256."""
    made = optimizer.create(64, None, examples, lr='by_dataset_size')
    assert made.peak == pytest.approx(rate / 4, rel=1e-5)
    with pytest.raises(ValueError, match=r"unknown config.optimizer.lr 'by_size'"):
        optimizer.create(64, None, examples, lr='by_size')


@pytest.mark.parametrize(
    ('field', 'values'),
    [
        ('lr', [0.0, -0.1, math.nan, math.inf]),
        ('reference_batch', [0, -256]),
        ('weight_decay', [-1e-4, math.nan, math.inf]),
        ('momentum', [1.0, -0.1, math.nan]),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_its_place(field, values):
    """Rates, decays and momenta out of their range are errors that name the field and the value."""
    for value in values:
        with pytest.raises(ValueError, match=f'^config.optimizer.{field}={value}: '):
            optimizer.create(256, **{field: value})
    with pytest.raises(ValueError, match=r"'sgdd'; did you mean 'sgd'\?"):
        optimizer.create(256, name='sgdd')
    with pytest.raises(
        ValueError, match=r"config.optimizer.decay 'couple'; did you mean 'coupled'"
    ):
        optimizer.create(256, decay='couple', weight_decay=0.0)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'lars'}, r"config.optimizer.decay='decoupled': .* set decay='coupled'"),
        (
            {'name': 'adamw', 'decay': 'coupled'},
            r"config.optimizer.decay='coupled': .* name='adam'",
        ),
        ({'lr_groups': (('.*', 0.0),)}, r"config.optimizer.lr_groups: \('\.\*', 0.0\): .* freeze"),
        ({'lr_groups': (('a', 1.0), ('.*', -1.0))}, r'config.optimizer.lr_groups: .*, -1.0\): '),
        ({'layer_decay': 0.0}, r'config.optimizer.layer_decay=0.0: '),
        ({'clip_norm': 0.0}, r'config.optimizer.clip_norm=0.0: must be positive'),
        ({'adaptive_clip': -0.1}, r'config.optimizer.adaptive_clip=-0.1: must be positive'),
        ({'name': 'lamb', 'max_norm': 0.0}, r'config.optimizer.max_norm=0.0: '),
        ({'name': 'adam', 'b2': 1.0}, r'config.optimizer.b2=1.0: must be in \[0, 1\)'),
        ({'name': 'rmsprop', 'epsilon': 0.0}, r'config.optimizer.epsilon=0.0: must be positive'),
        ({'scaling': 'square'}, r"config.optimizer.scaling 'square'; did you mean 'sqrt'\?"),
    ],
)
def test_an_optimizer_that_cannot_be_is_an_error(section: dict[str, Any], message: str) -> None:
    """Decay at the wrong place, a rate of nothing and numbers out of range are refused at once."""
    with pytest.raises(ValueError, match=message):
        optimizer.create(256, **section)

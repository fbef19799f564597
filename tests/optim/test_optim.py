"""Schedules in closed form, SGD against recursions written out here, groups by their rules."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.nets import to_steps
from jcls import models
from jcls.optim import groups, optimizer, schedule

TOTAL, WARMUP = 600 * 1251, 5 * 1251  # torchvision's 600 epochs of 1251 steps
RULES = ((optimizer.NORM, 0.0), ('.*', 1.0))


def rates(peak: float, total: int, steps: Any = None, **section: Any) -> np.ndarray:
    """The schedule at `steps` (all), compiled as the training step compiles it: int32 scalars."""
    steps = jnp.arange(total) if steps is None else jnp.asarray(steps)
    found = jax.jit(jax.vmap(schedule.create(peak, total, to_steps, **section)))(steps)
    return np.asarray(found)


def cosine_reference(start: float, end: float) -> np.ndarray:
    """Warm-up and cosine over the whole horizon, as fractions of the peak, in float64."""
    steps = np.arange(TOTAL)
    t = (steps - WARMUP) / (TOTAL - WARMUP)
    left = (TOTAL - steps) / (TOTAL - WARMUP)
    usual, half_angle = 0.5 * (1 + np.cos(np.pi * t)), np.sin(np.pi / 2 * left) ** 2
    # The usual form loses all relative precision near its end even in float64: there the half
    # angle, the same number, is the reference.
    np.testing.assert_allclose(usual, half_angle, rtol=0, atol=1e-15)
    cosine = np.where(usual > 1e-3, usual, half_angle)
    return np.where(steps < WARMUP, start + (1 - start) * steps / WARMUP, end + (1 - end) * cosine)


@pytest.mark.parametrize(('start', 'end'), [(0.01, 0.0), (0.0, 0.0), (0.0, 0.001), (1.0, 1.0)])
def test_warmup_and_cosine_follow_their_closed_form(start, end):
    """In float32, every one of 750,600 steps is within 1e-6 of the float64 table, the last too."""
    section = {'name': 'cosine', 'warmup': f'{WARMUP} steps', 'warmup_start': start, 'end': end}
    found, expected = rates(0.5, TOTAL, **section), 0.5 * cosine_reference(start, end)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
    assert found[WARMUP] == 0.5
    assert found[-1] > 0
    eager = schedule.create(0.5, TOTAL, to_steps, **section)
    for step in (0, 1, WARMUP - 1, WARMUP, TOTAL // 2, TOTAL - 1):
        np.testing.assert_allclose(eager(step), expected[step], rtol=1e-6)
        np.testing.assert_allclose(eager(jnp.int32(step)), expected[step], rtol=1e-6)


def test_a_schedule_has_the_published_values():
    """torchvision's 0.5, 5 of 600 epochs from 0.01: its rates at epochs 0 to 5 and 599."""
    section = {'warmup': '5 steps', 'warmup_start': 0.01}
    expected = [0.005, 0.104, 0.203, 0.302, 0.401, 0.5, 0.49999652, 3.4848e-6]
    found = rates(0.5, 600, [0, 1, 2, 3, 4, 5, 6, 599], **section)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_schedule_is_as_precise_as_its_step():
    """Under jax_enable_x64 it is float64 and exact to 1e-12, of the state's int32 step, too."""
    with jax.enable_x64(True):
        steps = np.arange(TOTAL, dtype=np.int32)
        found = rates(0.5, TOTAL, steps, warmup=f'{WARMUP} steps', warmup_start=0.01)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 0.5 * cosine_reference(0.01, 0.0), rtol=1e-12)


def test_a_constant_rate_is_the_peak_after_the_warmup():
    """'constant' is 1 throughout; without a warm-up the first step has the peak already."""
    np.testing.assert_array_equal(rates(0.25, 9, name='constant'), np.full(9, 0.25, np.float32))
    warmed = rates(0.25, 9, name='constant', warmup='4 steps')
    np.testing.assert_allclose(warmed, 0.25 * np.minimum(np.arange(9) / 4, 1), rtol=1e-7)
    assert rates(0.25, 9)[0] == np.float32(0.25)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'warmup': '10 steps'}, r"config.schedule.warmup='10 steps' is 10 steps, .* has 10"),
        ({'warmup': '11 steps'}, r'shorten the warm-up or lengthen config.duration'),
        ({'warmup_start': -0.1}, r'config.schedule.warmup_start=-0.1'),
        ({'warmup_start': 1.1}, r'config.schedule.warmup_start=1.1'),
        ({'end': -0.1}, r'config.schedule.end=-0.1'),
        ({'end': 1.5}, r'config.schedule.end=1.5'),
        ({'end': math.nan}, r'config.schedule.end=nan'),
        ({'name': 'cosin'}, r"unknown schedule 'cosin'; did you mean 'cosine'\?"),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error(section, message):
    """A warm-up of the whole run, and fractions outside [0, 1], are refused at their place."""
    with pytest.raises(ValueError, match=message):
        schedule.create(0.5, 10, to_steps, **section)


# The optimizer. `step` below is the training step's own: p <- p - lr * direction.


def parameters() -> dict[str, Any]:
    """Paths as a model has them, with random values (float64)."""
    draw = np.random.default_rng(0).normal
    norm = {'scale': draw(size=3), 'bias': draw(size=3)}
    return {
        'stem': {'conv1': {'kernel': draw(size=(2, 3))}, 'norm1': norm},
        'stage1_block1': {'shortcut_norm': {k: draw(size=3) for k in norm}},
        'head': {'kernel': draw(size=(3, 2)), 'bias': draw(size=2)},
    }


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


# Groups


def shapes(name: str) -> Any:
    model = models.create(name)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']


@pytest.mark.parametrize('name', ['resnet20', 'resnet18', 'resnet50', 'resnet50d'])
def test_by_default_exactly_the_norm_parameters_are_spared(name):
    """Zero for scale and bias of every module that has a scale, one for all else, head bias too."""

    def spared(tree: Any) -> Any:
        rest = {k: spared(v) for k, v in tree.items() if isinstance(v, dict)}
        leaves = [k for k in tree if k not in rest]
        return rest | dict.fromkeys(leaves, 0.0 if 'scale' in tree else 1.0)

    params = shapes(name)
    found = groups.assign(params, RULES, 'x')
    assert found == spared(params)
    assert found['head'] == {'kernel': 1.0, 'bias': 1.0}
    optimizer.create(256).direction.init(params)


def test_the_first_rule_that_matches_wins_and_must_match_all():
    """Order decides, a pattern is for the whole path, and a recipe can spare biases as well."""
    rules = (('head/bias', 0.5), ('head/.*', 2.0), (optimizer.NORM, 0.0), ('.*', 1.0))
    found = groups.assign(parameters(), rules, 'x')
    assert found['head'] == {'kernel': 2.0, 'bias': 0.5}
    assert found['stem'] == {'conv1': {'kernel': 1.0}, 'norm1': {'scale': 0.0, 'bias': 0.0}}
    assert found['stage1_block1'] == {'shortcut_norm': {'scale': 0.0, 'bias': 0.0}}


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ((('head/.*', 1.0),), r"no rule covers 'stage1_block1/shortcut_norm/bias'; end the rules"),
        ((), r'no rule covers'),
        ((('haed/.*', 0.0), ('.*', 1.0)), r"'haed/\.\*' decides about no parameter"),
        ((('bias', 0.0), ('.*', 1.0)), r"'bias' decides about no parameter"),
        ((('head', 0.0), ('.*', 1.0)), r"'head' decides about no parameter"),
        ((('.*', 1.0), ('head/bias', 0.0)), r"'head/bias' decides about no parameter"),
        ((('(', 0.0), ('.*', 1.0)), r"'\(' is not a regular expression"),
    ],
)
def test_wrong_rules_are_errors_before_any_step(rules, message):
    """An uncovered parameter, an idle rule and a bad pattern show when the state is made."""
    direction = optimizer.create(256, decay_groups=rules).direction
    with pytest.raises(ValueError, match=f'^config.optimizer.decay_groups: {message}'):
        direction.init(parameters())


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


def test_restarts_that_decay_below_their_end_stay_there():
    """No cycle begins below `end` and climbs: from then on the rate is level."""
    section = {'name': 'cosine_restarts', 'cycle': '10 steps', 'restart_decay': 0.5, 'end': 0.1}
    found = rates(1.0, 60, **section)
    np.testing.assert_allclose(found[[0, 10, 20, 30]], [1, 0.5, 0.25, 0.125], rtol=1e-6)
    np.testing.assert_allclose(found[40:], 0.1, rtol=1e-6)
    cycles = found.reshape(6, 10)
    assert (np.diff(cycles, axis=1) <= 1e-7).all()


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

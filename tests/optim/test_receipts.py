"""Updates, rates, averages and groups against torch, torchvision and timm (golden/recipes.npz)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcls
from jcls import models
from jcls.config import horizon
from jcls.config.schema import plain
from jcls.optim import ema, groups, optimizer, schedule

Golden = Callable[[str], Any]


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


def assert_within(found: Any, expected: np.ndarray, tolerance: float, what: object) -> None:
    """Relative to the largest number."""
    error = np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f'{what}: {error:.2e}'


# Optimizers

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


def gradient(values: np.ndarray, target: np.ndarray, step: int) -> np.ndarray:
    """As make_recipes.py has it."""
    away = values - target
    noise = (37 * np.arange(away.size) + 61 * step) % 97 / 97 - 0.5
    found = (0.03, 0.3, 2.0)[step % 3] * (away + away / (1 + away * away) + noise)
    return found * ((step != 4) | (np.arange(away.size) >= 3))


def rate(step: int) -> float:
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
            slope = tree_of(gradient(values_of(params), data['target'], step))
            params, state = update(slope, state, params, made.peak * rate(step))
            for expected in data[f'optimizer_{case}'][data['updates'] == step + 1]:
                for found, wanted in zip(
                    jax.tree.leaves(params), jax.tree.leaves(tree_of(expected)), strict=True
                ):
                    assert_within(found, wanted, TOLERANCES.get(case, 1e-12), (case, step))


# Schedules

COSINE_TV = {'warmup': '5 epochs', 'warmup_start': 0.01}
COSINE_TIMM = {'warmup': '5 epochs', 'warmup_start': 0.02}
EARLY = {'after_warmup': False}
CYCLES = {'name': 'cosine_restarts', 'cycle': '8 epochs', 'end': 2e-4}
WARMED_CYCLES = {'warmup': '3 epochs', 'warmup_start': 0.02, **EARLY}
MILESTONES = ('25 epochs', '50 epochs', '75 epochs')

# The peer's case: the peak rate, and the section besides every='1 epoch'.
SCHEDULES: dict[str, tuple[float, dict[str, Any]]] = {
    'torchvision': (0.5, {'name': 'cosine', **COSINE_TV}),
    'torchvision_end': (0.5, {'name': 'cosine', **COSINE_TV, 'end': 0.01}),
    'torchvision_constant': (0.1, {'name': 'step', **COSINE_TV, 'warmup_shape': 'constant'}),
    'step': (0.1, {'name': 'step', 'interval': '30 epochs', 'gamma': 0.1}),
    'multi_step': (0.1, {'name': 'multi_step', 'milestones': MILESTONES, 'gamma': 0.2}),
    'polynomial': (0.3, {'name': 'polynomial', 'power': 2.5}),
    'exponential': (0.1, {'name': 'exponential', 'gamma': 0.97}),
    'linear': (0.1, {'name': 'linear', 'end': 0.2}),
    'restarts': (0.1, {'name': 'cosine_restarts', 'cycle': '10 epochs'}),
    'restarts_stretched': (
        0.1,
        {'name': 'cosine_restarts', 'cycle': '10 epochs', 'stretch': 2.0, 'end': 0.01},
    ),
    'timm_cosine': (5e-3, {**COSINE_TIMM, **EARLY}),
    'timm_cosine_end': (5e-3, {**COSINE_TIMM, **EARLY, 'end': 2e-4}),
    'timm_cosine_prefix': (5e-3, COSINE_TIMM),
    'timm_cosine_prefix_end': (5e-3, {**COSINE_TIMM, 'end': 2e-4}),
    'timm_cycles': (5e-3, {**CYCLES, 'restart_decay': 0.5}),
    'timm_cycles_stretched': (5e-3, {**CYCLES, 'restart_decay': 0.5, 'stretch': 2.0}),
    'timm_cycles_warmed': (
        5e-3,
        {**CYCLES, **WARMED_CYCLES, 'restart_decay': 0.8, 'stretch': 1.5},
    ),
    'timm_polynomial': (5e-3, {'name': 'polynomial', 'power': 0.9, **COSINE_TIMM, **EARLY}),
    'timm_step': (5e-3, {'name': 'step', 'warmup': '5 epochs', **EARLY}),
}


@pytest.mark.parametrize('case', SCHEDULES)
def test_rates_are_the_peer_s(case: str, data: dict[str, np.ndarray]) -> None:
    """The first and the last of the seven steps of every epoch have the rate that the schedulers of
    torch and timm have for the epoch: in float32 to 1e-6 of itself, in float64 to 1e-12."""
    peak, section = SCHEDULES[case]
    expected = data[f'schedule_{case}']
    length = horizon.create_horizon(f'{len(expected)} epochs', 8, 8 * 7)
    first = 7 * np.arange(len(expected))
    for wide in (False, True):
        with jax.enable_x64(wide):
            made = schedule.create(peak, length.total, length.steps, every='1 epoch', **section)
            found = np.asarray(jax.jit(jax.vmap(jax.vmap(made)))(jnp.asarray([first, first + 6])))
        assert found.dtype == (np.float64 if wide else np.float32)
        assert_within(found, expected, 1e-12 if wide else 1e-6, case)
        # torch reaches each rate from the one before, so that its last are less exact.
        np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6, atol=1e-12 * peak)


def test_every_recipe_s_rate_is_its_source_s(data: dict[str, np.ndarray]) -> None:
    """At the first step of each epoch of every shipped ImageNet and CIFAR recipe, the schedule that
    the step applies has the rate that torch's or timm's scheduler has there, in float32."""
    cases = {key.removeprefix('recipe_'): rates for key, rates in data.items() if 'recipe_' in key}
    covered = {case.split(':')[0] for case in cases}
    shipped = {file.name for file in (Path(jcls.__file__).parent.parent / 'configs').glob('*.py')}
    # finetune.py has no source to agree with; mmpretrain's tutorial is in closed form below.
    own = {'quickstart.py', 'finetune.py', 'finetune_cifar10.py'}
    assert covered == shipped - {'base.py', 'rsb.py'} - own
    for case, expected in cases.items():
        c = plain(jcls.load_config(f'configs/{case}'))
        length = horizon.create_horizon(c['duration'], c['batch_size'], c['reference']['examples'])
        peak = optimizer.create(c['batch_size'], **c['optimizer']).peak
        made = schedule.create(peak, length.total, length.steps, **c['schedule'])
        first = np.arange(len(expected)) * length.steps_per_epoch
        assert first[-1] + length.steps_per_epoch == length.total
        found = jax.jit(jax.vmap(made))(jnp.asarray(first))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12 * peak, err_msg=case)


def test_the_tutorial_s_rate_is_its_two_steps() -> None:
    """mmpretrain's MultiStepLR(milestones=[15], gamma=0.1) on 0.01, held for 200 epochs."""
    c = plain(jcls.load_config('configs/finetune_cifar10.py'))
    length = horizon.create_horizon(c['duration'], c['batch_size'], 50_000)
    made = schedule.create(
        optimizer.create(c['batch_size'], **c['optimizer']).peak,
        length.total,
        length.steps,
        **c['schedule'],
    )
    first = np.arange(200) * length.steps_per_epoch
    found = jax.jit(jax.vmap(made))(jnp.asarray(first))
    np.testing.assert_allclose(found, [0.01] * 15 + [0.001] * 185, rtol=1e-6)


# Averages of weights

# The peer's case: batch, steps in an epoch, epochs, epochs of warming up, and the section.
TV, TIMM = {'name': 'torchvision'}, {'name': 'timm'}
EMAS: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    'torchvision': (1024, 100, 600, 0, TV),
    'torchvision_warmup': (1024, 100, 600, 1, TV),
    'torchvision_fast': (1024, 100, 4, 0, TV),
    'torchvision_short': (256, 7, 30, 0, {**TV, 'every': 3}),
    'torchvision_short_warmup': (256, 7, 30, 5, {**TV, 'every': 3}),
    'torchvision_every_step': (8192, 9, 40, 1, {**TV, 'every': 1}),
    'torchvision_copies': (65536, 70, 3, 0, TV),
    'timm': (1024, 100, 600, 0, TIMM),
    'timm_fast': (64, 7, 30, 3, {**TIMM, 'decay': 0.9}),
    'timm_warmup': (1024, 100, 600, 0, {**TIMM, 'warmup': True}),
    'timm_warmup_fast': (64, 7, 30, 3, {**TIMM, 'decay': 0.9, 'warmup': True}),
}


@pytest.mark.parametrize('case', EMAS)
def test_averages_are_the_peer_s(case: str, data: dict[str, np.ndarray]) -> None:
    """After each of 200 steps parameters and statistics are averaged as by torchvision's reference
    and timm's ModelEmaV3: when, how much, and when copied; whatever the average was at first."""
    batch, steps, epochs, warmup, section = EMAS[case]
    run = ema.Run(batch, steps, steps * epochs, steps * warmup)
    average = ema.create(run, **section)
    assert average is not None
    for wide, tolerance in ((False, 1e-6), (True, 1e-12)):
        with jax.enable_x64(wide):

            def body(old: Any, new: Any) -> tuple[Any, Any]:
                values, step = new
                tree = {'params': values[:3], 'batch_stats': values[3:]}
                found = average.update(old, tree, step)
                return found, jnp.concatenate([found['params'], found['batch_stats']])

            start = {'params': jnp.full(3, 9.0), 'batch_stats': jnp.full(2, 9.0)}
            given = jnp.asarray(data['weights']), jnp.arange(200)
            found = np.asarray(jax.jit(lambda a, b: jax.lax.scan(body, a, b))(start, given)[1])
        assert found.dtype == (np.float64 if wide else np.float32)
        for step, (mine, other) in enumerate(zip(found, data[f'ema_{case}'], strict=True)):
            assert_within(mine, other, tolerance, (case, step))


def test_the_published_decay() -> None:
    """8 x 128 images, 32 steps, 0.99998 and 600 epochs of 1252 steps: 0.99890773 an update."""
    run = ema.Run(8 * 128, 1252, 600 * 1252, 5 * 1252)
    average = ema.create(run, name='torchvision')
    assert average is not None
    assert (round(average.decay, 8), average.every) == (0.99890773, 32)


# Groups


def shapes(name: str) -> Any:
    model = models.create(name)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']


def path_of(name: str) -> str:
    """The path of a parameter that torchvision and timm call this."""
    *parts, leaf = name.split('.')
    if parts[0] == 'fc':
        return f'head/{"kernel" if leaf == "weight" else leaf}'
    block = 'stem'
    if stage := re.match(r'layer(\d)\.(\d+)\.', name):
        block, parts = f'stage{stage[1]}_block{int(stage[2]) + 1}', parts[2:]
    if parts[0] == 'downsample':
        module = ('shortcut_conv', 'shortcut_norm')[int(parts[1])]
    else:
        module = parts[0].replace('bn', 'norm')
    weight = 'scale' if 'norm' in module else 'kernel'
    return f'{block}/{module}/{weight if leaf == "weight" else leaf}'


def by_path(tree: Any) -> dict[str, float]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {groups.path_of(keys): leaf for keys, leaf in leaves}


def test_decay_groups_are_the_peer_s(data: dict[str, np.ndarray]) -> None:
    """Of resnet50, by default what torchvision's --norm-weight-decay=0 spares is spared, and with
    the head's bias what timm spares; all else has the whole decay."""
    params = shapes('resnet50')
    paths = [path_of(name) for name in data['resnet50_names']]
    rules = ((optimizer.NORM, 0.0), ('.*', 1.0))
    for peer, section in (
        ('torchvision', {}),
        ('timm', {'decay_groups': (('head/bias', 0.0), *rules)}),
    ):
        found = by_path(optimizer.create(256, weight_decay=0.02, **section).groups(params).decay)
        decays = data[f'resnet50_{peer}'].tolist()
        assert found == dict(zip(paths, (0.02 if decay else 0.0 for decay in decays), strict=True))
    assert len(found) == 161


def test_layer_decay_is_timm_s(data: dict[str, np.ndarray]) -> None:
    """Of resnet18, each parameter's rate is multiplied by 0.75 to the number that timm counts."""
    found = by_path(optimizer.create(256, layer_decay=0.75).groups(shapes('resnet18')).rate)
    expected = dict(zip(map(path_of, data['resnet18_names']), data['resnet18_rates'], strict=True))
    assert found == pytest.approx(expected, rel=1e-15)
    assert len(found) == 62


# Errors


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'cosine_restart'}, r"unknown schedule .*; did you mean 'cosine_restarts'\?"),
        ({'name': 'stairs'}, r"unknown schedule 'stairs'.* \(known: constant, cosine, "),
        (
            {'name': 'multi_step', 'milestones': ('6 epochs', '3 epochs')},
            r'config.schedule.milestones=.* are the steps \[42, 21\]: they must increase',
        ),
        ({'name': 'multi_step', 'milestones': ('3 epochs', '21 steps')}, r'must increase'),
        (
            {'name': 'multi_step', 'milestones': ('3 epochs', '10 epochs')},
            r'config.schedule.milestones=.* lie before the end, 70 steps from where',
        ),
        ({'name': 'piecewise', 'milestones': ('3 epochs',)}, r'config.schedule.factors=.* 1 mile'),
        ({'name': 'step', 'gamma': 0.0}, r'config.schedule.gamma=0.0: a factor in \(0, 1\]'),
        ({'name': 'exponential', 'gamma': 1.5}, r'config.schedule.gamma=1.5: '),
        ({'name': 'multi_step', 'milestones': ('3 epochs',), 'gamma': -0.1}, r'gamma=-0.1: '),
        ({'name': 'polynomial', 'power': 0.0}, r'config.schedule.power=0.0: must be positive'),
        ({'name': 'cosine_restarts', 'stretch': 0.5}, r'config.schedule.stretch=0.5: at least 1'),
        ({'name': 'cosine_restarts', 'restart_decay': 0.0}, r'config.schedule.restart_decay=0.0'),
        ({'name': 'step', 'interval': '0 steps'}, r"config.schedule.interval='0 steps' is 0 steps"),
        ({'warmup_shape': 'liner'}, r"config.schedule.warmup_shape 'liner'; did you mean 'linear'"),
    ],
)
def test_a_shape_that_cannot_be_is_an_error(section: dict[str, Any], message: str) -> None:
    """The fields of each shape are refused at their place, with what is allowed."""
    length = horizon.create_horizon('10 epochs', 8, 56)
    with pytest.raises(ValueError, match=message):
        schedule.create(0.5, length.total, length.steps, **section)


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


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'torchvision', 'decay': 1.0}, r'config.ema.decay=1.0: in \[0, 1\)'),
        ({'name': 'timm', 'decay': -0.1}, r'config.ema.decay=-0.1: '),
        ({'name': 'torchvision', 'every': 0}, r'config.ema.every=0: .* at least 1'),
        ({'name': 'tim'}, r"unknown ema 'tim'; did you mean 'timm'\?"),
    ],
)
def test_an_average_that_cannot_be_is_an_error(section: dict[str, Any], message: str) -> None:
    """Decays outside [0, 1) and intervals of no step are refused."""
    with pytest.raises(ValueError, match=message):
        ema.create(ema.Run(8, 7, 70, 0), **section)

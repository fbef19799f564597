"""Schedules have the rates of their closed forms and of the peers' schedulers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcls
from helpers import Golden, assert_within
from helpers.optim import to_steps
from jcls.config import horizon
from jcls.config.schema import plain
from jcls.optim import optimizer, schedule

TOTAL, WARMUP = 600 * 1251, 5 * 1251  # torchvision's 600 epochs of 1251 steps


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


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


def test_restarts_that_decay_below_their_end_stay_there():
    """No cycle begins below `end` and climbs: from then on the rate is level."""
    section = {'name': 'cosine_restarts', 'cycle': '10 steps', 'restart_decay': 0.5, 'end': 0.1}
    found = rates(1.0, 60, **section)
    np.testing.assert_allclose(found[[0, 10, 20, 30]], [1, 0.5, 0.25, 0.125], rtol=1e-6)
    np.testing.assert_allclose(found[40:], 0.1, rtol=1e-6)
    cycles = found.reshape(6, 10)
    assert (np.diff(cycles, axis=1) <= 1e-7).all()


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
    cases = {key.removeprefix('recipe_'): table for key, table in data.items() if 'recipe_' in key}
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


# Errors


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

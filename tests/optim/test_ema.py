"""Averages of weights are those of torchvision's reference and of timm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import Golden, assert_within
from jcls.optim import ema


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


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
